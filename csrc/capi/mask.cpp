// SPDX-License-Identifier: Apache-2.0
#include "mask.h"

#include <algorithm>
#include <cmath>

namespace edge::capi {
namespace {

constexpr double kLeastArea = 0.08, kMostArea = 0.85;  // shares of the picture that lungs and heart cover
constexpr double kLeastSide = 0.15;                    // of the mask, in each half of the picture
constexpr int64_t kRagged = 9;                         // edges over the square root of the area
constexpr double kApart = 0.4;                         // of the upper rows, with a lung on each side
constexpr float kHiddenBelow = -1e30f;

// The bias of one layer's patches, which end the prefix.
std::span<const float> patches_of(const VisionOutput& seen, const Manifest& manifest, int64_t layer) {
  const int64_t span = std::ssize(seen.key_bias) / manifest.decoder.layers;
  return seen.key_bias.subspan(static_cast<size_t>(layer * span + manifest.prefix - manifest.patches()),
                               static_cast<size_t>(manifest.patches()));
}

bool inside(const VisionOutput& seen, int64_t y, int64_t x) {
  return y >= 0 && y < seen.mask_rows && x >= 0 && x < seen.mask_columns &&
         seen.mask[static_cast<size_t>(y * seen.mask_columns + x)] > 0.5f;
}

// Sides of cells of the mask that face a cell outside it, or the border of the picture.
int64_t edges(const VisionOutput& seen) {
  int64_t count = 0;
  for (int64_t y = 0; y <= seen.mask_rows; ++y)
    for (int64_t x = 0; x <= seen.mask_columns; ++x) {
      const bool here = inside(seen, y, x);
      count += here != inside(seen, y - 1, x);
      count += here != inside(seen, y, x - 1);
    }
  return count;
}

// Of the upper two fifths of the mask's rows, the share with cells on both sides and not all of the middle
// third.
double apart(const VisionOutput& seen) {
  int64_t top = seen.mask_rows, bottom = 0, first = seen.mask_columns, last = 0;
  for (int64_t y = 0; y < seen.mask_rows; ++y)
    for (int64_t x = 0; x < seen.mask_columns; ++x) {
      if (!inside(seen, y, x)) continue;
      top = std::min(top, y), bottom = std::max(bottom, y + 1);
      first = std::min(first, x), last = std::max(last, x + 1);
    }
  const int64_t width = last - first, rows = std::max<int64_t>(1, (bottom - top) * 2 / 5);
  const auto cells = [&](int64_t y, int64_t from, int64_t to) {
    int64_t count = 0;
    for (int64_t x = from; x < to; ++x) count += inside(seen, y, first + x);
    return count;
  };
  int64_t good = 0;
  for (int64_t y = top; y < top + rows; ++y) {
    const int64_t middle = width - 2 * (width / 3);
    good += cells(y, 0, width / 2) > 0 && cells(y, width / 2, width) > 0 &&
            cells(y, width / 3, width - width / 3) < middle;
  }
  return static_cast<double>(good) / static_cast<double>(rows);
}

}  // namespace

std::string mask_warning(const VisionOutput& seen) {
  int64_t left = 0, right = 0, area = 0;
  for (int64_t y = 0; y < seen.mask_rows; ++y)
    for (int64_t x = 0; x < seen.mask_columns; ++x) {
      if (!(seen.mask[static_cast<size_t>(y * seen.mask_columns + x)] > 0.5f)) continue;
      ++area;
      left += x < seen.mask_columns / 2;
      right += x >= (seen.mask_columns + 1) / 2;
    }
  const double share = static_cast<double>(area) / static_cast<double>(seen.mask_rows * seen.mask_columns);
  std::string problem;
  if (area == 0)
    problem = "is empty";
  else if (area == seen.mask_rows * seen.mask_columns)
    problem = "covers the whole picture";
  else if (share < kLeastArea || share > kMostArea)
    problem =
        "covers " + std::to_string(static_cast<int>(std::nearbyint(share * 100.0))) + "% of the picture";
  else if (static_cast<double>(std::min(left, right)) < kLeastSide * static_cast<double>(left + right))
    problem = "lies on one side of the picture";
  else if (const int64_t sides = edges(seen); sides * sides > kRagged * kRagged * area)
    problem = "is ragged";
  else if (apart(seen) < kApart)
    problem = "shows no two lungs";
  if (problem.empty()) return {};
  return "anatomy not found: the lung and heart mask " + problem + "; is this a frontal chest film?";
}

bool hides_everything(const VisionOutput& seen, const Manifest& manifest) {
  if (manifest.bias_kind != "hidden") return false;
  for (int64_t layer = 0; layer < manifest.decoder.layers; ++layer) {
    const auto patches = patches_of(seen, manifest, layer);
    if (std::all_of(patches.begin(), patches.end(), [](float v) { return v <= kHiddenBelow; })) return true;
  }
  return false;
}

bool gives_no_guidance(const VisionOutput& seen, const Manifest& manifest) {
  for (int64_t layer = 0; layer < manifest.decoder.layers; ++layer) {
    const auto patches = patches_of(seen, manifest, layer);
    if (std::any_of(patches.begin(), patches.end(), [&](float v) { return v != patches[0]; })) return false;
  }
  return true;
}

}  // namespace edge::capi
