// SPDX-License-Identifier: Apache-2.0
// How the team shares a stage of the transformer; for its own files only.
#pragma once

#include <algorithm>
#include <cstdint>

#include "decoder/counts.h"
#include "decoder/transformer.h"

namespace edge {

// Weight rows are shared out in units of one cache line of outputs.
inline constexpr int64_t kRowUnit = 16;

inline int64_t units_of(const Matrix& matrix, int64_t unit) { return (matrix.rows + unit - 1) / unit; }

// Calls work(begin, end, after) for this member's units, and for further ones while there are any. Each is
// taken before the one before it is worked on, which so can fetch it: `after`, or -1 with the last.
template <class Work>
void Transformer::spread(int thread, Stage stage, int64_t units, Work work) {
  // Nobody counts the stage before any more.
  if (thread == 0) next_[stage_before(stage)].store(0, std::memory_order_relaxed);
  const int64_t first = units * 3 / 4;
  const auto take = [&] {
    const int64_t unit = first + next_[stage].fetch_add(1, std::memory_order_relaxed);
    return unit < units ? unit : -1;
  };
  auto [begin, end] = own_units(thread, units);
  if (begin == end) begin = take(), end = begin + 1;
  while (begin >= 0) {
    const int64_t after = take();
    work(begin, end, after);
    begin = after, end = after + 1;
  }
}

// The same for the rows of a matrix; `behind` is read after the last of them.
template <class Work>
void Transformer::spread_rows(int thread, Stage stage, const Matrix& matrix, const NextRead& behind,
                              Work work) {
  spread(thread, stage, units_of(matrix, kRowUnit), [&](int64_t begin, int64_t end, int64_t after) {
    work(begin * kRowUnit, std::min(end * kRowUnit, matrix.rows),
         after < 0 ? behind : matrix.from_row(after * kRowUnit));
  });
}

}  // namespace edge
