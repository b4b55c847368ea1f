// SPDX-License-Identifier: Apache-2.0
// A row's embedding and position, by one block of threads.
#pragma once

#include "cuda/device/common.h"
#include "cuda/device/kernels.h"

namespace edge::cuda {

template <class W>
__device__ inline void embed_row(const EmbedArgs& a, int row, int32_t id) {
  const int64_t position = a.state->keys + row + a.position_offset;
  const int64_t at = static_cast<int64_t>(id) * a.embed.padded;
  for (int c = static_cast<int>(threadIdx.x); c < a.hidden; c += static_cast<int>(blockDim.x)) {
    float scale = 1.0f;
    if (W::kVec == kGroup4)
      scale = __half2float(static_cast<const __half*>(a.embed.scale)[(at + c) / kGroup4]) / 128.0f;
    else if (a.embed.scale)
      scale = static_cast<const float*>(a.embed.scale)[id];
    a.x[static_cast<int64_t>(row) * a.hidden + c] =
        a.positions[position * a.hidden + c] + W::get(a.embed.data, at + c) * scale;
  }
}

}  // namespace edge::cuda
