// SPDX-License-Identifier: Apache-2.0
#include "window.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace edge::capi {

Window::Window(const edge_film& film, std::vector<std::string>& warnings) {
  const edge_lut& lut = film.voi_lut;
  if (lut.entries && lut.bits >= 8 && lut.bits <= 16) {
    const uint16_t most = *std::max_element(lut.entries, lut.entries + lut.count);
    const auto top = static_cast<float>(std::max((1u << lut.bits) - 1, (1u << std::bit_width(most)) - 1));
    kind_ = Kind::lut;
    first_ = static_cast<float>(lut.first);
    table_.reserve(static_cast<size_t>(lut.count));
    for (int32_t i = 0; i < lut.count; ++i) table_.push_back(static_cast<float>(lut.entries[i]) / top);
    return;
  }
  if (lut.entries) warnings.push_back("the VOI look-up table in the header is damaged and not used");
  if (film.voi == EDGE_VOI_NONE) return;
  const double center = film.window_center, width = film.window_width;
  if (!(std::fabs(center) < 1e30 && std::fabs(width) < 1e30)) {
    warnings.push_back("the window in the header is damaged and not used");
    return;
  }
  if (film.voi == EDGE_LINEAR ? width < 1.0 : width <= 1e-6) {
    warnings.push_back("the window width in the header is impossible; the window is not used");
    return;
  }
  if (film.voi == EDGE_SIGMOID) {
    kind_ = Kind::sigmoid;
    a_ = static_cast<float>(-4.0 / width), b_ = static_cast<float>(4.0 * center / width);
    return;
  }
  const bool exact = film.voi == EDGE_LINEAR_EXACT;
  const double span = exact ? width : width - 1.0;
  kind_ = exact ? Kind::linear_exact : Kind::linear;
  a_ = static_cast<float>(exact ? center : center - 0.5);
  b_ = span > 0.0 ? static_cast<float>(1.0 / span) : 0.0f;
}

float Window::curve(float x) const {
  switch (kind_) {
    case Kind::lut: {
      const float index = std::clamp(std::floor(x - first_), 0.0f, static_cast<float>(table_.size() - 1));
      return table_[static_cast<size_t>(index)];
    }
    case Kind::sigmoid: {
      const float y = std::clamp(x * a_ + b_, -80.0f, 80.0f);
      return 1.0f / (static_cast<float>(std::exp(static_cast<double>(y))) + 1.0f);
    }
    default:
      if (b_ == 0.0f) return x > a_ ? 1.0f : 0.0f;
      return std::clamp((x - a_) * b_ + 0.5f, 0.0f, 1.0f);
  }
}

void Window::apply(std::span<float> pixels) const {
  if (!mirror_) {
    for (float& value : pixels) value = curve(value);
    return;
  }
  for (float& value : pixels) value = 1.0f - curve(*mirror_ - value);
}

}  // namespace edge::capi
