// SPDX-License-Identifier: Apache-2.0
// Intensities without a window: ranges, percentiles, histogram equalisation; the twin of edge/preprocess.py.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "manifest.h"

namespace edge::capi {

// Maps the pixels to 0..1 in place, by the extremes or percentiles of the valid ones (`valid` empty: all).
// False where they are all alike.
bool stretch(std::span<float> pixels, std::span<const uint8_t> valid, const ImageSpec& image);

// 0..1 to 0..255, rounded half up.
inline uint8_t to_byte(float unit) {
  const float scaled = unit * 255.0f + 0.5f;
  return static_cast<uint8_t>(scaled > 0.0f ? scaled < 255.0f ? scaled : 255.0f : 0.0f);
}

// Histogram equalisation of 8-bit pixels; only valid ones are counted.
void equalize(std::span<uint8_t> gray, std::span<const uint8_t> valid);

}  // namespace edge::capi
