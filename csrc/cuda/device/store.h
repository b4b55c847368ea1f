// SPDX-License-Identifier: Apache-2.0
// Writing one row of keys or values into the cache, by one warp.
#pragma once

#include "cuda/device/common.h"

namespace edge::cuda {

// Row `at` of a cache array of `stride` columns; those beyond head_dim are zero from the start and stay so.
// In i8 a row has its own scale, its largest magnitude / 127.
template <class C>
__device__ inline void store_row(const float* from, void* base, float* scales, int64_t at, int head_dim,
                                 int stride, int lane) {
  if constexpr (C::kVec == I8::kVec) {
    float top = 0.0f;
    for (int d = lane; d < head_dim; d += kWarp) top = fmaxf(top, fabsf(from[d]));
    top = warp_max(top);
    const float scale = top / 127.0f, inverse = top > 0.0f ? 127.0f / top : 0.0f;
    for (int d = lane; d < head_dim; d += kWarp) {
      const float q = fminf(fmaxf(rintf(from[d] * inverse), -127.0f), 127.0f);
      static_cast<int8_t*>(base)[at * stride + d] = static_cast<int8_t>(q);
    }
    if (lane == 0) scales[at] = scale;
  } else {
    for (int d = lane; d < head_dim; d += kWarp) C::put(base, at * stride + d, from[d]);
  }
}

}  // namespace edge::cuda
