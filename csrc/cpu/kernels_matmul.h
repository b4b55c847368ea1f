// SPDX-License-Identifier: Apache-2.0
// Weight rows times activations. Decoding is bound by reading the weights, so each weight is read once for
// all chunk rows, int8 and int4 weights are widened in registers, and the next tile is prefetched while this
// one is summed.
#pragma once

#include <stdint.h>

#include "cpu/kernels.h"
#include "cpu/kernels_int4.h"
#include "cpu/kernels_tile.h"

namespace edge {
namespace {

// Adds kLanes products to each sum, from column k on. The widened weights stay in registers, and each piece
// of an activation row is loaded once for all of them: left to itself the compiler loads it again for every
// product.
template <class W, int OUT, int ROWS>
inline void matmul_step(const MatmulArgs& a, const W* w, const float* x, int64_t k, Vec (&sum)[OUT][ROWS]) {
  Vec weight[OUT];
#pragma GCC unroll 16
  for (int o = 0; o < OUT; ++o) weight[o] = load(w + o * a.cols + k);
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r) {
    const Vec row = in_register(load(x + r * a.x_stride + k));
#pragma GCC unroll 16
    for (int o = 0; o < OUT; ++o) sum[o][r] = fma(weight[o], row, sum[o][r]);
  }
}

// OUT weight rows x ROWS activation rows. Every one of the OUT * ROWS sums runs in one accumulator over k in
// the same order whatever OUT and ROWS are: that is what makes a chunk's rows equal to single steps bit by
// bit.
template <class W, int OUT, int ROWS>
inline void wide_tile(const MatmulArgs& a, int64_t o0, int64_t r0) {
  // Columns per round: a cache line of weights, or a vector of them where that is longer.
  constexpr int64_t kLineWeights = kLine / static_cast<int64_t>(sizeof(W));
  constexpr int64_t kRound = kLanes > kLineWeights ? kLanes : kLineWeights;
  constexpr int kLines = static_cast<int>(kRound / kLineWeights) * OUT;
  const W* w = static_cast<const W*>(a.w) + o0 * a.cols;
  const float* x = a.x + r0 * a.x_stride;
  Vec sum[OUT][ROWS];
#pragma GCC unroll 16
  for (int o = 0; o < OUT; ++o)
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) sum[o][r] = set1(0.0f);
  const int64_t rounds = a.cols - a.cols % kRound, whole = a.cols - a.cols % kLanes;
  Ahead ahead(w, static_cast<const W*>(a.w) + a.end * a.cols, a.next.data, kAheadBytes, r0, a.rows, kTileRows,
              rounds / kRound, kLines);
  for (int64_t k = 0; k < rounds; k += kRound) {
    ahead.fetch<kLines>();
#pragma GCC unroll 16
    for (int64_t step = 0; step < kRound; step += kLanes) matmul_step<W, OUT, ROWS>(a, w, x, k + step, sum);
  }
  for (int64_t k = rounds; k < whole; k += kLanes) matmul_step<W, OUT, ROWS>(a, w, x, k, sum);
  if (const int64_t n = a.cols - whole; n > 0) {
#pragma GCC unroll 16
    for (int o = 0; o < OUT; ++o) {
      const Vec weight = load_part(w + o * a.cols + whole, n);
#pragma GCC unroll 16
      for (int r = 0; r < ROWS; ++r)
        sum[o][r] = fma(weight, load_part(x + r * a.x_stride + whole, n), sum[o][r]);
    }
  }
#pragma GCC unroll 16
  for (int o = 0; o < OUT; ++o)
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) {
      const float total = hsum(sum[o][r]);
      put_sum(a, o0 + o, r0 + r, a.scale ? total * a.scale[o0 + o] : total);
    }
}

template <class W, int OUT, int ROWS>
inline void matmul_tile(const MatmulArgs& a, int64_t o0, int64_t r0) {
  if constexpr (kIsInt4<W>)
    int4_tile<OUT, ROWS>(a, o0, r0);
  else
    wide_tile<W, OUT, ROWS>(a, o0, r0);
}

// All chunk rows for OUT weight rows, which stay in the nearest caches between the row tiles.
template <class W, int OUT, int ROWS>
inline void matmul_chunk(const MatmulArgs& a, int64_t o) {
  int64_t r = 0;
  for (; r + ROWS <= a.rows; r += ROWS) matmul_tile<W, OUT, ROWS>(a, o, r);
  if constexpr (ROWS > 5)
    if (a.rows - r == 5) matmul_tile<W, OUT, 5>(a, o, r);
  if constexpr (ROWS > 4)
    if (a.rows - r == 4) matmul_tile<W, OUT, 4>(a, o, r);
  if constexpr (ROWS > 2)
    if (a.rows - r == 3) matmul_tile<W, OUT, 3>(a, o, r);
  if constexpr (ROWS > 2)
    if (a.rows - r == 2) matmul_tile<W, OUT, 2>(a, o, r);
  if constexpr (ROWS > 1)
    if (a.rows - r == 1) matmul_tile<W, OUT, 1>(a, o, r);
}

template <class W, int OUT, int ROWS>
inline void matmul_range(const MatmulArgs& a) {
  int64_t o = a.begin;
  for (; o + OUT <= a.end; o += OUT) matmul_chunk<W, OUT, ROWS>(a, o);
  for (; o < a.end; ++o) matmul_chunk<W, 1, ROWS>(a, o);
}

// Enough sums at a time to cover the latency of the fused multiply-add, few enough for the registers, of
// which a group of int4 weights needs more.
template <class W>
void matmul(const MatmulArgs& a) {
  constexpr int kOut = kIsInt4<W> ? kTileOut4 : kTileOut, kRows = kIsInt4<W> ? 4 : kTileRows;
  if (a.rows == 1)
    matmul_range<W, kSoloOut, 1>(a);
  else if (a.rows == 2)
    matmul_range<W, kSoloOut, 2>(a);
  else
    matmul_range<W, kOut, kRows>(a);
}

}  // namespace
}  // namespace edge
