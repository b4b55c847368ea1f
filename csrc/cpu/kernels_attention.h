// SPDX-License-Identifier: Apache-2.0
// Attention of a few queries over one block of cached keys, and the join of the blocks.
#pragma once

#include <float.h>
#include <stdint.h>

#include "cpu/kernels.h"
#include "cpu/kernels_tile.h"

namespace edge {
namespace {

constexpr int kGroupVecs = static_cast<int>(kKeyGroup) / kLanes;
// Sums of a tile.
constexpr int kAttendSums = kRowTile > 4 ? 16 : 8;

// Dot products of ROWS queries with GROUPS groups of kKeyGroup keys; each sum runs over d in order. As many
// bytes as the keys have are fetched from `ahead` on, unless it is null.
template <class T, int ROWS, int GROUPS>
inline void score_tile(const float* q, int64_t q_stride, const T* k, int64_t head_dim, const char* ahead,
                       float* scores) {
  Vec sum[ROWS][GROUPS][kGroupVecs];
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 16
    for (int g = 0; g < GROUPS; ++g)
#pragma GCC unroll 16
      for (int c = 0; c < kGroupVecs; ++c) sum[r][g][c] = set1(0.0f);
  constexpr int kBytes = GROUPS * static_cast<int>(kKeyGroup * sizeof(T));
  for (int64_t d = 0; d < head_dim; ++d) {
    if (ahead) {
#pragma GCC unroll 16
      for (int line = 0; line < kBytes; line += kLine) fetch_line(ahead + line);
      ahead += kBytes;
    }
#pragma GCC unroll 16
    for (int g = 0; g < GROUPS; ++g)
#pragma GCC unroll 16
      for (int c = 0; c < kGroupVecs; ++c) {
        const Vec key = load(k + (g * head_dim + d) * kKeyGroup + c * kLanes);
#pragma GCC unroll 16
        for (int r = 0; r < ROWS; ++r) sum[r][g][c] = fma(set1(q[r * q_stride + d]), key, sum[r][g][c]);
      }
  }
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 16
    for (int g = 0; g < GROUPS; ++g)
#pragma GCC unroll 16
      for (int c = 0; c < kGroupVecs; ++c)
        store(scores + r * kKeyBlock + g * kKeyGroup + c * kLanes, sum[r][g][c]);
}

// Few of them: side by side they are read more slowly, which a lone row, for which the memory is the limit,
// feels most.
constexpr int groups_per_tile(int rows) {
  const int n = kAttendSums / kGroupVecs / rows, most = rows == 1 ? 2 : 4;
  return n < 1 ? 1 : n > most ? most : n;
}

template <class T, int ROWS>
inline void score_rows(const AttendArgs& a, int64_t row, int64_t groups, float* scores) {
  constexpr int kTile = groups_per_tile(ROWS);
  const float* q = a.q + row * a.q_stride;
  const T* k = static_cast<const T*>(a.k);
  const int64_t group_size = a.head_dim * kKeyGroup;
  // The block's values, which lie as the keys do, are read next.
  const T* ahead = static_cast<const T*>(a.v);
  const auto fetched = [&](int64_t g) {
    return row == 0 ? reinterpret_cast<const char*>(ahead + g * group_size) : nullptr;
  };
  int64_t g = 0;
  for (; g + kTile <= groups; g += kTile)
    score_tile<T, ROWS, kTile>(q, a.q_stride, k + g * group_size, a.head_dim, fetched(g),
                               scores + g * kKeyGroup);
  for (; g < groups; ++g)
    score_tile<T, ROWS, 1>(q, a.q_stride, k + g * group_size, a.head_dim, fetched(g), scores + g * kKeyGroup);
}

// The scales behind a whole int8 block; other blocks have none.
template <class T>
inline const float* block_scales(const void* block, int64_t head_dim) {
  if constexpr (sizeof(T) == 1)
    return reinterpret_cast<const float*>(static_cast<const T*>(block) + kKeyBlock * head_dim);
  return nullptr;
}

// The scales of an int8 block are read between its keys and its values.
template <class T>
inline void fetch_scales(const AttendArgs& a, int64_t row) {
  if constexpr (sizeof(T) == 1)
    for (int64_t j = 0; row == 0 && j < kKeyBlock; j += kLine / 4) {
      __builtin_prefetch(block_scales<T>(a.k, a.head_dim) + j);
      __builtin_prefetch(block_scales<T>(a.v, a.head_dim) + j);
    }
}

// Turns the scores of one row into p = exp(score - max), in place, zero beyond `count`. `key_scale`: one
// factor per key, or null.
inline void softmax_part(float* scores, const float* key_scale, const float* bias, float scale, int64_t count,
                         float* m_out, float* l_out) {
  const Vec s = set1(scale), lowest = set1(-FLT_MAX);
  const int64_t padded = (count + kKeyGroup - 1) / kKeyGroup * kKeyGroup;
  for (int64_t j = 0; j < padded; j += kLanes) {
    Vec v = mul(load(scores + j), key_scale ? mul(s, load(key_scale + j)) : s);
    if (bias) v = add(v, load(bias + j));
    // A hidden key's bias is the lowest finite number: keep the sum finite, or max - score would be NaN.
    store(scores + j, max(lowest, v));  // in this order NaN stays NaN
  }
  for (int64_t j = count; j < padded; ++j) scores[j] = -FLT_MAX;
  Vec top = load(scores);
  for (int64_t j = kLanes; j < padded; j += kLanes) top = max(top, load(scores + j));
  const float m = hmax(top);
  const Vec shift = set1(m);
  for (int64_t j = 0; j < padded; j += kLanes) store(scores + j, exp_vec(sub(load(scores + j), shift)));
  // Where every key of the block is hidden the padding would count as much as they do.
  for (int64_t j = count; j < padded; ++j) scores[j] = 0.0f;
  Vec sum = set1(0.0f);
  for (int64_t j = 0; j < padded; j += kLanes) sum = add(sum, load(scores + j));
  *m_out = m;
  *l_out = hsum(sum);
}

// Keys of a block that rows see.
struct Seen {
  int64_t all, any;  // every one of them, the one that sees most
};

// acc[r][d .. d + VECS * kLanes) = sum_j p[r][j] v[j][d ..], j in order. The first walk over the values
// fetches the keys that are read next. A row adds only what it sees: 0 * v is no zero where v is not finite,
// as the values of a wrong draft may be.
template <class T, int ROWS, int VECS>
inline void value_tile(const AttendArgs& a, int64_t row, const Seen& seen, int64_t d, const float* p) {
  const T* v = static_cast<const T*>(a.v) + d;
  const char* ahead = row == 0 && d == 0 ? static_cast<const char*>(a.next) : nullptr;
  const int64_t row_bytes = a.head_dim * static_cast<int64_t>(sizeof(T));
  const auto fetch = [&] {
    if (!ahead) return;
    for (int64_t line = 0; line < row_bytes; line += kLine) fetch_line(ahead + line);
    ahead += row_bytes;
  };
  Vec sum[ROWS][VECS];
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 16
    for (int c = 0; c < VECS; ++c) sum[r][c] = set1(0.0f);
  for (int64_t j = 0; j < seen.all; ++j) {
    fetch();
    Vec weight[ROWS];
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) weight[r] = set1(p[r * kKeyBlock + j]);
#pragma GCC unroll 16
    for (int c = 0; c < VECS; ++c) {
      const Vec value = load(v + j * a.head_dim + c * kLanes);
#pragma GCC unroll 16
      for (int r = 0; r < ROWS; ++r) sum[r][c] = fma(weight[r], value, sum[r][c]);
    }
  }
  // Of a pass's own rows each sees one key more than the one before it.
  for (int64_t j = seen.all; j < seen.any; ++j) {
    fetch();
    Vec value[VECS];
#pragma GCC unroll 16
    for (int c = 0; c < VECS; ++c) value[c] = load(v + j * a.head_dim + c * kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) {
      if (j >= a.counts[row + r]) continue;
#pragma GCC unroll 16
      for (int c = 0; c < VECS; ++c) sum[r][c] = fma(set1(p[r * kKeyBlock + j]), value[c], sum[r][c]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 16
    for (int c = 0; c < VECS; ++c) store(a.acc + (row + r) * a.acc_stride + d + c * kLanes, sum[r][c]);
}

// In vectors: several sums at a time, so that none waits for itself, but no more columns than most heads
// have, of which it is a part.
constexpr int columns_per_tile(int rows) {
  int n = 64 / kLanes;
  while (n > 1 && n * rows > kAttendSums) n /= 2;
  return n;
}

template <class T, int ROWS>
inline void value_rows(const AttendArgs& a, int64_t row, const Seen& seen, const float* p) {
  constexpr int kVecs = columns_per_tile(ROWS);
  int64_t d = 0;
  for (; d + kVecs * kLanes <= a.head_dim; d += kVecs * kLanes)
    value_tile<T, ROWS, kVecs>(a, row, seen, d, p);
  for (; d + kLanes <= a.head_dim; d += kLanes) value_tile<T, ROWS, 1>(a, row, seen, d, p);
  if (d == a.head_dim) return;
  const T* v = static_cast<const T*>(a.v) + d;
  const int64_t rest = a.head_dim - d;
  for (int r = 0; r < ROWS; ++r) {
    Vec sum = set1(0.0f);
    for (int64_t j = 0; j < a.counts[row + r]; ++j)
      sum = fma(set1(p[r * kKeyBlock + j]), load_part(v + j * a.head_dim, rest), sum);
    store_part(a.acc + (row + r) * a.acc_stride + d, sum, rest);
  }
}

template <class T, int ROWS>
inline void attend_rows(const AttendArgs& a, int64_t row) {
  alignas(64) float p[ROWS * kKeyBlock];
  fetch_scales<T>(a, row);
  Seen seen{a.counts[row], a.counts[row]};
  for (int r = 1; r < ROWS; ++r) {
    const int64_t own = a.counts[row + r];
    seen = {own < seen.all ? own : seen.all, own > seen.any ? own : seen.any};
  }
  if (seen.any > 0) score_rows<T, ROWS>(a, row, (seen.any + kKeyGroup - 1) / kKeyGroup, p);
  for (int r = 0; r < ROWS; ++r) {
    const int64_t stat = (row + r) * a.stat_stride, own = a.counts[row + r];
    float* scores = p + r * kKeyBlock;
    if (own > 0) {
      softmax_part(scores, block_scales<T>(a.k, a.head_dim), a.bias[row + r], a.scale, own, a.m + stat,
                   a.l + stat);
    } else {
      a.m[stat] = -FLT_MAX;
      a.l[stat] = 0.0f;
    }
    const int64_t padded = own > 0 ? (own + kKeyGroup - 1) / kKeyGroup * kKeyGroup : 0;
    for (int64_t j = padded; j < kKeyBlock; ++j) scores[j] = 0.0f;
    if (a.p)
      for (int64_t j = 0; j < kKeyBlock; ++j) a.p[(row + r) * a.p_stride + j] = scores[j];
    if (const float* value_scale = block_scales<T>(a.v, a.head_dim))
      for (int64_t j = 0; j < padded; j += kLanes)
        store(scores + j, mul(load(scores + j), load(value_scale + j)));
  }
  value_rows<T, ROWS>(a, row, seen, p);
}

// As many rows at once as there are and the registers hold: a key or value is widened once for them. With few
// registers three rows would keep fewer sums going than two and one.
template <class T, int ROWS>
inline void attend_from(const AttendArgs& a, int64_t row) {
  for (; row + ROWS <= a.rows; row += ROWS) attend_rows<T, ROWS>(a, row);
  if constexpr (ROWS > 1) attend_from<T, kRowTile <= 4 ? ROWS / 2 : ROWS - 1>(a, row);
}

template <class T>
void attend(const AttendArgs& a) {
  attend_from<T, kRowTile>(a, 0);
}

void attend_join_row(const float* m, const float* l, const float* acc, int64_t blocks, int64_t head_dim,
                     float* factors, float* out) {
  const float top = max_row(m, blocks);
  for (int64_t b = 0; b < blocks; ++b) factors[b] = m[b] - top;
  exp_row(factors, blocks);
  float total = 0.0f;
  for (int64_t b = 0; b < blocks; ++b) total += factors[b] * l[b];
  for (int64_t b = 0; b < blocks; ++b) factors[b] /= total;
  int64_t d = 0;
  for (; d + kLanes <= head_dim; d += kLanes) {
    Vec sum = set1(0.0f);
    for (int64_t b = 0; b < blocks; ++b) sum = fma(set1(factors[b]), load(acc + b * head_dim + d), sum);
    store(out + d, sum);
  }
  for (; d < head_dim; ++d) {
    float sum = 0.0f;
    for (int64_t b = 0; b < blocks; ++b) sum += factors[b] * acc[b * head_dim + d];
    out[d] = sum;
  }
}

}  // namespace
}  // namespace edge
