// SPDX-License-Identifier: Apache-2.0
#include "evidence.h"

#include <algorithm>
#include <cmath>

namespace edge::capi {
namespace {

constexpr double kShare = 0.6;

// Of the rectangles with the fewest patches that hold the share, the first: from the top, then the lowest
// bottom, then from the left.
std::array<double, 4> smallest_box(const std::vector<double>& heat, int64_t rows, int64_t columns) {
  const auto line = static_cast<size_t>(columns) + 1;
  std::vector<double> sums(static_cast<size_t>(rows + 1) * line);  // of everything above and to the left
  for (int64_t y = 0; y < rows; ++y)
    for (int64_t x = 0; x < columns; ++x)
      sums[static_cast<size_t>(y + 1) * line + static_cast<size_t>(x + 1)] =
          sums[static_cast<size_t>(y) * line + static_cast<size_t>(x + 1)] +
          heat[static_cast<size_t>(y * columns + x)];
  for (int64_t y = 1; y <= rows; ++y)
    for (int64_t x = 1; x <= columns; ++x)
      sums[static_cast<size_t>(y) * line + static_cast<size_t>(x)] +=
          sums[static_cast<size_t>(y) * line + static_cast<size_t>(x - 1)];
  int64_t best[4] = {0, 0, columns, rows}, area = rows * columns;
  for (int64_t top = 0; top < rows; ++top)
    for (int64_t bottom = top + 1; bottom <= rows; ++bottom)
      for (int64_t left = 0; left < columns; ++left)
        for (int64_t right = left + 1; right <= columns; ++right) {
          const int64_t size = (bottom - top) * (right - left);
          if (size >= area) break;
          const double* low = sums.data() + static_cast<size_t>(bottom) * line;
          const double* high = sums.data() + static_cast<size_t>(top) * line;
          if ((low[right] - high[right]) - (low[left] - high[left]) < kShare - 1e-9) continue;
          area = size;
          best[0] = left, best[1] = top, best[2] = right, best[3] = bottom;
        }
  const auto width = static_cast<double>(columns), height = static_cast<double>(rows);
  return {static_cast<double>(best[0]) / width, static_cast<double>(best[1]) / height,
          static_cast<double>(best[2]) / width, static_cast<double>(best[3]) / height};
}

}  // namespace

std::optional<Evidence> make_evidence(std::span<const float> mass, int64_t rows, int64_t columns) {
  Evidence out{rows, columns, {}, 0, 0, {}};
  double total = 0.0;
  for (const float value : mass) {
    out.heat.push_back(std::isfinite(value) && value > 0.0f ? value : 0.0);
    total += out.heat.back();
  }
  if (!(total > 0.0)) return std::nullopt;
  for (double& value : out.heat) value /= total;
  const auto peak = std::max_element(out.heat.begin(), out.heat.end()) - out.heat.begin();
  out.peak_row = peak / columns, out.peak_column = peak % columns;
  out.box = smallest_box(out.heat, rows, columns);
  return out;
}

}  // namespace edge::capi
