// SPDX-License-Identifier: Apache-2.0
// Counts of rows, columns and units.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

namespace edge {

// Standard containers count in size_t, everything here in int64_t.
inline size_t size_of(int64_t n) { return static_cast<size_t>(n); }

// `n` rounded up to a multiple of `unit`.
inline int64_t whole(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

// The part of `count` items that member `i` of `n` takes: contiguous, sizes differing by one at most.
inline std::pair<int64_t, int64_t> share(int64_t count, int64_t i, int64_t n) {
  return {count * i / n, count * (i + 1) / n};
}

}  // namespace edge
