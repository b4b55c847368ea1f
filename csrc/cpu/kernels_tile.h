// SPDX-License-Identifier: Apache-2.0
// What the tiles of all weight types share: how far ahead weights are fetched, and where a sum goes.
#pragma once

#include <stdint.h>

#include "cpu/kernels.h"

namespace edge {
namespace {

constexpr int64_t kLine = 64;
// How far ahead weights are fetched, in bytes. The rows of a tile lie one behind the other in memory while
// the sums walk them side by side; fetching strictly in memory order (and not at each row's own position) is
// what reaches the speed of a plain read, and a third of this distance does not.
constexpr int64_t kAheadBytes = 12288;

// Into the second cache and not the first, whose misses in flight are too few for what a memory delivers.
// From the second cache a load comes in time.
inline void fetch_line(const void* line) { __builtin_prefetch(line, 0, 2); }

// The same `bytes` behind an address, which may be past the end of its array: nothing is read there.
inline void fetch_behind(const void* base, int64_t bytes) {
  fetch_line(
      reinterpret_cast<const char*>(reinterpret_cast<uintptr_t>(base) + static_cast<uintptr_t>(bytes)));
}

inline int64_t bytes_between(const void* from, const void* to) {
  return static_cast<int64_t>(reinterpret_cast<uintptr_t>(to) - reinterpret_cast<uintptr_t>(from));
}

// The lines to fetch while a tile is summed: `distance` ahead of the tile, and from the end of the range on
// what is read after it. Where the weights are summed with several tiles of activation rows, each fetches its
// share of them: the memory is kept busy for as long as the arithmetic takes.
class Ahead {
 public:
  // For one tile of rows.
  Ahead(const void* tile, const void* end, const void* next, int64_t distance)
      : at_(reinterpret_cast<uintptr_t>(tile) + static_cast<uintptr_t>(distance)),
        end_(next ? reinterpret_cast<uintptr_t>(end) : UINTPTR_MAX),
        jump_(next ? reinterpret_cast<uintptr_t>(next) - end_ : 0) {
    hop();
  }
  // For the one that begins with row r0 of `rows`, where a tile has `tile_rows` and its sums take `rounds`
  // with a fetch of so many lines each.
  Ahead(const void* tile, const void* end, const void* next, int64_t distance, int64_t r0, int64_t rows,
        int tile_rows, int64_t rounds, int lines)
      : Ahead(tile, end, next, distance) {
    if (rows <= tile_rows) return;
    const int64_t part = r0 / tile_rows;
    parts_ = (rows + tile_rows - 1) / tile_rows;
    due_ = rounds * part % parts_;
    at_ += static_cast<uintptr_t>(rounds * part / parts_ * lines * kLine);
    hop();
  }

  // With every round.
  template <int LINES>
  void fetch() {
    if (++due_ < parts_) return;
    due_ -= parts_;
#pragma GCC unroll 16
    for (int line = 0; line < LINES; ++line)
      fetch_line(reinterpret_cast<const char*>(at_ + static_cast<uintptr_t>(line * kLine)));
    at_ += static_cast<uintptr_t>(LINES * kLine);
    hop();
  }

 private:
  void hop() {
    if (at_ < end_) return;
    at_ += jump_;
    end_ = UINTPTR_MAX;
  }

  int64_t parts_ = 1, due_ = 0;
  uintptr_t at_, end_, jump_;
};

// How many digits of the activations count, as f's template argument.
template <int UPPER>
struct Upper {
  static constexpr int value = UPPER;
};
template <class F>
inline void with_upper(const MatmulArgs& a, F f) {
  switch (a.digits->upper) {
    case 1:
      return f(Upper<1>{});
    case 2:
      return f(Upper<2>{});
    default:
      return f(Upper<kDigits>{});
  }
}

inline void put_sum(const MatmulArgs& a, int64_t o, int64_t r, float sum) {
  if (a.bias) sum += a.bias[o];
  float* y = a.y + r * a.y_stride + o;
  *y = a.accumulate ? *y + sum : sum;
}

}  // namespace
}  // namespace edge
