// SPDX-License-Identifier: Apache-2.0
// Statistics of one block of raw logits by one warp: penalty, suppression, log-sum-exp and arg-max in one go.
#pragma once

#include "cuda/device/common.h"
#include "cuda/device/kernels.h"

namespace edge::cuda {

// The better of two candidates; equal scores: the lower id.
__device__ inline void keep_better(float& best, int32_t& id, float other, int32_t other_id) {
  if (other > best || (other == best && other_id < id)) {
    best = other;
    id = other_id;
  }
}

__device__ inline void warp_best(float& best, int32_t& id) {
#pragma unroll
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    const float other = __shfl_xor_sync(kAllLanes, best, distance);
    const int32_t other_id = __shfl_xor_sync(kAllLanes, id, distance);
    keep_better(best, id, other, other_id);
  }
}

// `row` of the pass counts the drafts before it as generated.
__device__ inline BlockStats block_stats(const float* logits, int n, int first, const uint8_t* flags,
                                         float penalty, int row) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const float never = -__uint_as_float(0x7f800000u);
  float top = never, best = never;
  int32_t id = first;
  for (int j = lane; j < n; j += kWarp) {
    const float x = logits[j];
    const uint8_t flag = flags[first + j];
    float score = x;
    const int drafted = flag >> kDraftShift;
    if (flag & kGenerated || (drafted > 0 && drafted <= row)) score = x < 0.0f ? x * penalty : x / penalty;
    if (flag & kSuppressed) score = never;
    top = fmaxf(top, x);
    keep_better(best, id, score, first + j);
  }
  top = warp_max(top);
  warp_best(best, id);
  float sum = 0.0f;
  for (int j = lane; j < n; j += kWarp) sum += expf(logits[j] - top);
  return {top, warp_sum(sum), best, id};
}

}  // namespace edge::cuda
