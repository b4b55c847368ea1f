// SPDX-License-Identifier: Apache-2.0
// Weight rows times activations. Decoding is bound by reading the weights, so each weight is read once for
// all chunk rows, int8 weights are widened in registers, and the next tile is prefetched while this one is
// summed.
#pragma once

#include <stdint.h>

#include "cpu/kernels.h"

namespace edge {
namespace {

constexpr int64_t kStep = 2 * kLanes;
constexpr int64_t kLine = 64;
// How far ahead of the tile weights are fetched, in bytes. The rows of a tile lie one behind the other in
// memory while the sums walk them side by side; fetching the next tile strictly in memory order (and not at
// each row's own position) is what reaches the speed of a plain read.
constexpr int64_t kAhead = 4096;

// Adds kStep products to each sum, from column k on.
template <class W, int OUT, int ROWS>
inline void matmul_step(const MatmulArgs& a, const W* w, const float* x, int64_t k, Vec (&even)[OUT][ROWS],
                        Vec (&odd)[OUT][ROWS]) {
#pragma GCC unroll 16
  for (int o = 0; o < OUT; ++o) {
    const W* row = w + o * a.cols + k;
    const Vec w0 = load(row), w1 = load(row + kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) {
      even[o][r] = fma(w0, load(x + r * a.x_stride + k), even[o][r]);
      odd[o][r] = fma(w1, load(x + r * a.x_stride + k + kLanes), odd[o][r]);
    }
  }
}

// OUT weight rows x ROWS activation rows. Every one of the OUT * ROWS sums runs in two accumulators over k in
// the same order whatever OUT and ROWS are: that is what makes a chunk's rows equal to single steps bit by
// bit.
template <class W, int OUT, int ROWS>
inline void matmul_tile(const MatmulArgs& a, int64_t o0, int64_t r0) {
  // Columns per round: a cache line of int8 weights, or a step where that is longer.
  constexpr int64_t kLineWeights = kLine / static_cast<int64_t>(sizeof(W));
  constexpr int64_t kRound = kStep > kLineWeights ? kStep : kLineWeights;
  constexpr int kLines = static_cast<int>(kRound / kLineWeights) * OUT;
  const W* w = static_cast<const W*>(a.w) + o0 * a.cols;
  const float* x = a.x + r0 * a.x_stride;
  Vec even[OUT][ROWS], odd[OUT][ROWS];
#pragma GCC unroll 16
  for (int o = 0; o < OUT; ++o)
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) even[o][r] = odd[o][r] = set1(0.0f);
  const int64_t rounds = a.cols - a.cols % kRound, whole = a.cols - a.cols % kStep;
  const char* ahead = reinterpret_cast<const char*>(w) + kAhead;
  for (int64_t k = 0; k < rounds; k += kRound) {
    if (ROWS == 1 || r0 == 0) {
#pragma GCC unroll 16
      for (int line = 0; line < kLines; ++line) __builtin_prefetch(ahead + line * kLine);
      ahead += kLines * kLine;
    }
#pragma GCC unroll 16
    for (int64_t step = 0; step < kRound; step += kStep)
      matmul_step<W, OUT, ROWS>(a, w, x, k + step, even, odd);
  }
  for (int64_t k = rounds; k < whole; k += kStep) matmul_step<W, OUT, ROWS>(a, w, x, k, even, odd);
  for (int64_t k = whole; k < a.cols; k += kLanes) {
    const int64_t n = a.cols - k < kLanes ? a.cols - k : kLanes;
#pragma GCC unroll 16
    for (int o = 0; o < OUT; ++o) {
      const Vec w0 = load_part(w + o * a.cols + k, n);
#pragma GCC unroll 16
      for (int r = 0; r < ROWS; ++r) even[o][r] = fma(w0, load_part(x + r * a.x_stride + k, n), even[o][r]);
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

// All chunk rows for OUT weight rows, which stay in the first cache between the row tiles.
template <class W, int OUT>
inline void matmul_chunk(const MatmulArgs& a, int64_t o) {
  int64_t r = 0;
  for (; r + kRowTile <= a.rows; r += kRowTile) matmul_tile<W, OUT, kRowTile>(a, o, r);
  for (; r + 2 <= a.rows; r += 2) matmul_tile<W, OUT, 2>(a, o, r);
  for (; r < a.rows; ++r) matmul_tile<W, OUT, 1>(a, o, r);
}

template <class W, int OUT>
inline int64_t matmul_range(const MatmulArgs& a, int64_t o) {
  for (; o + OUT <= a.end; o += OUT) matmul_chunk<W, OUT>(a, o);
  return o;
}

template <class W>
void matmul(const MatmulArgs& a) {
  int64_t o = a.begin;
  // Enough sums at a time to cover the latency of the fused multiply-add.
  if (a.rows == 1)
    o = matmul_range<W, kSoloOut>(a, o);
  else if (a.rows < kRowTile)
    o = matmul_range<W, 2>(a, o);
  else
    o = matmul_range<W, kRowTileOut>(a, o);
  matmul_range<W, 1>(a, o);
}

}  // namespace
}  // namespace edge
