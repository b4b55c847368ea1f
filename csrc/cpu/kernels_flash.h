// SPDX-License-Identifier: Apache-2.0
// Attention of many rows of one head over keys and values in float32, block after block of keys with a
// running maximum: nothing of a row's scores is kept. A row sees the keys up to its own.
#pragma once

#include <float.h>
#include <stdint.h>

#include "cpu/kernels.h"
#include "cpu/kernels_tile.h"

namespace edge {
namespace {

// The two products below fill all registers: inside another function the compiler would spill a sum.
#define EDGE_APART __attribute__((noinline))

// Scores of ROWS rows and one group of keys; each sum runs over d in order. The lines so many bytes behind
// the keys are fetched.
template <int ROWS>
EDGE_APART void flash_scores(const float* q, int64_t q_stride, const float* k, int64_t head_dim,
                             int64_t ahead, float* scores) {
  constexpr int kVecs = static_cast<int>(kKeyGroup) / kLanes;
  Vec sum[ROWS][kVecs];
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 16
    for (int v = 0; v < kVecs; ++v) sum[r][v] = set1(0.0f);
  for (int64_t d = 0; d < head_dim; ++d, k += kKeyGroup) {
    fetch_behind(k, ahead);
    Vec key[kVecs];
#pragma GCC unroll 16
    for (int v = 0; v < kVecs; ++v) key[v] = load(k + v * kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) {
      const Vec x = set1(q[r * q_stride + d]);
#pragma GCC unroll 16
      for (int v = 0; v < kVecs; ++v) sum[r][v] = fma(x, key[v], sum[r][v]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 16
    for (int v = 0; v < kVecs; ++v) store(scores + r * kKeyBlock + v * kLanes, sum[r][v]);
}

// What one row has gathered so far.
struct FlashRow {
  float max, sum, keep;  // keep: the factor on what was gathered before this block
};

// Scores of one block to weights in place, those of keys from `count` on to zero, up to the group's end.
inline void flash_softmax(const FlashArgs& a, int64_t block, int64_t count, float* scores, FlashRow& row) {
  const Vec scale = set1(a.scale), lowest = set1(-FLT_MAX);
  const int64_t padded = (count + kKeyGroup - 1) / kKeyGroup * kKeyGroup;
  const float* bias = a.bias ? a.bias + block * kKeyBlock : nullptr;
  for (int64_t j = 0; j < padded; j += kLanes) {
    Vec v = mul(load(scores + j), scale);
    // A hidden key's bias is the lowest finite number: keep the sum finite, or max - score would be NaN.
    if (bias) v = max(lowest, add(v, load(bias + j)));
    store(scores + j, v);
  }
  for (int64_t j = count; j < padded; ++j) scores[j] = -FLT_MAX;
  Vec top = load(scores);
  for (int64_t j = kLanes; j < padded; j += kLanes) top = max(top, load(scores + j));
  const float m = hmax(top), before = row.max;
  row.max = m > before ? m : before;
  const Vec shift = set1(row.max);
  Vec sum = set1(0.0f);
  for (int64_t j = 0; j + kLanes <= count; j += kLanes) {
    const Vec p = exp_vec(sub(load(scores + j), shift));
    sum = add(sum, p);
    store(scores + j, p);
  }
  if (const int64_t whole = count - count % kLanes; whole < count) {
    store(scores + whole, exp_vec(sub(load(scores + whole), shift)));
    // Where every key of the block is hidden the padding would count as much as they do.
    for (int64_t j = count; j < whole + kLanes; ++j) scores[j] = 0.0f;
    sum = add(sum, load(scores + whole));
  }
  for (int64_t j = (count + kLanes - 1) / kLanes * kLanes; j < padded; ++j) scores[j] = 0.0f;
  alignas(64) float keep[kLanes];
  store(keep, exp_vec(set1(before - row.max)));
  row.keep = keep[0];
  row.sum = row.sum * row.keep + hsum(sum);
}

// out = keep * out + sum_j p[j] v[j], keys in order. The lines so many bytes behind the values are fetched.
template <int ROWS, int VECS>
EDGE_APART void flash_values(const float* p, const float* v, int64_t v_stride, int64_t count, int64_t ahead,
                             const FlashRow* rows, float* out, int64_t out_stride) {
  Vec sum[ROWS][VECS];
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 16
    for (int c = 0; c < VECS; ++c)
      sum[r][c] = mul(set1(rows[r].keep), load(out + r * out_stride + c * kLanes));
  for (int64_t j = 0; j < count; ++j, v += v_stride) {
    for (int64_t i = 0; i < VECS * kLanes; i += kLine / 4) fetch_behind(v + i, ahead);
    Vec value[VECS];
#pragma GCC unroll 16
    for (int c = 0; c < VECS; ++c) value[c] = load(v + c * kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) {
      const Vec weight = set1(p[r * kKeyBlock + j]);
#pragma GCC unroll 16
      for (int c = 0; c < VECS; ++c) sum[r][c] = fma(weight, value[c], sum[r][c]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 16
    for (int c = 0; c < VECS; ++c) store(out + r * out_stride + c * kLanes, sum[r][c]);
}

// ROWS rows and one block of keys.
template <int ROWS>
inline void flash_rows(const FlashArgs& a, int64_t first, int64_t block, FlashRow* rows) {
  constexpr int kVecs = kFlashSums / ROWS < 1 ? 1 : kFlashSums / ROWS > 4 ? 4 : kFlashSums / ROWS;
  alignas(64) float p[ROWS * kKeyBlock];
  const float* q = a.q + first * a.q_stride;
  float* out = a.out + first * a.out_stride;
  const int64_t left = a.first_key + first + ROWS - block * kKeyBlock;  // keys that the last row sees
  const int64_t seen = left < kKeyBlock ? left : kKeyBlock;
  if (seen <= 0) return;
  const float* k = a.k + block * a.block_stride;
  const float* v = a.v + block * a.block_stride;
  // The block's values while it is scored, then the next block's keys.
  const int64_t to_values = bytes_between(k, v), to_next = bytes_between(v, k + a.block_stride);
  for (int64_t g = 0; g * kKeyGroup < seen; ++g)
    flash_scores<ROWS>(q, a.q_stride, k + g * kKeyGroup * a.head_dim, a.head_dim, to_values,
                       p + g * kKeyGroup);
  for (int r = 0; r < ROWS; ++r) {
    const int64_t own = left - ROWS + r + 1, count = own < 0 ? 0 : own < kKeyBlock ? own : kKeyBlock;
    rows[r].keep = 1.0f;
    if (count > 0) flash_softmax(a, block, count, p + r * kKeyBlock, rows[r]);
    for (int64_t j = (count + kKeyGroup - 1) / kKeyGroup * kKeyGroup; j < seen; ++j)
      p[r * kKeyBlock + j] = 0.0f;
  }
  int64_t d = 0;
  for (; d + kVecs * kLanes <= a.head_dim; d += kVecs * kLanes)
    flash_values<ROWS, kVecs>(p, v + d, a.head_dim, seen, to_next, rows, out + d, a.out_stride);
  for (; d + kLanes <= a.head_dim; d += kLanes)
    flash_values<ROWS, 1>(p, v + d, a.head_dim, seen, to_next, rows, out + d, a.out_stride);
  for (; d < a.head_dim; ++d)
    for (int r = 0; r < ROWS; ++r) {
      float sum = rows[r].keep * out[r * a.out_stride + d];
      for (int64_t j = 0; j < seen; ++j) sum = sum + p[r * kKeyBlock + j] * v[j * a.head_dim + d];
      out[r * a.out_stride + d] = sum;
    }
}

template <int ROWS>
inline void flash_rest(const FlashArgs& a, int64_t first, int64_t n, int64_t block, FlashRow* rows) {
  if (n == ROWS)
    flash_rows<ROWS>(a, first, block, rows);
  else if constexpr (ROWS > 1)
    flash_rest<ROWS - 1>(a, first, n, block, rows);
}

// Rows that share one block of keys and values while it is in the second cache.
constexpr int64_t kFlashShare = 48;
static_assert(kFlashShare % kFlashRows == 0);

void flash(const FlashArgs& a) {
  FlashRow rows[kFlashShare];
  for (int64_t first = 0; first < a.rows; first += kFlashShare) {
    const int64_t n = a.rows - first < kFlashShare ? a.rows - first : kFlashShare;
    for (int64_t r = 0; r < n; ++r) {
      rows[r] = {-FLT_MAX, 0.0f, 1.0f};
      for (int64_t d = 0; d < a.head_dim; ++d) a.out[(first + r) * a.out_stride + d] = 0.0f;
    }
    for (int64_t block = 0; block * kKeyBlock < a.first_key + first + n; ++block)
      for (int64_t r = 0; r < n; r += kFlashRows)
        flash_rest<kFlashRows>(a, first + r, n - r < kFlashRows ? n - r : kFlashRows, block, rows + r);
    for (int64_t r = 0; r < n; ++r) {
      const float inverse = 1.0f / rows[r].sum;
      for (int64_t d = 0; d < a.head_dim; ++d) a.out[(first + r) * a.out_stride + d] *= inverse;
    }
  }
}

#undef EDGE_APART

}  // namespace
}  // namespace edge
