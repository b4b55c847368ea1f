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

// Of a lane's ids of a block, loaded ahead of their logits.
struct BlockFlags {
  uint8_t of[kVocabBlock / kWarp];
};

__device__ inline BlockFlags block_flags(const uint8_t* flags, int n, int first) {
  BlockFlags held{};
#pragma unroll
  for (int k = 0; k < kVocabBlock / kWarp; ++k) {
    const int j = static_cast<int>(threadIdx.x) % kWarp + k * kWarp;
    if (j < n) held.of[k] = __ldcg(flags + first + j);
  }
  return held;
}

// `row` of the pass counts the drafts before it as generated.
__device__ inline BlockStats block_stats(const float* logits, int n, int first, const BlockFlags& flags,
                                         float penalty, int row) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const float never = -__uint_as_float(0x7f800000u);
  float top = never, best = never;
  int32_t id = first;
#pragma unroll
  for (int k = 0; k < kVocabBlock / kWarp; ++k) {
    const int j = lane + k * kWarp;
    if (j >= n) continue;
    const float x = logits[j];
    const uint8_t flag = flags.of[k];
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
#pragma unroll
  for (int k = 0; k < kVocabBlock / kWarp; ++k)
    if (lane + k * kWarp < n) sum += expf(logits[lane + k * kWarp] - top);
  return {top, warp_sum(sum), best, id};
}

}  // namespace edge::cuda
