// SPDX-License-Identifier: Apache-2.0
// Attention of many rows of one head in 16-bit integers: two products per instruction where the processor
// sums them, with all sums exact. Keys, values and queries have a scale per row. What a key's value counts is
// its weight times its scale, and is itself rounded to an integer, against the largest of its block: so a
// block's sums of values need no scale until they are complete, and the softmax's own sum stays in float32.
#pragma once

#include <float.h>
#include <stdint.h>

#include "cpu/kernels.h"
#include "cpu/kernels_tile.h"

namespace edge {
namespace {

// The two products below fill all registers: inside another function the compiler would spill a sum.
#define EDGE_APART __attribute__((noinline))

// Scores of ROWS rows and GROUPS groups of keys. The lines so many bytes behind them are fetched.
template <int ROWS, int GROUPS>
EDGE_APART void score_pairs(const int16_t* q, const int16_t* k, int64_t pairs, int64_t ahead,
                            int32_t* scores) {
  constexpr int kGroupVecs = static_cast<int>(kKeyGroup) / kLanes, kVecs = GROUPS * kGroupVecs;
  Ints sum[ROWS][kVecs];
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 16
    for (int v = 0; v < kVecs; ++v) sum[r][v] = zero_ints();
  for (int64_t d = 0; d < pairs; ++d, k += 2 * kKeyGroup) {
#pragma GCC unroll 16
    for (int g = 0; g < GROUPS; ++g) fetch_behind(k + g * pairs * 2 * kKeyGroup, ahead);
    Ints key[kVecs];
#pragma GCC unroll 16
    for (int v = 0; v < kVecs; ++v)
      key[v] = load_pairs(k + v / kGroupVecs * pairs * 2 * kKeyGroup + v % kGroupVecs * 2 * kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) {
      const Ints pair = set1_pair(q + 2 * (r * pairs + d));
#pragma GCC unroll 16
      for (int v = 0; v < kVecs; ++v) sum[r][v] = add_products(sum[r][v], key[v], pair);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 16
    for (int v = 0; v < kVecs; ++v) store_ints(scores + r * kKeyBlock + v * kLanes, sum[r][v]);
}

// What one row has gathered so far, and its factors of this block.
struct Flash16Row {
  float max, sum;
  float keep, step;  // on what was gathered before, and on the block's sums of integers
};

// The `count` > 0 keys of one block that a row sees, from sums of integers to scores. Returns the largest.
inline float block_scores(const Flash16Args& a, const Flash16Block& keys, int64_t block, int64_t row,
                          int64_t count, const int32_t* sums, float* scores) {
  const Vec scale = set1(a.q_scale[row]), lowest = set1(-FLT_MAX);
  const float* bias = a.bias ? a.bias + block * kKeyBlock : nullptr;
  Vec top = lowest;
  const auto score = [&](int64_t j) {
    const Vec v = mul(to_floats(load_ints(sums + j)), mul(scale, load(keys.key_scale + j)));
    // A hidden key's bias is the lowest finite number: keep the sum finite, or max - score would be NaN.
    return bias ? max(lowest, add(v, load(bias + j))) : v;
  };
  const int64_t whole = count - count % kLanes;
  for (int64_t j = 0; j < whole; j += kLanes) {
    const Vec v = score(j);
    store(scores + j, v);
    top = max(top, v);
  }
  if (whole < count) {
    store(scores + whole, score(whole));
    for (int64_t j = count; j < whole + kLanes; ++j) scores[j] = -FLT_MAX;
    top = max(top, load(scores + whole));
  }
  return hmax(top);
}

// Scores to what a key's value counts, in place: its weight times its value's scale. Adds the weights up and
// returns the largest of the products.
inline float weigh(const Flash16Block& keys, int64_t count, float largest_score, float* scores,
                   float* total) {
  const Vec shift = set1(largest_score), none = set1(0.0f);
  Vec sum = none, most = none;
  const auto weight = [&](int64_t j, Vec p, Vec value_scale) {
    const Vec weighted = mul(p, value_scale);
    sum = add(sum, fma(weighted, none, p));  // not a number where a value's scale is none
    most = max(most, weighted);
    store(scores + j, weighted);
  };
  const int64_t whole = count - count % kLanes;
  for (int64_t j = 0; j < whole; j += kLanes)
    weight(j, exp_vec(sub(load(scores + j), shift)), load(keys.value_scale + j));
  if (whole < count) {
    store(scores + whole, exp_vec(sub(load(scores + whole), shift)));
    // Where every key of the block is hidden the padding would count as much as they do.
    for (int64_t j = count; j < whole + kLanes; ++j) scores[j] = 0.0f;
    // Behind the last row lies what an earlier film left, which may not be a number.
    weight(whole, load(scores + whole), load_part(keys.value_scale + whole, count - whole));
  }
  *total = hsum(sum);
  return hmax(most);
}

// sums = keep * sums + step * sum_j weights[j] v[j]. The lines so many bytes behind the values are fetched.
template <int ROWS, int VECS>
EDGE_APART void value_pairs(const int16_t* weights, const int16_t* v, int64_t dims, int64_t pairs,
                            int64_t ahead, const Flash16Row* rows, float* sums) {
  Ints sum[ROWS][VECS];
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 16
    for (int c = 0; c < VECS; ++c) sum[r][c] = zero_ints();
  for (int64_t j = 0; j < pairs; ++j, v += 2 * dims) {
    for (int64_t i = 0; i < VECS * 2 * kLanes; i += kLine / 2) fetch_behind(v + i, ahead);
    Ints value[VECS];
#pragma GCC unroll 16
    for (int c = 0; c < VECS; ++c) value[c] = load_pairs(v + 2 * c * kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) {
      const Ints pair = set1_pair(weights + r * kKeyBlock + 2 * j);
#pragma GCC unroll 16
      for (int c = 0; c < VECS; ++c) sum[r][c] = add_products(sum[r][c], value[c], pair);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 16
    for (int c = 0; c < VECS; ++c) {
      float* to = sums + r * dims + c * kLanes;
      store(to, fma(to_floats(sum[r][c]), set1(rows[r].step), mul(set1(rows[r].keep), load(to))));
    }
}

// ROWS rows from `first` on and one block of keys.
template <int ROWS>
inline void flash16_rows(const Flash16Args& a, int64_t first, int64_t block, Flash16Row* rows) {
  constexpr int kGroups = kFlashSums / ROWS * kLanes / static_cast<int>(kKeyGroup) < 2 ? 1 : 2;
  constexpr int kVecs = kFlashSums / ROWS < 2 ? 1 : 2;
  alignas(64) int32_t scores[ROWS * kKeyBlock];
  alignas(64) float lines[ROWS * kKeyBlock];  // of the same, to what a value counts
  alignas(64) int16_t weights[ROWS * kKeyBlock];
  const int64_t left = a.first_key + first + ROWS - block * kKeyBlock;  // keys that the last row sees
  const int64_t seen = left < kKeyBlock ? left : kKeyBlock;
  if (seen <= 0) return;
  const Flash16Block keys(static_cast<char*>(a.blocks) + block * a.block_stride, a.head_dim);
  const int64_t pairs = flash_pairs(a.head_dim), dims = flash_dims(a.head_dim);
  const int64_t groups = (seen + kKeyGroup - 1) / kKeyGroup;
  const int16_t* q = a.q + 2 * first * pairs;
  // The block's values while it is scored, then the next block's keys.
  const int64_t to_values = 2 * (keys.v - keys.k), to_next = a.block_stride - to_values;
  int64_t g = 0;
  for (; g + kGroups <= groups; g += kGroups)
    score_pairs<ROWS, kGroups>(q, keys.k + 2 * g * kKeyGroup * pairs, pairs, to_values,
                               scores + g * kKeyGroup);
  for (; g < groups; ++g)
    score_pairs<ROWS, 1>(q, keys.k + 2 * g * kKeyGroup * pairs, pairs, to_values, scores + g * kKeyGroup);
  // Each step for all rows before the next: a row's steps wait for each other.
  int64_t counts[ROWS];
  constexpr int kPadded = (ROWS + kLanes - 1) / kLanes * kLanes;
  alignas(64) float keep[kPadded] = {}, levels[ROWS];
  for (int r = 0; r < ROWS; ++r) {
    const int64_t own = left - ROWS + r + 1;
    counts[r] = own < 0 ? 0 : own < kKeyBlock ? own : kKeyBlock;
    const float before = rows[r].max;
    if (counts[r] > 0) {
      const float top =
          block_scores(a, keys, block, first + r, counts[r], scores + r * kKeyBlock, lines + r * kKeyBlock);
      rows[r].max = top > before ? top : before;
      keep[r] = before - rows[r].max;
    }
  }
  for (int r = 0; r < kPadded; r += kLanes) store(keep + r, exp_vec(load(keep + r)));
  for (int r = 0; r < ROWS; ++r) {
    rows[r].keep = keep[r], rows[r].step = 0.0f, levels[r] = 0.0f;
    if (counts[r] == 0) continue;
    float total;
    const float largest = weigh(keys, counts[r], rows[r].max, lines + r * kKeyBlock, &total);
    rows[r].sum = rows[r].sum * keep[r] + total;
    if (!(largest >= 1e-30f)) continue;
    rows[r].step = largest / kWeightLevels;
    levels[r] = kWeightLevels / largest;
  }
  for (int r = 0; r < ROWS; ++r) {
    const float* line = lines + r * kKeyBlock;
    int16_t* weight = weights + r * kKeyBlock;
    int64_t j = 0;
    for (; j < counts[r]; j += kLanes) store_int16(weight + j, mul(load(line + j), set1(levels[r])));
    for (; j < groups * kKeyGroup; ++j) weight[j] = 0;
  }
  float* sums = a.sums + first * dims;
  int64_t d = 0;
  for (; d + kVecs * kLanes <= dims; d += kVecs * kLanes)
    value_pairs<ROWS, kVecs>(weights, keys.v + 2 * d, dims, (seen + 1) / 2, to_next, rows, sums + d);
  for (; d < dims; d += kLanes)
    value_pairs<ROWS, 1>(weights, keys.v + 2 * d, dims, (seen + 1) / 2, to_next, rows, sums + d);
}

void flash16(const Flash16Args& a) {
  Flash16Row rows[kFlashRowsAtMost];
  const int64_t dims = flash_dims(a.head_dim);
  for (int64_t r = 0; r < a.rows; ++r) rows[r] = {-FLT_MAX, 0.0f, 1.0f, 0.0f};
  for (int64_t i = 0; i < a.rows * dims; ++i) a.sums[i] = 0.0f;
  for (int64_t block = 0; block * kKeyBlock < a.first_key + a.rows; ++block) {
    int64_t r = 0;
    for (; r + kFlashRows <= a.rows; r += kFlashRows) flash16_rows<kFlashRows>(a, r, block, rows + r);
    if constexpr (kFlashRows > 4)
      for (; r + 4 <= a.rows; r += 4) flash16_rows<4>(a, r, block, rows + r);
    for (; r < a.rows; ++r) flash16_rows<1>(a, r, block, rows + r);
  }
  for (int64_t r = 0; r < a.rows; ++r) {
    const float inverse = 1.0f / rows[r].sum;
    for (int64_t d = 0; d < a.head_dim; ++d) a.out[r * a.out_stride + d] = a.sums[r * dims + d] * inverse;
  }
}

#undef EDGE_APART

}  // namespace
}  // namespace edge
