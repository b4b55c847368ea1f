// SPDX-License-Identifier: Apache-2.0
#include "resize.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

namespace edge::capi {
namespace {

constexpr int kFraction =
    22;  // 8 bits of a sample, 22 of a weight, sign and one bit for overshoot fill an int32
constexpr int32_t kHalf = 1 << (kFraction - 1);

double cubic(double x) {
  constexpr double a = -0.5;
  x = std::fabs(x);
  if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0;
  if (x < 2.0) return (((x - 5.0) * x + 8.0) * x - 4.0) * a;
  return 0.0;
}

double triangle(double x) { return std::max(1.0 - std::fabs(x), 0.0); }

double lanczos(double x) {
  const auto sinc = [](double v) {
    return v == 0.0 ? 1.0 : std::sin(v * std::numbers::pi) / (v * std::numbers::pi);
  };
  return -3.0 <= x && x < 3.0 ? sinc(x) * sinc(x / 3.0) : 0.0;
}

struct Kernel {
  double support;
  double (*weight)(double);
};

Kernel kernel_of(Filter filter) {
  switch (filter) {
    case Filter::bilinear:
      return {1.0, triangle};
    case Filter::lanczos:
      return {3.0, lanczos};
    default:
      return {2.0, cubic};
  }
}

uint8_t to_sample(int32_t sum) { return static_cast<uint8_t>(std::clamp(sum >> kFraction, 0, 255)); }

// Which inputs an output is made of, and their weights.
struct Taps {
  int64_t begin = 0;
  std::vector<int32_t> weights;
};

std::vector<Taps> make_taps(int64_t in, int64_t out, const Kernel& kernel) {
  const double scale = static_cast<double>(in) / static_cast<double>(out), wide = std::max(scale, 1.0);
  const double support = kernel.support * wide, narrow = 1.0 / wide;
  std::vector<Taps> taps(static_cast<size_t>(out));
  std::vector<double> exact;
  for (int64_t i = 0; i < out; ++i) {
    const double center = (static_cast<double>(i) + 0.5) * scale;
    const int64_t begin = std::max(static_cast<int64_t>(center - support + 0.5), int64_t{0});
    const int64_t end = std::min(static_cast<int64_t>(center + support + 0.5), in);
    exact.clear();
    double sum = 0.0;
    for (int64_t x = begin; x < end; ++x) {
      exact.push_back(kernel.weight((static_cast<double>(x) - center + 0.5) * narrow));
      sum += exact.back();
    }
    Taps& tap = taps[static_cast<size_t>(i)];
    tap.begin = begin;
    for (double weight : exact) {
      if (sum != 0.0) weight /= sum;
      weight *= 1 << kFraction;
      tap.weights.push_back(static_cast<int32_t>(weight < 0.0 ? weight - 0.5 : weight + 0.5));
    }
  }
  return taps;
}

Gray resize_columns(const Gray& in, int64_t columns, const Kernel& kernel) {
  Gray out{in.rows, columns, std::vector<uint8_t>(static_cast<size_t>(in.rows * columns))};
  const std::vector<Taps> taps = make_taps(in.columns, columns, kernel);
  uint8_t* to = out.pixels.data();
  for (int64_t y = 0; y < in.rows; ++y) {
    const uint8_t* row = in.pixels.data() + y * in.columns;
    for (const Taps& tap : taps) {
      int32_t sum = kHalf;
      const uint8_t* from = row + tap.begin;
      for (size_t i = 0; i < tap.weights.size(); ++i) sum += tap.weights[i] * from[i];
      *to++ = to_sample(sum);
    }
  }
  return out;
}

Gray resize_rows(const Gray& in, int64_t rows, const Kernel& kernel) {
  Gray out{rows, in.columns, std::vector<uint8_t>(static_cast<size_t>(rows * in.columns))};
  std::vector<int32_t> sums(static_cast<size_t>(in.columns));
  uint8_t* to = out.pixels.data();
  for (const Taps& tap : make_taps(in.rows, rows, kernel)) {
    std::fill(sums.begin(), sums.end(), kHalf);
    const uint8_t* from = in.pixels.data() + tap.begin * in.columns;
    for (const int32_t weight : tap.weights) {
      for (size_t x = 0; x < sums.size(); ++x) sums[x] += weight * from[x];
      from += in.columns;
    }
    to = std::transform(sums.begin(), sums.end(), to, to_sample);
  }
  return out;
}

// To whole rows and columns, or to a shorter edge with the aspect kept; then the middle.
Gray resize_and_crop(const Gray& picture, const ImageSpec& image) {
  int64_t rows = image.crop_from.front(), columns = image.crop_from.back();
  if (image.crop_from.size() == 1) {
    const int64_t edge = rows, shorter = std::min(picture.rows, picture.columns);
    const auto scaled = [&](int64_t side) {
      const double exact = static_cast<double>(edge * side) / static_cast<double>(shorter);
      return std::min(side == shorter ? edge : static_cast<int64_t>(exact), 16 * edge);
    };
    rows = scaled(picture.rows), columns = scaled(picture.columns);
  }
  const Gray whole = resize(picture, rows, columns, image.filter);
  const int64_t top = (rows - image.height) / 2, left = (columns - image.width) / 2;
  Gray out{image.height, image.width, {}};
  for (int64_t y = top; y < top + image.height; ++y) {
    const auto row = whole.pixels.begin() + (y * columns + left);
    out.pixels.insert(out.pixels.end(), row, row + image.width);
  }
  return out;
}

}  // namespace

Gray resize(const Gray& picture, int64_t rows, int64_t columns, Filter filter) {
  const Kernel kernel = kernel_of(filter);
  const auto across = [&](const Gray& in) {
    return columns == in.columns ? in : resize_columns(in, columns, kernel);
  };
  const auto down = [&](const Gray& in) { return rows == in.rows ? in : resize_rows(in, rows, kernel); };
  // The order shows in the last bit, and Pillow takes the rows first where many more of them go (since 13).
  const bool tall = picture.rows > rows && picture.rows - rows > 2 * (picture.columns - columns);
  return tall ? across(down(picture)) : down(across(picture));
}

std::vector<float> to_pixels(const Gray& picture, const ImageSpec& image) {
  const Gray small = image.crop_from.empty() ? resize(picture, image.height, image.width, image.filter)
                                             : resize_and_crop(picture, image);
  std::vector<float> out;
  out.reserve(3 * small.pixels.size());
  for (size_t channel = 0; channel < 3; ++channel) {
    const auto mean = static_cast<float>(image.mean[channel]), std = static_cast<float>(image.std[channel]);
    std::array<float, 256> table;
    for (size_t v = 0; v < 256; ++v) table[v] = (static_cast<float>(v) / 255.0f - mean) / std;
    for (const uint8_t v : small.pixels) out.push_back(table[v]);
  }
  return out;
}

}  // namespace edge::capi
