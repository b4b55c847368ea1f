// SPDX-License-Identifier: Apache-2.0
// Where on the image the model looked while it wrote a sentence.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace edge::capi {

struct Evidence {
  int64_t rows = 0, columns = 0;
  std::vector<double> heat;  // [rows, columns] attention over the patches; the sum is 1
  int64_t peak_row = 0, peak_column = 0;
  std::array<double, 4> box{};  // smallest rectangle with 60 % of it: left, top, right, bottom as shares
};

// From attention per patch [rows * columns]; nothing where there is none.
std::optional<Evidence> make_evidence(std::span<const float> mass, int64_t rows, int64_t columns);

}  // namespace edge::capi
