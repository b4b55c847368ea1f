// SPDX-License-Identifier: Apache-2.0
// The 8-bit picture to the model's input.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "film.h"

namespace edge::capi {

// With antialiasing: where the picture shrinks the kernel widens with it. One axis after the other, each
// result rounded to 8 bits; weights are fixed-point numbers with 22 fractional bits. Equal to the resize of
// Pillow 13.
Gray resize(const Gray& picture, int64_t rows, int64_t columns, Filter filter);

// float [3, height, width]: (grey / 255 - mean) / std, the grey picture standing in for all three channels.
std::vector<float> to_pixels(const Gray& picture, const ImageSpec& image);

}  // namespace edge::capi
