// SPDX-License-Identifier: Apache-2.0
// The drafts of a pass, and which of its rows count: one block of threads, a warp per row.
#pragma once

#include "cuda/device/common.h"
#include "cuda/device/kernels.h"
#include "cuda/device/stats.h"

namespace edge::cuda {

struct Verdict {
  int32_t id;
  float logprob;
  int32_t end;  // an EdgeCudaEnd: stop, not finite, or running
};

// One warp, a lane per draft: of an id that is drafted twice the first row counts. draft(i): of row i + 1.
template <class Draft>
__device__ inline void propose_drafts(const ProposeArgs& a, Draft draft) {
  const int row = static_cast<int>(threadIdx.x);
  if (row >= kWarp) return;
  const bool drafted = row > 0 && row < a.rows;
  const int32_t id = drafted ? draft(row - 1) : -1;
  bool again = false;
#pragma unroll
  for (int other = 1; other < kMaxRows; ++other)
    again |= __shfl_sync(kAllLanes, id, other) == id && other < row;
  if (!drafted) return;
  a.state->ids[row] = id;
  if (!again) a.flags[id] |= static_cast<uint8_t>(row << kDraftShift);  // the last pass has left no row there
}

// One warp joins the blocks of a row.
__device__ inline Verdict judge(const ChooseArgs& a, int row) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const float infinity = __uint_as_float(0x7f800000u);
  const BlockStats* blocks = a.stats + static_cast<int64_t>(row) * a.blocks;
  constexpr int kHeld = 16;  // blocks of a lane that are loaded at once, and stay: 65536 logits of a warp
  BlockStats held[kHeld];
  float top = -infinity, best = -infinity;
  int32_t id = blocks[0].id;
#pragma unroll
  for (int k = 0; k < kHeld; ++k) held[k] = blocks[min(lane + k * kWarp, a.blocks - 1)];
#pragma unroll
  for (int k = 0; k < kHeld; ++k) {
    if (lane + k * kWarp >= a.blocks) continue;
    top = fmaxf(top, held[k].max);
    keep_better(best, id, held[k].best, held[k].id);
  }
#pragma unroll 1
  for (int b = lane + kHeld * kWarp; b < a.blocks; b += kWarp) {
    const BlockStats stats = blocks[b];
    top = fmaxf(top, stats.max);
    keep_better(best, id, stats.best, stats.id);
  }
  top = warp_max(top);
  warp_best(best, id);
  float sum = 0.0f;
#pragma unroll
  for (int k = 0; k < kHeld; ++k)
    if (lane + k * kWarp < a.blocks) sum += held[k].sum_exp * expf(held[k].max - top);
#pragma unroll 1
  for (int b = lane + kHeld * kWarp; b < a.blocks; b += kWarp)
    sum += blocks[b].sum_exp * expf(blocks[b].max - top);
  sum = warp_sum(sum);
  bool stopped = false;
  for (int s = lane; s < a.state->stops; s += kWarp) stopped |= a.stop[s] == id;
  stopped = warp_max(stopped ? 1.0f : 0.0f) > 0.0f;
  if (!(fabsf(top) < infinity) || !(sum < infinity)) return {id, 0.0f, EDGE_CUDA_NOT_FINITE};
  const float logprob = a.logits[static_cast<int64_t>(row) * a.vocab + id] - top - logf(sum);
  return {id, logprob, stopped ? EDGE_CUDA_STOP : EDGE_CUDA_RUNNING};
}

// A token for the host, in one store.
__device__ inline void tell(Word* to, Told told, int32_t id, float logprob) {
  *static_cast<volatile Word*>(to) = static_cast<Word>(told) << kToldShift |
                                     static_cast<Word>(static_cast<uint32_t>(id)) << 32 |
                                     __float_as_uint(logprob);
}

// Writes the chosen tokens down and decides whether the text goes on. Uses kMaxRows verdicts of shared
// memory.
__device__ inline void choose_rows(const ChooseArgs& a) {
  Verdict* verdicts = reinterpret_cast<Verdict*>(edge_shared);
  const int warps = static_cast<int>(blockDim.x) / kWarp, thread = static_cast<int>(threadIdx.x);
  for (int r = thread / kWarp; r < a.rows; r += warps) {
    const Verdict verdict = judge(a, r);
    if (thread % kWarp == 0) verdicts[r] = verdict;
  }
  __syncthreads();
  if (thread != 0) return;

  State& state = *a.state;
  int32_t end = EDGE_CUDA_RUNNING, count = state.count, id = state.ids[0], keys = state.keys;
  for (int r = 0; r < a.rows; ++r) {
    keys += a.advance;
    end = verdicts[r].end;
    if (end != EDGE_CUDA_RUNNING) {
      tell(a.tokens + count, end == EDGE_CUDA_STOP ? Told::stop : Told::not_finite, 0, 0.0f);
      break;
    }
    id = verdicts[r].id;
    const int at = count++;
    if (count >= state.max_new || keys >= state.limit) end = EDGE_CUDA_LENGTH;
    const bool more = end == EDGE_CUDA_RUNNING && r + 1 < a.rows && state.ids[r + 1] == id;
    tell(a.tokens + at, end ? Told::last : more ? Told::more : Told::token, id, verdicts[r].logprob);
    a.flags[id] |= kGenerated;
    if (!more) break;
  }
  for (int r = 1; r < a.rows; ++r) a.flags[state.ids[r]] &= kGenerated | kSuppressed;
  state.keys = keys;
  state.ids[0] = id;
  state.count = count;
  state.end = end;
}

}  // namespace edge::cuda
