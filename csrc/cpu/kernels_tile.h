// SPDX-License-Identifier: Apache-2.0
// What the tiles of all weight types share: how far ahead weights are fetched, and where a sum goes.
#pragma once

#include <stdint.h>

#include "cpu/kernels.h"

namespace edge {
namespace {

constexpr int64_t kLine = 64;
// How far ahead of its own first row a tile fetches weights, in bytes: its own size, so that the next tile is
// there when it starts, within these bounds. The rows of a tile lie one behind the other in memory while the
// sums walk them side by side; fetching strictly in memory order (and not at each row's own position) is what
// reaches the speed of a plain read.
constexpr int64_t kAheadLeast = 4096, kAheadMost = 12288;

inline const char* ahead_of(const void* tile, int64_t size) {
  const int64_t distance = size < kAheadLeast ? kAheadLeast : size > kAheadMost ? kAheadMost : size;
  return static_cast<const char*>(tile) + distance;
}

inline void put_sum(const MatmulArgs& a, int64_t o, int64_t r, float sum) {
  if (a.bias) sum += a.bias[o];
  float* y = a.y + r * a.y_stride + o;
  *y = a.accumulate ? *y + sum : sum;
}

}  // namespace
}  // namespace edge
