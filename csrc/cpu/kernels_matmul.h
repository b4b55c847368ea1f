// SPDX-License-Identifier: Apache-2.0
// Weight rows times activations. Decoding is bound by reading the weights, so each weight is read once for all
// chunk rows, int8 weights are widened in registers, and the next tile is prefetched while this one is summed.
#pragma once

#include <stdint.h>

#include "cpu/kernels.h"

namespace edge {
namespace {

constexpr int64_t kStep = 2 * kLanes;

// OUT weight rows x ROWS activation rows. Every one of the OUT * ROWS sums runs in two accumulators over k in
// the same order whatever OUT and ROWS are: that is what makes a chunk's rows equal to single steps bit by bit.
template <class W, int OUT, int ROWS>
inline void matmul_tile(const MatmulArgs& a, int64_t o0, int64_t r0) {
  const W* w = static_cast<const W*>(a.w) + o0 * a.cols;
  const float* x = a.x + r0 * a.x_stride;
  Vec even[OUT][ROWS], odd[OUT][ROWS];
#pragma GCC unroll 16
  for (int o = 0; o < OUT; ++o)
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) even[o][r] = odd[o][r] = set1(0.0f);
  const int64_t whole = a.cols - a.cols % kStep;
  for (int64_t k = 0; k < whole; k += kStep) {
#pragma GCC unroll 16
    for (int o = 0; o < OUT; ++o) {
      const W* row = w + o * a.cols + k;
      __builtin_prefetch(row + OUT * a.cols);
      const Vec w0 = load(row), w1 = load(row + kLanes);
#pragma GCC unroll 16
      for (int r = 0; r < ROWS; ++r) {
        even[o][r] = fma(w0, load(x + r * a.x_stride + k), even[o][r]);
        odd[o][r] = fma(w1, load(x + r * a.x_stride + k + kLanes), odd[o][r]);
      }
    }
  }
  for (int64_t k = whole; k < a.cols; k += kLanes) {
    const int64_t n = a.cols - k < kLanes ? a.cols - k : kLanes;
#pragma GCC unroll 16
    for (int o = 0; o < OUT; ++o) {
      const Vec w0 = load_part(w + o * a.cols + k, n);
#pragma GCC unroll 16
      for (int r = 0; r < ROWS; ++r)
        even[o][r] = fma(w0, load_part(x + r * a.x_stride + k, n), even[o][r]);
    }
  }
#pragma GCC unroll 16
  for (int o = 0; o < OUT; ++o)
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) {
      float sum = hsum(add(even[o][r], odd[o][r]));
      if (a.scale) sum *= a.scale[o0 + o];
      if (a.bias) sum += a.bias[o0 + o];
      float* y = a.y + (r0 + r) * a.y_stride + o0 + o;
      *y = a.accumulate ? *y + sum : sum;
    }
}

template <class W, int OUT>
inline void matmul_chunk(const MatmulArgs& a, int64_t o) {
  int64_t r = 0;
  for (; r + kRowTile <= a.rows; r += kRowTile) matmul_tile<W, OUT, kRowTile>(a, o, r);
  for (; r + 2 <= a.rows; r += 2) matmul_tile<W, OUT, 2>(a, o, r);
  for (; r < a.rows; ++r) matmul_tile<W, OUT, 1>(a, o, r);
}

template <class W>
void matmul(const MatmulArgs& a) {
  int64_t o = a.begin;
  if (a.rows == 1) {
    for (; o + kSoloOut <= a.end; o += kSoloOut) matmul_tile<W, kSoloOut, 1>(a, o, 0);
    for (; o < a.end; ++o) matmul_tile<W, 1, 1>(a, o, 0);
    return;
  }
  for (; o + kRowTileOut <= a.end; o += kRowTileOut) matmul_chunk<W, kRowTileOut>(a, o);
  for (; o < a.end; ++o) matmul_chunk<W, 1>(a, o);
}

}  // namespace
}  // namespace edge
