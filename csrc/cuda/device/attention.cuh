// SPDX-License-Identifier: Apache-2.0
// Attention of a step's rows over the cache, split over blocks of keys, with the per-key bias.
#pragma once

#include "cuda/device/common.h"
#include "cuda/device/kernels.h"
#include "cuda/device/store.h"

namespace edge::cuda {
namespace {

constexpr int kAttendThreads = 256;
constexpr int kAttendWarps = kAttendThreads / kWarp;
constexpr int kLanesPerKey = 8;
constexpr int kKeysAtOnce = kWarp / kLanesPerKey;

template <class C>
__device__ inline const unsigned char* row_at(const void* base, int64_t row, int stride) {
  return static_cast<const unsigned char*>(base) + row * (stride / C::kVec) * 16;
}

// The new rows whose keys lie in this block of keys go into the cache.
template <class C>
__device__ inline void store_new(const AttendArgs& a, int head, int first) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp, hidden = a.heads * a.head_dim;
  for (int task = static_cast<int>(threadIdx.x) / kWarp; task < 2 * a.rows; task += kAttendWarps) {
    const int row = task / 2, value = task % 2, key = a.state->keys + row;
    if (key < first || key >= first + kKeyBlock) continue;
    const float* from =
        a.qkv + static_cast<int64_t>(row) * 3 * hidden + (1 + value) * hidden + head * a.head_dim;
    const int64_t at = static_cast<int64_t>(head) * a.capacity + key;
    store_row<C>(from, value ? a.cache.values : a.cache.keys,
                 value ? a.cache.value_scales : a.cache.key_scales, at, a.head_dim, a.stride, lane);
  }
}

// Words of keys, or of values, that a lane has on their way at once.
constexpr int kTurns = kKeyBlock / kAttendWarps / kKeysAtOnce;

// The key of a lane's turn: eight lanes share one, a warp has kKeysAtOnce of them at once.
__device__ inline int key_of(int turn) {
  const int thread = static_cast<int>(threadIdx.x);
  return thread / kWarp * (kKeyBlock / kAttendWarps) + turn * kKeysAtOnce + thread % kWarp / kLanesPerKey;
}

// Word v of the lane's keys, as far as they are among the first `count` of the block.
template <class C>
__device__ inline void fetch_keys(const AttendArgs& a, int head, int first, int count, int v,
                                  uint4 (&words)[kTurns]) {
#pragma unroll
  for (int t = 0; t < kTurns; ++t) {
    const int64_t at = static_cast<int64_t>(head) * a.capacity + first + key_of(t);
    if (key_of(t) < count && v < a.stride / C::kVec)
      words[t] = reinterpret_cast<const uint4*>(row_at<C>(a.cache.keys, at, a.stride))[v];
  }
}

// scores[r][j] = q[r] . k[j] for the first `count` keys of the block; `words` are those of the first turn.
template <class C, int ROWS>
__device__ inline void score(const AttendArgs& a, int head, int first, int count, const float* q,
                             uint4 (&words)[kTurns], float* scores) {
  const int sub = static_cast<int>(threadIdx.x) % kLanesPerKey, vectors = a.stride / C::kVec;
  float sums[kTurns][ROWS];
#pragma unroll
  for (int t = 0; t < kTurns; ++t)
#pragma unroll
    for (int r = 0; r < ROWS; ++r) sums[t][r] = 0.0f;
#pragma unroll 1
  for (int v = sub; v < vectors; v += kLanesPerKey) {
    if (v != sub) fetch_keys<C>(a, head, first, count, v, words);
#pragma unroll
    for (int t = 0; t < kTurns; ++t) {
      if (key_of(t) >= count) continue;
      float k[C::kVec];
      C::unpack(words[t], k);
#pragma unroll
      for (int r = 0; r < ROWS; ++r)
#pragma unroll
        for (int e = 0; e < C::kVec; ++e)
          sums[t][r] = fmaf(q[r * a.stride + v * C::kVec + e], k[e], sums[t][r]);
    }
  }
#pragma unroll
  for (int t = 0; t < kTurns; ++t) {
    const int j = key_of(t);
    const int64_t at = static_cast<int64_t>(head) * a.capacity + first + j;
    const float scale = a.cache.key_scales && j < count ? a.cache.key_scales[at] : 1.0f;
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
#pragma unroll
      for (int distance = kLanesPerKey / 2; distance > 0; distance /= 2)
        sums[t][r] += __shfl_xor_sync(kAllLanes, sums[t][r], distance);
      if (sub == 0) scores[r * kKeyBlock + j] = sums[t][r] * scale;
    }
  }
}

// One warp: the scores of a row become exp(score - max), zero from `count` on.
__device__ inline void soften(const AttendArgs& a, int head, int block, int row, int count, float* scores) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const float* bias = a.state->bias ? a.bias + block * kKeyBlock : nullptr;
  float top = kLowest;
  for (int j = lane; j < count; j += kWarp) {
    float s = scores[j] * a.scale;
    if (bias) s += bias[j];
    // A hidden key's bias is the lowest finite number: the sum must stay finite, or max - score would be NaN.
    // Not fmaxf, which would drop a NaN instead of handing it on.
    s = s < kLowest ? kLowest : s;
    scores[j] = s;
    top = s > top ? s : top;
  }
  top = warp_max(top);
  float sum = 0.0f;
  float* mass = a.mass
                    ? a.mass + (static_cast<int64_t>(row) * a.heads + head) * a.capacity + block * kKeyBlock
                    : nullptr;
  for (int j = lane; j < kKeyBlock; j += kWarp) {
    const float p = j < count ? expf(scores[j] - top) : 0.0f;
    scores[j] = p;
    sum += p;
    if (mass) mass[j] = p;
  }
  sum = warp_sum(sum);
  if (lane != 0) return;
  const int64_t at = (static_cast<int64_t>(row) * a.heads + head) * a.max_blocks + block;
  a.max[at] = top;
  a.sum[at] = sum;
}

// The values of keys j, j + n and so on, n being the number of slices, as far as they are below `count`.
template <class C>
__device__ inline void fetch_values(const AttendArgs& a, int head, int first, int count, int j,
                                    uint4 (&words)[kTurns]) {
  const int thread = static_cast<int>(threadIdx.x), vectors = a.stride / C::kVec,
            n = kAttendThreads / vectors;
#pragma unroll
  for (int t = 0; t < kTurns; ++t) {
    const int64_t at = static_cast<int64_t>(head) * a.capacity + first + j + t * n;
    if (j + t * n < count)
      words[t] = reinterpret_cast<const uint4*>(row_at<C>(a.cache.values, at, a.stride))[thread % vectors];
  }
}

// partial[r] = sum_j p[r][j] v[j]: slices of threads take every n-th key, then the slices are added in order.
// `words` are the values of the first turns.
template <class C, int ROWS>
__device__ inline void weigh(const AttendArgs& a, int head, int block, int row, int count,
                             const float* scores, uint4 (&words)[kTurns], float* slices) {
  const int thread = static_cast<int>(threadIdx.x), vectors = a.stride / C::kVec,
            n = kAttendThreads / vectors;
  const int v = thread % vectors, slice = thread / vectors;
  if (slice < n) {
    float sums[ROWS][C::kVec];
#pragma unroll
    for (int r = 0; r < ROWS; ++r)
#pragma unroll
      for (int e = 0; e < C::kVec; ++e) sums[r][e] = 0.0f;
#pragma unroll 1
    for (int begin = slice; begin < count; begin += kTurns * n) {
      if (begin != slice) fetch_values<C>(a, head, block * kKeyBlock, count, begin, words);
#pragma unroll
      for (int t = 0; t < kTurns; ++t) {
        const int j = begin + t * n;
        if (j >= count) continue;
        float value[C::kVec];
        C::unpack(words[t], value);
        const int64_t at = static_cast<int64_t>(head) * a.capacity + block * kKeyBlock + j;
        const float scale = a.cache.value_scales ? a.cache.value_scales[at] : 1.0f;
#pragma unroll
        for (int r = 0; r < ROWS; ++r) {
          const float p = scores[r * kKeyBlock + j] * scale;
#pragma unroll
          for (int e = 0; e < C::kVec; ++e) sums[r][e] = fmaf(p, value[e], sums[r][e]);
        }
      }
    }
#pragma unroll
    for (int r = 0; r < ROWS; ++r)
#pragma unroll
      for (int e = 0; e < C::kVec; ++e) slices[(slice * ROWS + r) * a.stride + v * C::kVec + e] = sums[r][e];
  }
  __syncthreads();
  for (int i = thread; i < ROWS * a.head_dim; i += kAttendThreads) {
    const int r = i / a.head_dim, d = i % a.head_dim;
    if (row + r >= a.rows) continue;
    float sum = 0.0f;
    for (int s = 0; s < n; ++s) sum += slices[(s * ROWS + r) * a.stride + d];
    a.partial[((static_cast<int64_t>(row + r) * a.heads + head) * a.max_blocks + block) * a.head_dim + d] =
        sum;
  }
}

// The block that finishes last joins all blocks of its head.
__device__ inline void join(const AttendArgs& a, int head, int blocks) {
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp;
  for (int r = thread / kWarp; r < a.rows; r += kAttendWarps) {
    const int64_t at = (static_cast<int64_t>(r) * a.heads + head) * a.max_blocks;
    // A lane's first block stays in registers: there are seldom more.
    const float own_max = lane < blocks ? __ldcg(a.max + at + lane) : kLowest;
    const float own_sum = lane < blocks ? __ldcg(a.sum + at + lane) : 0.0f;
    float top = own_max;
    for (int b = lane + kWarp; b < blocks; b += kWarp) top = fmaxf(top, __ldcg(a.max + at + b));
    top = warp_max(top);
    const float own = expf(own_max - top);
    float total = own * own_sum;
    for (int b = lane + kWarp; b < blocks; b += kWarp)
      total = fmaf(expf(__ldcg(a.max + at + b) - top), __ldcg(a.sum + at + b), total);
    total = warp_sum(total);
    if (lane < blocks) a.factors[at + lane] = own / total;
    for (int b = lane + kWarp; b < blocks; b += kWarp)
      a.factors[at + b] = expf(__ldcg(a.max + at + b) - top) / total;
  }
  __syncthreads();
  for (int i = thread; i < a.rows * a.head_dim; i += kAttendThreads) {
    const int r = i / a.head_dim, d = i % a.head_dim;
    const int64_t at = (static_cast<int64_t>(r) * a.heads + head) * a.max_blocks;
    constexpr int kBatch = 12;  // parts on their way at once
    float sum = 0.0f;
#pragma unroll 1
    for (int begin = 0; begin < blocks; begin += kBatch) {
      float part[kBatch];
#pragma unroll
      for (int k = 0; k < kBatch; ++k)
        part[k] = begin + k < blocks ? __ldcg(a.partial + (at + begin + k) * a.head_dim + d) : 0.0f;
#pragma unroll
      for (int k = 0; k < kBatch; ++k)
        if (begin + k < blocks) sum = fmaf(a.factors[at + begin + k], part[k], sum);
    }
    a.out[static_cast<int64_t>(r) * a.heads * a.head_dim + head * a.head_dim + d] = sum;
  }
}

template <class C, int ROWS>
__device__ inline void attend_block(const AttendArgs& a, int head, int block) {
  const int thread = static_cast<int>(threadIdx.x), first = block * kKeyBlock;
  const int keys = a.state->keys, blocks = (keys + a.rows + kKeyBlock - 1) / kKeyBlock;
  if (block >= blocks) return;                       // a replayed graph has blocks for the keys to come
  float* q = reinterpret_cast<float*>(edge_shared);  // [ROWS][stride]
  float* scores = q + ROWS * a.stride;               // [ROWS][kKeyBlock]
  float* slices = scores + ROWS * kKeyBlock;         // [slices][ROWS][stride]
  store_new<C>(a, head, first);
  for (int row = 0; row < a.rows; row += ROWS) {
    __syncthreads();
    const int count = min(max(keys + min(row + ROWS, a.rows) - first, 0), kKeyBlock);
    // Keys and values depend on nothing here: both come while the queries are made ready.
    uint4 key_words[kTurns], value_words[kTurns];
    fetch_keys<C>(a, head, first, count, thread % kLanesPerKey, key_words);
    fetch_values<C>(a, head, first, count, thread / (a.stride / C::kVec), value_words);
    for (int i = thread; i < ROWS * a.stride; i += kAttendThreads) {
      const int r = row + i / a.stride, d = i % a.stride;
      q[i] = r < a.rows && d < a.head_dim
                 ? __ldcg(a.qkv + static_cast<int64_t>(r) * 3 * a.heads * a.head_dim + head * a.head_dim + d)
                 : 0.0f;
    }
    __syncthreads();
    score<C, ROWS>(a, head, first, count, q, key_words, scores);
    __syncthreads();
    for (int r = thread / kWarp; r < ROWS; r += kAttendWarps) {
      if (row + r < a.rows)
        soften(a, head, block, row + r, min(max(keys + row + r + 1 - first, 0), kKeyBlock),
               scores + r * kKeyBlock);
      else
        for (int j = thread % kWarp; j < kKeyBlock; j += kWarp) scores[r * kKeyBlock + j] = 0.0f;
    }
    __syncthreads();
    weigh<C, ROWS>(a, head, block, row, count, scores, value_words, slices);
  }
  __threadfence();
  __syncthreads();
  uint32_t* last = reinterpret_cast<uint32_t*>(edge_shared);
  if (thread == 0) {
    *last = atomicAdd(a.arrived + head, 1u) == static_cast<uint32_t>(blocks - 1);
    if (*last) a.arrived[head] = 0;
  }
  __syncthreads();
  if (!*last) return;
  __threadfence();
  join(a, head, blocks);
}

// Evidence of the prefix keys from 256 * unit on.
__device__ inline void evidence_unit(const EvidenceArgs& a, int unit) {
  const int j = unit * kAttendThreads + static_cast<int>(threadIdx.x);
  if (j >= a.prefix) return;
  for (int r = a.from; r < a.rows; ++r) {
    float* out = a.out + static_cast<int64_t>(a.state->count + r - a.from) * a.prefix + j;
    float sum = a.first ? 0.0f : *out;
    for (int h = 0; h < a.heads; ++h) {
      const int64_t at = static_cast<int64_t>(r) * a.heads + h;
      sum = fmaf(__ldcg(a.mass + at * a.capacity + j),
                 __ldcg(a.factors + at * a.max_blocks + j / kKeyBlock) * a.mean, sum);
    }
    *out = sum;
  }
}

template <class C, int ROWS>
constexpr size_t attend_shared(int stride) {
  return sizeof(float) * static_cast<size_t>(ROWS * (stride + kKeyBlock + kAttendThreads * C::kVec));
}

}  // namespace
}  // namespace edge::cuda
