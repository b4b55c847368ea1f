// SPDX-License-Identifier: Apache-2.0
#include "film.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <optional>
#include <span>

#include "failure.h"
#include "intensity.h"
#include "window.h"

namespace edge::capi {
namespace {

struct Depth {
  int stored, low_bit;
  bool is_signed;
  int64_t lowest() const { return is_signed ? -(int64_t{1} << (stored - 1)) : 0; }
  int64_t highest() const { return (int64_t{1} << (stored - (is_signed ? 1 : 0))) - 1; }
};

Depth depth_of(const edge_film& film, std::vector<std::string>& warnings) {
  Depth depth{film.bits_stored ? film.bits_stored : film.bits_allocated, 0, film.is_signed != 0};
  int high = film.high_bit;
  if (high < depth.stored - 1 || high >= film.bits_allocated) {
    if (high >= 0) warnings.push_back("the header's high bit is impossible; the lowest bits are used");
    high = depth.stored - 1;
  }
  depth.low_bit = high - depth.stored + 1;
  return depth;
}

// Calls use(index, stored value) for every pixel: bits outside the stored ones dropped, the sign extended.
template <class Use>
void each_stored(const edge_film& film, const Depth& depth, Use use) {
  const int64_t cell = film.bits_allocated / 8,
                stride = film.row_stride ? film.row_stride : film.columns * cell;
  const uint32_t mask = (1u << depth.stored) - 1, sign = depth.is_signed ? 1u << (depth.stored - 1) : 0;
  const bool swapped = cell == 2 && (film.big_endian != 0) != (std::endian::native == std::endian::big);
  const auto* row = static_cast<const std::byte*>(film.pixels);
  int64_t index = 0;
  for (int64_t y = 0; y < film.rows; ++y, row += stride)
    for (int64_t x = 0; x < film.columns; ++x) {
      uint32_t value = 0;
      if (cell == 1) {
        value = std::to_integer<uint32_t>(row[x]);
      } else {
        uint16_t word;
        std::memcpy(&word, row + 2 * x, 2);
        value = swapped ? static_cast<uint32_t>((word & 0xFF) << 8 | word >> 8) : word;
      }
      value = value >> depth.low_bit & mask;
      use(index++, static_cast<int32_t>(value ^ sign) - static_cast<int32_t>(sign));
    }
}

// Highest output of a table: its nominal depth, or more where its entries exceed that.
uint32_t top_of(const edge_lut& lut) {
  const uint16_t most = *std::max_element(lut.entries, lut.entries + lut.count);
  return std::max((1u << lut.bits) - 1, (1u << std::bit_width(most)) - 1);
}

// Where a pixel is picture; empty where all are.
std::vector<uint8_t> valid_pixels(const edge_film& film, const Depth& depth,
                                  std::vector<std::string>& warnings) {
  if (!film.has_padding) return {};
  const int32_t limit = film.padding_limit == INT32_MIN ? film.padding_value : film.padding_limit;
  const int32_t low = std::min(film.padding_value, limit), high = std::max(film.padding_value, limit);
  std::vector<uint8_t> valid(static_cast<size_t>(film.rows) * static_cast<size_t>(film.columns));
  int64_t count = 0;
  each_stored(film, depth, [&](int64_t i, int32_t stored) {
    const bool picture = stored < low || stored > high;
    valid[static_cast<size_t>(i)] = picture;
    count += picture;
  });
  if (count == 0) warnings.push_back("every pixel is marked as padding; the padding value is ignored");
  if (count == 0 || count == std::ssize(valid)) valid.clear();
  return valid;
}

// Modality units, and the range that stored values can have in them.
std::vector<float> modality(const edge_film& film, const Depth& depth, double& lowest, double& highest) {
  std::vector<float> pixels(static_cast<size_t>(film.rows) * static_cast<size_t>(film.columns));
  const edge_lut& lut = film.modality_lut;
  if (lut.entries) {
    each_stored(film, depth, [&](int64_t i, int32_t stored) {
      pixels[static_cast<size_t>(i)] = lut.entries[std::clamp(stored - lut.first, 0, lut.count - 1)];
    });
    lowest = 0.0, highest = top_of(lut);
    return pixels;
  }
  const double slope = film.rescale_slope, intercept = film.rescale_intercept;
  const auto factor = static_cast<float>(slope), offset = static_cast<float>(intercept);
  each_stored(film, depth, [&](int64_t i, int32_t stored) {
    pixels[static_cast<size_t>(i)] =
        static_cast<float>(stored) * factor + offset;  // not contracted: see CMake
  });
  const double ends[] = {static_cast<double>(depth.lowest()) * slope + intercept,
                         static_cast<double>(depth.highest()) * slope + intercept};
  lowest = std::min(ends[0], ends[1]), highest = std::max(ends[0], ends[1]);
  return pixels;
}

bool inverted(const edge_film& film, std::vector<std::string>& warnings) {
  const bool one = film.photometric == EDGE_MONOCHROME1;
  if (film.presentation != EDGE_PRESENTATION_NONE && one != (film.presentation == EDGE_INVERSE))
    warnings.push_back("photometric interpretation and presentation LUT shape contradict each other");
  return one || film.presentation == EDGE_INVERSE;
}

std::vector<float> float_pixels(const edge_film& film) {
  const auto columns = static_cast<size_t>(film.columns);
  const int64_t stride = film.row_stride ? film.row_stride : int64_t{film.columns} * 4;
  std::vector<float> pixels(static_cast<size_t>(film.rows) * columns);
  const auto* row = static_cast<const std::byte*>(film.pixels);
  for (size_t y = 0; y < static_cast<size_t>(film.rows); ++y, row += stride)
    std::memcpy(pixels.data() + y * columns, row, columns * 4);
  for (const float value : pixels)
    if (!std::isfinite(value)) throw Failure(EDGE_CORRUPT, "the film holds values that are not finite");
  return pixels;
}

// Whether all that is picture has one value (`valid` empty: all is).
template <class Value>
bool uniform(std::span<const Value> values, std::span<const uint8_t> valid) {
  std::optional<Value> first;
  for (size_t i = 0; i < values.size(); ++i) {
    if (!valid.empty() && !valid[i]) continue;
    if (first && *first != values[i]) return false;
    first = values[i];
  }
  return true;
}

// The pixels through the window; they stay as they are.
void show(const Window& window, std::span<const float> pixels, std::span<uint8_t> gray) {
  constexpr size_t kStrip = 1 << 16;
  std::vector<float> strip;
  for (size_t begin = 0; begin < pixels.size(); begin += kStrip) {
    const auto part = pixels.subspan(begin, std::min(kStrip, pixels.size() - begin));
    strip.assign(part.begin(), part.end());
    window.apply(strip);
    for (size_t i = 0; i < strip.size(); ++i) gray[begin + i] = to_byte(strip[i]);
  }
}

}  // namespace

Gray to_gray(const edge_film& film, const ImageSpec& image, std::vector<std::string>& warnings) {
  std::vector<float> pixels;
  std::vector<uint8_t> valid;
  Window window;
  if (film.bits_allocated == 32) {
    pixels = float_pixels(film);
  } else {
    const Depth depth = depth_of(film, warnings);
    valid = valid_pixels(film, depth, warnings);
    double lowest = 0.0, highest = 0.0;
    pixels = modality(film, depth, lowest, highest);
    window = Window(film, warnings);
    if (inverted(film, warnings)) {
      const auto mirror = static_cast<float>(lowest + highest);
      for (float& value : pixels) value = mirror - value;
      window.invert(mirror);
    }
  }
  // A model would write that the lungs are clear.
  if (uniform<float>(pixels, valid))
    throw Failure(EDGE_UNSUPPORTED_PIXELS, "every pixel has the same value; there is nothing to see");
  Gray gray{film.rows, film.columns, std::vector<uint8_t>(pixels.size())};
  bool shown = false;
  if (image.mode == Intensity::window && window.given()) {
    show(window, pixels, gray.pixels);
    shown = !uniform<uint8_t>(gray.pixels, valid);
    if (!shown) warnings.push_back("the window in the header shows nothing of the film and is not used");
  }
  if (!shown) {
    if (!stretch(pixels, valid, image))
      return Gray{film.rows, film.columns, std::vector<uint8_t>(pixels.size())};
    for (size_t i = 0; i < pixels.size(); ++i) gray.pixels[i] = to_byte(pixels[i]);
  }
  if (image.equalize) equalize(gray.pixels, valid);
  for (size_t i = 0; i < valid.size(); ++i)
    if (!valid[i]) gray.pixels[i] = 0;
  return gray;
}

}  // namespace edge::capi
