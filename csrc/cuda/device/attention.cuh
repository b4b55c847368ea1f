// SPDX-License-Identifier: Apache-2.0
// Attention of a step's rows over the cache, split over blocks of keys, with the per-key bias.
#pragma once

#include "cuda/device/common.h"
#include "cuda/device/kernels.h"
#include "cuda/device/order.cuh"
#include "cuda/device/store.h"

namespace edge::cuda {
namespace {

constexpr int kAttendThreads = 256;
constexpr int kAttendWarps = kAttendThreads / kWarp;
// Lanes that share a key: in int8 a head of 64 has but four words.
template <class C>
constexpr int kLanesPerKey = C::kVec == I8::kVec ? 4 : 8;
template <class C>
constexpr int kKeysAtOnce = kWarp / kLanesPerKey<C>;

// Which of PARTS parts of `size` each holds number i, which is not negative: 0 where there is but one, as a
// division takes as long as a load.
template <int PARTS>
__device__ inline int part_of(int i, int size) {
  return PARTS == 1 ? 0 : static_cast<int>(static_cast<unsigned>(i) / static_cast<unsigned>(size));
}

// Words of keys, and of values, that a lane has on their way at once.
template <class C>
constexpr int kKeyTurns = kKeyBlock / kAttendWarps / kKeysAtOnce<C>;
constexpr int kValueTurns = 4;

// What a thread reads of a block of keys before it computes anything; zero at first, as Ahead in matmul.cuh.
template <class C>
struct Held {
  uint4 key[kKeyTurns<C>], value[kValueTurns];
  float key_scale[kKeyTurns<C>], value_scale[kValueTurns];  // 1 but in int8
  float bias[kKeyBlock / kWarp];                            // of keys lane, lane + kWarp and so on
};

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

// The key of a lane's turn: a few lanes share one, a warp has kKeysAtOnce of them at once.
template <class C>
__device__ inline int key_of(int turn) {
  const int thread = static_cast<int>(threadIdx.x);
  return thread / kWarp * (kKeyBlock / kAttendWarps) + turn * kKeysAtOnce<C> +
         thread % kWarp / kLanesPerKey<C>;
}

// Word v of the lane's keys, as far as they are among those from `from` to `to` of the block.
template <class C>
__device__ inline void fetch_keys(const AttendArgs& a, int head, int first, int from, int to, int v,
                                  Held<C>& held) {
#pragma unroll
  for (int t = 0; t < kKeyTurns<C>; ++t) {
    const int64_t at = static_cast<int64_t>(head) * a.capacity + first + key_of<C>(t);
    if (key_of<C>(t) < from || key_of<C>(t) >= to) continue;
    if (v < a.stride / C::kVec)
      held.key[t] = __ldcg(reinterpret_cast<const uint4*>(row_at<C>(a.cache.keys, at, a.stride)) + v);
    held.key_scale[t] = a.cache.key_scales ? __ldcg(a.cache.key_scales + at) : 1.0f;
  }
}

// The values of keys j, j + n and so on, n being the number of slices, as far as they are from `from` to
// `to`.
template <class C>
__device__ inline void fetch_values(const AttendArgs& a, int head, int first, int from, int to, int j,
                                    Held<C>& held) {
  const int thread = static_cast<int>(threadIdx.x), vectors = a.stride / C::kVec,
            n = kAttendThreads / vectors;
#pragma unroll
  for (int t = 0; t < kValueTurns; ++t) {
    const int64_t at = static_cast<int64_t>(head) * a.capacity + first + j + t * n;
    if (j + t * n < from || j + t * n >= to) continue;
    held.value[t] =
        __ldcg(reinterpret_cast<const uint4*>(row_at<C>(a.cache.values, at, a.stride)) + thread % vectors);
    held.value_scale[t] = a.cache.value_scales ? __ldcg(a.cache.value_scales + at) : 1.0f;
  }
}

// The first words of the keys and values from `from` to `to` of a block.
template <class C>
__device__ inline void fetch_block(const AttendArgs& a, int head, int first, int from, int to,
                                   Held<C>& held) {
  const int thread = static_cast<int>(threadIdx.x);
  fetch_keys<C>(a, head, first, from, to, thread % kLanesPerKey<C>, held);
  fetch_values<C>(a, head, first, from, to, thread / (a.stride / C::kVec), held);
}

// All that was there before this pass: nothing that another block of threads writes in it.
template <class C>
__device__ inline void fetch_known(const AttendArgs& a, int head, int block, Held<C>& held) {
  const int first = block * kKeyBlock;
  fetch_block<C>(a, head, first, 0, min(a.state->keys - first, kKeyBlock), held);
  const bool biased = a.state->bias != 0;
#pragma unroll
  for (int k = 0; k < kKeyBlock / kWarp; ++k)
    held.bias[k] = biased ? __ldg(a.bias + first + static_cast<int>(threadIdx.x) % kWarp + k * kWarp) : 0.0f;
}

// scores[r][j] = q[r] . k[j] for the first `count` keys of the block; held: the first words.
template <class C, int ROWS>
__device__ inline void score(const AttendArgs& a, int head, int first, int count, const float* q,
                             Held<C>& held, float* scores) {
  const int sub = static_cast<int>(threadIdx.x) % kLanesPerKey<C>, vectors = a.stride / C::kVec;
  float sums[kKeyTurns<C>][ROWS];
#pragma unroll
  for (int t = 0; t < kKeyTurns<C>; ++t)
#pragma unroll
    for (int r = 0; r < ROWS; ++r) sums[t][r] = 0.0f;
#pragma unroll 1
  for (int v = sub; v < vectors; v += kLanesPerKey<C>) {
    if (v != sub) fetch_keys<C>(a, head, first, 0, count, v, held);
#pragma unroll
    for (int t = 0; t < kKeyTurns<C>; ++t) {
      if (key_of<C>(t) >= count) continue;
      float k[C::kVec];
      C::unpack(held.key[t], k);
#pragma unroll
      for (int r = 0; r < ROWS; ++r) {
        const float4* own = reinterpret_cast<const float4*>(q + r * a.stride + v * C::kVec);
#pragma unroll
        for (int p = 0; p < C::kVec / 4; ++p) {
          const float4 four = own[p];
          float sum = sums[t][r];
          sum = fmaf(four.x, k[4 * p], sum);
          sum = fmaf(four.y, k[4 * p + 1], sum);
          sum = fmaf(four.z, k[4 * p + 2], sum);
          sums[t][r] = fmaf(four.w, k[4 * p + 3], sum);
        }
      }
    }
  }
  // All of them side by side: one after the other, each would wait for its own lanes.
#pragma unroll
  for (int distance = kLanesPerKey<C> / 2; distance > 0; distance /= 2) {
    float other[kKeyTurns<C>][ROWS];
#pragma unroll
    for (int t = 0; t < kKeyTurns<C>; ++t)
#pragma unroll
      for (int r = 0; r < ROWS; ++r) other[t][r] = __shfl_xor_sync(kAllLanes, sums[t][r], distance);
#pragma unroll
    for (int t = 0; t < kKeyTurns<C>; ++t)
#pragma unroll
      for (int r = 0; r < ROWS; ++r) sums[t][r] += other[t][r];
  }
#pragma unroll
  for (int t = 0; t < kKeyTurns<C>; ++t) {
    const int j = key_of<C>(t);
#pragma unroll
    for (int r = 0; r < ROWS; ++r)
      if (sub == 0) scores[r * kKeyBlock + j] = j < count ? sums[t][r] * held.key_scale[t] : 0.0f;
  }
}

// One warp: the scores of a row become exp(score - max), zero from `count` on.
template <class C>
__device__ inline void soften(const AttendArgs& a, int head, int block, int row, int count,
                              const Held<C>& held, float* scores) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const bool biased = a.state->bias != 0;
  constexpr int kEach = kKeyBlock / kWarp;
  float own[kEach] = {};
  float top = kLowest;
#pragma unroll
  for (int k = 0; k < kEach; ++k) {
    if (lane + k * kWarp >= count) continue;
    float s = scores[lane + k * kWarp] * a.scale;
    if (biased) s += held.bias[k];
    // A hidden key's bias is the lowest finite number: the sum must stay finite, or max - score would be NaN.
    // Not fmaxf, which would drop a NaN instead of handing it on.
    s = s < kLowest ? kLowest : s;
    own[k] = s;
    top = s > top ? s : top;
  }
  top = warp_max(top);
  float sum = 0.0f;
  float* mass = a.mass
                    ? a.mass + (static_cast<int64_t>(row) * a.heads + head) * a.capacity + block * kKeyBlock
                    : nullptr;
#pragma unroll
  for (int k = 0; k < kEach; ++k) {
    const int j = lane + k * kWarp;
    const float p = j < count ? expf(own[k] - top) : 0.0f;
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

// Floats of a slice in shared memory: further apart than they are long where that keeps banks apart.
__host__ __device__ constexpr int pitch_of(int stride) { return stride < 64 ? stride : stride + 8; }

// partial[r] = sum_j p[r][j] v[j]: slices of threads take every n-th key, then four threads add every fourth
// slice, and their sums are added. held: the values of the first turns. The first row sees the keys before
// `seen`, each after it one more, and a row adds only what it sees: 0 * v is no zero where v is not finite,
// as the values of a wrong draft may be.
template <class C, int ROWS>
__device__ inline void weigh(const AttendArgs& a, int head, int block, int row, int count, int seen,
                             const float* scores, Held<C>& held, float* slices) {
  const int thread = static_cast<int>(threadIdx.x), vectors = a.stride / C::kVec,
            n = kAttendThreads / vectors, pitch = pitch_of(a.stride);
  const int v = thread % vectors, slice = thread / vectors;
  if (slice < n) {
    float sums[ROWS][C::kVec];
#pragma unroll
    for (int r = 0; r < ROWS; ++r)
#pragma unroll
      for (int e = 0; e < C::kVec; ++e) sums[r][e] = 0.0f;
#pragma unroll 1
    for (int begin = slice; begin < count; begin += kValueTurns * n) {
      if (begin != slice) fetch_values<C>(a, head, block * kKeyBlock, 0, count, begin, held);
#pragma unroll
      for (int t = 0; t < kValueTurns; ++t) {
        const int j = begin + t * n;
        if (j >= count) continue;
        float value[C::kVec];
        C::unpack(held.value[t], value);
#pragma unroll
        for (int r = 0; r < ROWS; ++r) {
          if (ROWS > 1 && j >= seen + r) continue;
          const float p = scores[r * kKeyBlock + j] * held.value_scale[t];
#pragma unroll
          for (int e = 0; e < C::kVec; ++e) sums[r][e] = fmaf(p, value[e], sums[r][e]);
        }
      }
    }
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
      float4* to = reinterpret_cast<float4*>(slices + (r * n + slice) * pitch + v * C::kVec);
#pragma unroll
      for (int p = 0; p < C::kVec / 4; ++p)
        to[p] = {sums[r][4 * p], sums[r][4 * p + 1], sums[r][4 * p + 2], sums[r][4 * p + 3]};
    }
  }
  __syncthreads();
  constexpr int kShare = 4;
  const int outputs = ROWS * a.head_dim;
  // Whole warps, which shuffle.
  for (int i = thread; i < (outputs * kShare + kWarp - 1) / kWarp * kWarp; i += kAttendThreads) {
    const int r = part_of<ROWS>(i / kShare, a.head_dim), d = i / kShare - r * a.head_dim;
    const bool there = i < outputs * kShare;
    float sum = 0.0f;
    if (there)
      for (int s = i % kShare; s < n; s += kShare) sum += slices[(r * n + s) * pitch + d];
    sum += __shfl_xor_sync(kAllLanes, sum, 1);
    sum += __shfl_xor_sync(kAllLanes, sum, 2);
    if (there && i % kShare == 0 && row + r < a.rows)
      a.partial[((static_cast<int64_t>(row + r) * a.heads + head) * a.max_blocks + block) * a.head_dim + d] =
          sum;
  }
}

constexpr int kParts = 12;  // partial results of a sum on their way at once

__device__ inline void fetch_parts(const AttendArgs& a, int head, int blocks, int i, int begin,
                                   float (&part)[kParts]) {
  const int r = i / a.head_dim, d = i % a.head_dim;
  const int64_t at = (static_cast<int64_t>(r) * a.heads + head) * a.max_blocks;
#pragma unroll
  for (int k = 0; k < kParts; ++k)
    part[k] = r < a.rows && begin + k < blocks ? __ldcg(a.partial + (at + begin + k) * a.head_dim + d) : 0.0f;
}

// The block that finishes last joins all blocks of its head. shared: [kMaxRows][kWarp].
__device__ inline void join(const AttendArgs& a, int head, int blocks, float* shared) {
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp;
  // The first partial results come while it is made out what they count.
  float part[kParts];
  fetch_parts(a, head, blocks, thread, 0, part);
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
    shared[r * kWarp + lane] = own / total;
    if (lane < blocks) a.factors[at + lane] = own / total;
    for (int b = lane + kWarp; b < blocks; b += kWarp)
      a.factors[at + b] = expf(__ldcg(a.max + at + b) - top) / total;
  }
  __syncthreads();
  for (int i = thread; i < a.rows * a.head_dim; i += kAttendThreads) {
    const int r = i / a.head_dim, d = i % a.head_dim;
    const int64_t at = (static_cast<int64_t>(r) * a.heads + head) * a.max_blocks;
    float sum = 0.0f;
#pragma unroll 1
    for (int begin = 0; begin < blocks; begin += kParts) {
      if (i != thread || begin > 0) fetch_parts(a, head, blocks, i, begin, part);
#pragma unroll
      for (int k = 0; k < kParts; ++k) {
        const int b = begin + k;
        if (b < blocks) sum = fmaf(b < kWarp ? shared[r * kWarp + b] : a.factors[at + b], part[k], sum);
      }
    }
    a.out[static_cast<int64_t>(r) * a.heads * a.head_dim + head * a.head_dim + d] = sum;
  }
}

// held: what fetch_known has fetched of the block. joins: whether the last block of a head joins them all;
// otherwise whoever needs the result does it.
template <class C, int ROWS>
__device__ inline void attend_block(const AttendArgs& a, int head, int block, bool joins, Held<C>& held) {
  const int thread = static_cast<int>(threadIdx.x), first = block * kKeyBlock;
  const int keys = a.state->keys, blocks = (keys + a.rows + kKeyBlock - 1) / kKeyBlock;
  float* q = reinterpret_cast<float*>(edge_shared);  // [ROWS][stride]
  float* scores = q + ROWS * a.stride;               // [ROWS][kKeyBlock]
  float* slices = scores + ROWS * kKeyBlock;         // [ROWS][slices][pitch]
  for (int row = 0; row < a.rows; row += ROWS) {
    if (row > 0) __syncthreads();
    for (int i = thread; i < ROWS * a.stride; i += kAttendThreads) {
      const int of = part_of<ROWS>(i, a.stride), r = row + of, d = i - of * a.stride;
      q[i] = r < a.rows && d < a.head_dim
                 ? __ldcg(a.qkv + static_cast<int64_t>(r) * 3 * a.heads * a.head_dim + head * a.head_dim + d)
                 : 0.0f;
    }
    if (row == 0) store_new<C>(a, head, first);
    __syncthreads();
    const int count = min(max(keys + min(row + ROWS, a.rows) - first, 0), kKeyBlock);
    const int known = row == 0 ? max(keys - first, 0) : 0;  // of the words held
    if (known < count) fetch_block<C>(a, head, first, known, count, held);
    score<C, ROWS>(a, head, first, count, q, held, scores);
    __syncthreads();
    for (int r = thread / kWarp; r < ROWS; r += kAttendWarps) {
      if (row + r < a.rows)
        soften<C>(a, head, block, row + r, min(max(keys + row + r + 1 - first, 0), kKeyBlock), held,
                  scores + r * kKeyBlock);
      else
        for (int j = thread % kWarp; j < kKeyBlock; j += kWarp) scores[r * kKeyBlock + j] = 0.0f;
    }
    __syncthreads();
    weigh<C, ROWS>(a, head, block, row, count, keys + row + 1 - first, scores, held, slices);
  }
  if (!joins) return;
  __syncthreads();
  uint32_t* last = reinterpret_cast<uint32_t*>(edge_shared);
  if (thread == 0) {
    *last = add_acquire_release(a.arrived + head, 1u) == static_cast<uint32_t>(blocks - 1);
    if (*last) a.arrived[head] = 0;
  }
  __syncthreads();
  if (*last) join(a, head, blocks, q + 4);
}

// Floats of shared memory that a row's factors may take.
constexpr int kFactors = 256;

// Whether there are few enough blocks for join_all: one lane for each, and room for what they count.
__device__ inline bool join_later(const AttendArgs& a, int blocks) {
  return blocks <= kWarp && a.heads * blocks <= kFactors;
}

// All heads of all rows by one block of threads, with the bits of join: to(r, c, value) takes them. For
// evidence one block of threads `tells` what the blocks of keys count. factors: [rows][kFactors] of shared
// memory.
template <int ROWS, class To>
__device__ inline void join_all(int thread, const AttendArgs& a, int blocks, bool tells, float* factors,
                                To to) {
  constexpr int kColumns = 3, kEach = 8;  // 24 partial results on their way at once
  const int lane = thread % kWarp, hidden = a.heads * a.head_dim, all = a.rows * hidden;
  float part[kColumns][kEach];
  const auto fetch_some = [&](int begin, int first) {
#pragma unroll
    for (int k = 0; k < kColumns; ++k) {
      // Of all rows the heads follow each other.
      const int i = begin + k * kAttendThreads, h = part_of<2>(i, a.head_dim), d = i - h * a.head_dim;
      const int64_t at = static_cast<int64_t>(h) * a.max_blocks + first;
#pragma unroll
      for (int b = 0; b < kEach; ++b)
        part[k][b] = i < all && first + b < blocks ? __ldcg(a.partial + (at + b) * a.head_dim + d) : 0.0f;
    }
  };
  fetch_some(thread, 0);
  constexpr int kTasks = 2;  // of a warp side by side
#pragma unroll 1
  for (int begin = thread / kWarp; begin < a.rows * a.heads; begin += kTasks * kAttendWarps) {
    float own[kTasks], top[kTasks], total[kTasks];
#pragma unroll
    for (int k = 0; k < kTasks; ++k) {
      const int task = begin + k * kAttendWarps;
      const bool there = task < a.rows * a.heads && lane < blocks;
      const int64_t at = static_cast<int64_t>(task) * a.max_blocks + lane;
      own[k] = top[k] = there ? __ldcg(a.max + at) : kLowest;
      total[k] = there ? __ldcg(a.sum + at) : 0.0f;
    }
#pragma unroll
    for (int distance = kWarp / 2; distance > 0; distance /= 2)
#pragma unroll
      for (int k = 0; k < kTasks; ++k) top[k] = fmaxf(top[k], __shfl_xor_sync(kAllLanes, top[k], distance));
#pragma unroll
    for (int k = 0; k < kTasks; ++k) {
      own[k] = expf(own[k] - top[k]);
      total[k] = own[k] * total[k];
    }
#pragma unroll
    for (int distance = kWarp / 2; distance > 0; distance /= 2)
#pragma unroll
      for (int k = 0; k < kTasks; ++k) total[k] += __shfl_xor_sync(kAllLanes, total[k], distance);
#pragma unroll
    for (int k = 0; k < kTasks; ++k) {
      const int task = begin + k * kAttendWarps;
      if (task >= a.rows * a.heads || lane >= blocks) continue;
      const float factor = own[k] / total[k];
      factors[task / a.heads * kFactors + task % a.heads * blocks + lane] = factor;
      if (tells) a.factors[static_cast<int64_t>(task) * a.max_blocks + lane] = factor;
    }
  }
  __syncthreads();
#pragma unroll 1
  for (int begin = thread; begin < all; begin += kColumns * kAttendThreads) {
    float sum[kColumns] = {};
#pragma unroll 1
    for (int first = 0; first < blocks; first += kEach) {
      if (begin != thread || first > 0) fetch_some(begin, first);
#pragma unroll
      for (int k = 0; k < kColumns; ++k) {
        const int i = begin + k * kAttendThreads, r = part_of<ROWS>(i, hidden),
                  h = part_of<2>(i, a.head_dim) - r * a.heads;
#pragma unroll
        for (int b = 0; b < kEach; ++b)
          if (i < all && first + b < blocks)
            sum[k] = fmaf(factors[r * kFactors + h * blocks + first + b], part[k][b], sum[k]);
      }
    }
#pragma unroll
    for (int k = 0; k < kColumns; ++k) {
      const int i = begin + k * kAttendThreads, r = part_of<ROWS>(i, hidden);
      if (i < all) to(r, i - r * hidden, sum[k]);
    }
  }
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
  const int slices = kAttendThreads / (stride / C::kVec);
  return sizeof(float) * static_cast<size_t>(ROWS * (stride + kKeyBlock + slices * pitch_of(stride)));
}

// For any head: at both ends of the strides that have a pitch.
template <class C, int ROWS>
constexpr size_t most_attend_shared() {
  return attend_shared<C, ROWS>(64) > attend_shared<C, ROWS>(kMostHeadDim)
             ? attend_shared<C, ROWS>(64)
             : attend_shared<C, ROWS>(kMostHeadDim);
}

}  // namespace
}  // namespace edge::cuda
