// SPDX-License-Identifier: Apache-2.0
#include "decoder/screen.h"

#include <algorithm>
#include <cmath>

#include "decoder/digits.h"

namespace edge {
namespace {

constexpr double kUp = 1.0 + 1e-6;  // what is rounded to a float afterwards must not become less

// As many digits are taken as leave the scores nearer than this, in the mean: then few rows are looked at in
// full.
constexpr double kNearEnough = 0.5;

double length_of(const float* x, int64_t n) {
  double sum = 0.0;
  for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  return std::sqrt(sum);
}

// Of a row of int4 weights; `wide`: room for it.
double length_of(const Matrix& head, const Kernels& kernels, int64_t row, float* wide) {
  std::fill_n(wide, head.cols, 0.0f);
  head.add_row(kernels, row, wide);
  return length_of(wide, head.cols);
}

double squares_of(const int8_t* x, int64_t n) {
  constexpr int64_t kInside32Bits = int64_t{1} << 16;
  double squares = 0.0;
  for (int64_t begin = 0; begin < n; begin += kInside32Bits) {
    const int64_t end = std::min(begin + kInside32Bits, n);
    int32_t sum = 0;
    for (int64_t i = begin; i < end; ++i) sum += static_cast<int16_t>(x[i]) * static_cast<int16_t>(x[i]);
    squares += static_cast<double>(sum);
  }
  return squares;
}

// Of a sum of so many products, relative to the product of the lengths.
double rounding_of(int64_t cols) { return static_cast<double>(cols + 8) * 0x1p-23; }

// What one row of x, for a matrix of this type, lacks without its `lower` digits.
double length_without(const DigitRows& x, DType matrix, int64_t lower) {
  const int64_t in_chunk = Digits::digits_of(matrix), size = in_chunk / kDigits;
  double sum = 0.0;
  for (int64_t chunk = 0; chunk < x.chunks; ++chunk) {
    const int8_t* digits = x.digits + chunk * in_chunk;
    int64_t of_chunk = 0;
    for (int64_t i = 0; i < size; ++i) {
      const int64_t lacks = digits[i] + (lower > 1 ? 256 * digits[size + i] : 0);
      of_chunk += lacks * lacks;
    }
    sum += static_cast<double>(of_chunk);
  }
  return std::sqrt(sum) * static_cast<double>(*x.scale);
}

}  // namespace

// Slacks of all rows, the largest of each block, and the mean.
template <class Row>
void HeadScreen::bound(ThreadPool& pool, Row slack_of_row) {
  const int64_t rows = matrix_.rows, blocks = (rows + kVocabBlock - 1) / kVocabBlock;
  slack_.resize(static_cast<size_t>(rows));
  block_slack_.resize(static_cast<size_t>(blocks));
  pool.run_whole([&](int thread) {
    for (int64_t b = blocks * thread / pool.team(); b < blocks * (thread + 1) / pool.team(); ++b)
      for (int64_t i = b * kVocabBlock; i < std::min((b + 1) * kVocabBlock, rows); ++i) {
        const auto slack = static_cast<float>(slack_of_row(i, thread) * kUp);
        slack_[static_cast<size_t>(i)] = slack;
        float& largest = block_slack_[static_cast<size_t>(b)];
        if (slack > largest || std::isnan(slack)) largest = slack;  // what is not a number stays
      }
  });
  for (const float slack : slack_) mean_slack_ += static_cast<double>(slack) / static_cast<double>(rows);
}

HeadScreen::HeadScreen(const Matrix& head, const Kernels& kernels, ThreadPool& pool) : matrix_(head) {
  const int64_t cols = head.cols;
  if (head.dtype == DType::i8) {
    bound(pool, [&](int64_t i, int) {
      const double squares = squares_of(static_cast<const int8_t*>(head.data) + i * cols, cols);
      return std::abs(static_cast<double>(head.scale[i])) * std::sqrt(squares);
    });
    return;
  }
  if (head.dtype == DType::i4) {
    std::vector<std::vector<float>> wide(static_cast<size_t>(pool.size()),
                                         std::vector<float>(static_cast<size_t>(cols)));
    bound(pool, [&](int64_t i, int thread) {
      return length_of(head, kernels, i, wide[static_cast<size_t>(thread)].data());
    });
    return;
  }
  memory_ = Pages(static_cast<size_t>(head.rows * cols));
  scale_.resize(static_cast<size_t>(head.rows));
  auto* bytes = reinterpret_cast<int8_t*>(memory_.data());
  matrix_ = {.data = bytes,
             .scale = scale_.data(),
             .bias = head.bias,
             .rows = head.rows,
             .cols = cols,
             .dtype = DType::i8};
  bound(pool, [&](int64_t i, int) {
    const auto* w = static_cast<const float*>(head.data) + i * cols;
    int8_t* q = bytes + i * cols;
    const float scale = kernels.to_int8(w, q, cols);
    double off = 0.0, own = 0.0, coarse = 0.0;
    for (int64_t k = 0; k < cols; ++k) {
      const double exact = static_cast<double>(w[k]);
      const double near = static_cast<double>(scale) * static_cast<double>(q[k]);
      off += (exact - near) * (exact - near);
      own += exact * exact;
      coarse += near * near;
    }
    scale_[static_cast<size_t>(i)] = scale;
    // Of the activations' own rounding, too.
    return std::sqrt(off) + rounding_of(cols) * (std::sqrt(own) + std::sqrt(coarse));
  });
}

NearLogits::NearLogits(const HeadScreen& screen, const Matrix& head, const Kernels& kernels, const float* x,
                       const DigitRows* digits, float* logits)
    : screen_(screen), head_(head), kernels_(kernels), x_(x), logits_(logits) {
  const double whole = length_of(x, head.cols);
  length_ = static_cast<float>(whole * kUp);
  if (!screen.by_digits()) return;
  digits_ = *digits;
  for (upper_ = 1; upper_ <= kDigits; ++upper_) {
    const double lacks = upper_ < kDigits ? length_without(digits_, head.dtype, kDigits - upper_) : 0.0;
    length_ = static_cast<float>((lacks + 2.0 * rounding_of(head.cols) * whole) * kUp);
    if (screen.mean_slack() * static_cast<double>(length_) <= kNearEnough) return;
  }
  upper_ = kDigits;
}

void NearLogits::settle(int64_t i) const {
  head_.multiply(kernels_, x_, 1, logits_, head_.rows, i, i + 1, false, {},
                 digits_.digits ? &digits_ : nullptr);
}

}  // namespace edge
