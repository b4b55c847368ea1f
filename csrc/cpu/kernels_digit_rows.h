// SPDX-License-Identifier: Apache-2.0
// int8 weights times activations in digits: which tiles there are. For the files that define them,
// `bytes_tile` and, for a lone row, `bytes_in_order`.
#pragma once

#include <stdint.h>

#include "cpu/kernels.h"
#include "cpu/kernels_tile.h"

namespace edge {
namespace {

// The tile of `n` rows, ROWS at most.
template <int OUT, int UPPER, int ROWS>
inline void bytes_some(const MatmulArgs& a, int64_t o, int64_t r, int64_t n, int tile_rows) {
  if constexpr (ROWS > 1)
    if (n < ROWS) return bytes_some<OUT, UPPER, ROWS - 1>(a, o, r, n, tile_rows);
  bytes_tile<OUT, ROWS, UPPER>(a, o, r, tile_rows);
}

// Tiles as large as 24 sums of four weight rows allow, and as equal as they can be.
template <int OUT, int UPPER>
inline void bytes_rows(const MatmulArgs& a, int64_t o) {
  constexpr int kMost = 24 / (kSoloOut * UPPER);
  if (a.rows == 1) return bytes_in_order<OUT, UPPER>(a, o);
  const int64_t tiles = (a.rows + kMost - 1) / kMost, each = (a.rows + tiles - 1) / tiles;
  for (int64_t r = 0; r < a.rows; r += each)
    bytes_some<OUT, UPPER, kMost>(a, o, r, each < a.rows - r ? each : a.rows - r, static_cast<int>(each));
}

template <int UPPER>
void matmul_upper(const MatmulArgs& a) {
  int64_t o = a.begin;
  for (; o + kSoloOut <= a.end; o += kSoloOut) bytes_rows<kSoloOut, UPPER>(a, o);
  for (; o < a.end; ++o) bytes_rows<1, UPPER>(a, o);
}

void matmul_digits8(const MatmulArgs& a) {
  with_upper(a, [&](auto upper) { matmul_upper<decltype(upper)::value>(a); });
}

}  // namespace
}  // namespace edge
