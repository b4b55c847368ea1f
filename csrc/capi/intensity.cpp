// SPDX-License-Identifier: Apache-2.0
#include "intensity.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

namespace edge::capi {
namespace {

using Pair = std::pair<double, double>;

// Linear between the two neighbours of the place, as numpy.percentile does it: the difference in single, the
// rest in double precision.
double between(float below, float above, double share) {
  const double difference = above - below;
  return share < 0.5 ? below + difference * share : above - difference * (1.0 - share);
}

double by_selection(std::vector<float>& values, double percent) {
  const double place = percent / 100.0 * static_cast<double>(values.size() - 1);
  const auto rank = static_cast<size_t>(place);
  if (rank + 1 >= values.size()) return *std::max_element(values.begin(), values.end());
  const auto at = values.begin() + static_cast<std::ptrdiff_t>(rank);
  std::nth_element(values.begin(), at, values.end());
  return between(*at, *std::min_element(at + 1, values.end()), place - static_cast<double>(rank));
}

// Whole numbers close together, as films have, are counted instead of sorted. False where they are not.
bool by_counting(std::span<const float> values, float bottom, float top, double low, double high, Pair& out) {
  if (!(static_cast<double>(top) - bottom < 1 << 20 && std::fabs(bottom) < 1 << 23 &&
        bottom == std::floor(bottom)))
    return false;
  std::vector<int64_t> below(static_cast<size_t>(top - bottom) + 1);
  for (const float value : values) {
    const float shifted = value - bottom;
    const auto bin = static_cast<int32_t>(shifted);
    if (static_cast<float>(bin) != shifted) return false;
    ++below[static_cast<size_t>(bin)];
  }
  for (size_t i = 1; i < below.size(); ++i) below[i] += below[i - 1];
  const auto value_at = [&](int64_t rank) {
    return std::upper_bound(below.begin(), below.end(), rank) - below.begin();
  };
  const auto at = [&](double percent) {
    const double place = percent / 100.0 * static_cast<double>(values.size() - 1);
    const auto rank = static_cast<int64_t>(place);
    const auto here = value_at(rank), there = value_at(std::min(rank + 1, std::ssize(values) - 1));
    return static_cast<double>(bottom) + static_cast<double>(here) +
           static_cast<double>(there - here) * (place - static_cast<double>(rank));
  };
  out = {at(low), at(high)};
  return true;
}

}  // namespace

bool stretch(std::span<float> pixels, std::span<const uint8_t> valid, const ImageSpec& image) {
  std::vector<float> inside;
  if (valid.empty()) {
    if (image.mode != Intensity::minmax) inside.assign(pixels.begin(), pixels.end());
  } else {
    for (size_t i = 0; i < pixels.size(); ++i)
      if (valid[i]) inside.push_back(pixels[i]);
  }
  const std::span<const float> counted = inside.empty() ? std::span<const float>(pixels) : inside;
  const auto [least, most] = std::minmax_element(counted.begin(), counted.end());
  const float smallest = *least, largest = *most;
  Pair range{smallest, largest};
  if (image.mode != Intensity::minmax) {
    if (!by_counting(counted, smallest, largest, image.low, image.high, range))
      range = {by_selection(inside, image.low), by_selection(inside, image.high)};
    // Nearly uniform: what differs is in the tails.
    if (range.first == range.second) range = {smallest, largest};
  }
  // (A denormal range has no reciprocal.)
  if (!(range.second - range.first > 1e-38)) return false;
  const auto bottom = static_cast<float>(range.first),
             factor = static_cast<float>(1.0 / (range.second - range.first));
  for (float& value : pixels) value = std::clamp((value - bottom) * factor, 0.0f, 1.0f);
  return true;
}

void equalize(std::span<uint8_t> gray, std::span<const uint8_t> valid) {
  std::array<int64_t, 256> histogram{};
  int64_t count = 0;
  for (size_t i = 0; i < gray.size(); ++i)
    if (valid.empty() || valid[i]) ++histogram[gray[i]], ++count;
  const auto first = std::find_if(histogram.begin(), histogram.end(), [](int64_t bin) { return bin > 0; });
  const int64_t rest = count - *first;
  if (rest == 0) return;
  *first = 0;
  const float scale = 255.0f / static_cast<float>(rest);
  std::array<uint8_t, 256> table;
  int64_t sum = 0;
  for (size_t v = 0; v < 256; ++v) {
    sum += histogram[v];
    // Rounded half to even, the default rounding mode.
    table[v] =
        static_cast<uint8_t>(std::clamp(std::nearbyint(static_cast<float>(sum) * scale), 0.0f, 255.0f));
  }
  for (uint8_t& v : gray) v = table[v];
}

}  // namespace edge::capi
