// SPDX-License-Identifier: Apache-2.0
#include "decoder/screen.h"

#include <algorithm>
#include <cmath>

namespace edge {
namespace {

constexpr double kUp = 1.0 + 1e-6;  // what is rounded to a float afterwards must not become less

double length_of(const float* x, int64_t n) {
  double sum = 0.0;
  for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  return std::sqrt(sum);
}

}  // namespace

HeadScreen::HeadScreen(const Matrix& head, const Kernels& kernels, ThreadPool& pool)
    : memory_(static_cast<size_t>(head.rows * head.cols)),
      scale_(static_cast<size_t>(head.rows)),
      slack_(static_cast<size_t>(head.rows)),
      block_slack_(static_cast<size_t>((head.rows + kVocabBlock - 1) / kVocabBlock)) {
  auto* bytes = reinterpret_cast<int8_t*>(memory_.data());
  matrix_ = {.data = bytes,
             .scale = scale_.data(),
             .bias = head.bias,
             .rows = head.rows,
             .cols = head.cols,
             .dtype = DType::i8};
  const int64_t cols = head.cols, blocks = std::ssize(block_slack_);
  // Of a sum of so many products and of the activations' own rounding, relative to the product of the
  // lengths.
  const double rounding = static_cast<double>(cols + 8) * 0x1p-23;
  pool.run_whole([&](int thread) {
    for (int64_t b = blocks * thread / pool.team(); b < blocks * (thread + 1) / pool.team(); ++b)
      for (int64_t i = b * kVocabBlock; i < std::min((b + 1) * kVocabBlock, head.rows); ++i) {
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
        const double slack = (std::sqrt(off) + rounding * (std::sqrt(own) + std::sqrt(coarse))) * kUp;
        scale_[static_cast<size_t>(i)] = scale;
        slack_[static_cast<size_t>(i)] = static_cast<float>(slack);
        // Written so that a slack which is not a number stays.
        float& largest = block_slack_[static_cast<size_t>(b)];
        if (!(slack_[static_cast<size_t>(i)] <= largest)) largest = slack_[static_cast<size_t>(i)];
      }
  });
}

NearLogits::NearLogits(const HeadScreen& screen, const Matrix& head, const Kernels& kernels, const float* x,
                       float* logits)
    : screen_(screen),
      head_(head),
      kernels_(kernels),
      x_(x),
      logits_(logits),
      length_(static_cast<float>(length_of(x, head.cols) * kUp)) {}

void NearLogits::settle(int64_t i) const { head_.multiply(kernels_, x_, 1, logits_, head_.rows, i, i + 1); }

}  // namespace edge
