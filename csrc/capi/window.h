// SPDX-License-Identifier: Apache-2.0
// Values of interest: the film's own window (three functions) or look-up table, DICOM PS3.3 C.11.2.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "edge_report.h"

namespace edge::capi {

class Window {
 public:
  Window() = default;
  // What of the film can be used; a window that cannot is left out with a warning.
  Window(const edge_film& film, std::vector<std::string>& warnings);

  bool given() const { return kind_ != Kind::none; }
  // The pixels are `mirror - value` from here on: the transformation is evaluated on `mirror - pixel` and its
  // result turned over, which is exact for every kind.
  void invert(float mirror) { mirror_ = mirror; }
  // Brightness 0 (black) to 1 (white), in place.
  void apply(std::span<float> pixels) const;

 private:
  enum class Kind { none, linear, linear_exact, sigmoid, lut };
  float curve(float x) const;

  Kind kind_ = Kind::none;
  float a_ = 0.0f, b_ = 0.0f;  // linear: middle and 1/span (0: a threshold); sigmoid: factor and offset
  float first_ = 0.0f;
  std::vector<float> table_;
  std::optional<float> mirror_;
};

}  // namespace edge::capi
