// SPDX-License-Identifier: Apache-2.0
// From the residual stream to logits, with or without a screen.
#include <algorithm>
#include <array>
#include <optional>

#include "decoder/transformer_team.h"

namespace edge {

int64_t Transformer::vocab_blocks() const { return (spec_.vocab + kVocabBlock - 1) / kVocabBlock; }

void Transformer::project_logits(int thread) {
  const int64_t n = std::ssize(wanted_);
  if (n == 0) return;
  float* own = own_[size_of(thread)].data();
  for (int64_t r = 0; r < n; ++r)
    normalise(head_input(), x_.data() + wanted_[size_of(r)].row * spec_.hidden, own + r * spec_.hidden, 1);
  if (spec_.head_transform) {
    const DigitRows* input = digits_[size_of(thread)].round(transform(), own, n);
    spread_rows(thread, kTransform, transform(), first_rows(thread, head(), kVocabBlock),
                [&](int64_t begin, int64_t end, const NextRead& next) {
                  transform().multiply(kernels_, own, n, transformed_.data(), spec_.hidden, begin, end, false,
                                       next, input);
                  for (int64_t r = 0; r < n; ++r)
                    activation()(transformed_.data() + r * spec_.hidden + begin, end - begin);
                });
    expect_rows(thread, head(), kVocabBlock);
    pool_.barrier(thread);
    normalise(weights_.transform_norm, transformed_.data(), own, n);
  }
  const DigitRows* input = digits_[size_of(thread)].round(head(), own, n);
  const NextRead behind = first_rows(thread, layers().front().qkv, spec_.head_dim);  // of the next step
  float* logits = wanted_.front().step->logits;
  std::array<std::optional<NearLogits>, kMaxRows> near;
  for (int64_t r = 0; r < n && screened_; ++r)
    if (wanted_[size_of(r)].step->on_screened) {
      const DigitRows digits = input ? Digits::from(*input, head().dtype, r) : DigitRows{};
      near[size_of(r)].emplace(screen_, weights_.head, kernels_, own + r * spec_.hidden, &digits,
                               logits + r * spec_.vocab);
    }
  const auto matrix_of = [&](int64_t r) -> const Matrix& {
    return near[size_of(r)] || (sketching_ && screened_) ? screen_.matrix() : weights_.head;
  };
  const auto upper_of = [&](int64_t r) { return near[size_of(r)] ? near[size_of(r)]->upper() : kDigits; };
  // Neighbours that read the same bytes and multiply as many digits.
  const auto project = [&](int64_t first, int64_t count, int64_t block, int64_t after) {
    const Matrix& matrix = matrix_of(first);
    const bool rounded = input && matrix.dtype == head().dtype;
    DigitRows part = rounded ? Digits::from(*input, matrix.dtype, first) : DigitRows{};
    part.upper = upper_of(first);
    matrix.multiply(kernels_, own + first * spec_.hidden, count, logits + first * spec_.vocab, spec_.vocab,
                    block * kVocabBlock, std::min((block + 1) * kVocabBlock, spec_.vocab), false,
                    after < 0 ? behind : matrix.from_row(after * kVocabBlock), rounded ? &part : nullptr);
  };
  spread(thread, kHead, vocab_blocks(), [&](int64_t begin, int64_t end, int64_t after) {
    for (int64_t b = begin; b < end; ++b) {
      for (int64_t first = 0, last = 1; first < n; first = last++) {
        while (last < n && &matrix_of(last) == &matrix_of(first) && upper_of(last) == upper_of(first)) ++last;
        project(first, last - first, b, b + 1 < end ? b + 1 : after);
      }
      for (int64_t r = 0; r < n; ++r) {
        const Wanted& row = wanted_[size_of(r)];
        const auto& approximate = near[size_of(r)];
        if (row.step->on_block) (*row.step->on_block)(row.index, b, approximate ? &*approximate : nullptr);
      }
    }
  });
  if (!screened_ || sketching_) return;
  pool_.barrier(thread);
  const auto [begin, end] = share(vocab_blocks(), thread, pool_.team());
  for (int64_t r = 0; r < n; ++r)
    if (const auto& row = near[size_of(r)])
      (*wanted_[size_of(r)].step->on_screened)(wanted_[size_of(r)].index, begin, end, *row);
}

}  // namespace edge
