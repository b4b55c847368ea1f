// SPDX-License-Identifier: Apache-2.0
// Less of a head, exactly. A greedy step wants the best of all scores, and of the others little more than
// their sum: every row is first looked at roughly, and those that could win, or that weigh something in the
// sum, in full behind that. How rough a score may be is bounded by Cauchy and Schwarz, so the winner is
// always among the rows that are looked at in full.
//   Of a float32 head 8 bits are read: |w x - w8 x| <= |w - w8| |x|.
//   By an int8 or int4 head, whose activations x are in digits, only their upper digits x' are multiplied:
//   |w x - w x'| <= |w| |x - x'|. That saves no bytes, but most of the arithmetic of a drafted pass.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "cpu/kernels.h"
#include "cpu/pages.h"
#include "cpu/thread_pool.h"
#include "decoder/weights.h"

namespace edge {

// Vocabulary entries per block: fixed, so results do not depend on how blocks are shared among threads.
inline constexpr int64_t kVocabBlock = 128;

// Heads below this many bytes stay in the processor's caches, where reading is not what takes the time. A
// weight in four bits counts as a byte: what is saved there is its products.
inline constexpr int64_t kScreenFrom = int64_t{32} << 20;

class HeadScreen {
 public:
  // Screens nothing.
  HeadScreen() = default;
  // Of a head in float32, or in int8 or int4 where the kernels multiply digits by it.
  HeadScreen(const Matrix& head, const Kernels& kernels, ThreadPool& pool);

  explicit operator bool() const { return matrix_.data != nullptr; }
  // What is read: the head in int8, or itself.
  const Matrix& matrix() const { return matrix_; }
  // Whether its own bytes are read, with the upper digits of the activations.
  bool by_digits() const { return !memory_.data(); }
  // A score of row i is off by at most slack[i] times what NearLogits says of x, rounding included.
  const float* slack() const { return slack_.data(); }
  // The largest of each block.
  const float* block_slack() const { return block_slack_.data(); }
  // The mean.
  double mean_slack() const { return mean_slack_; }

 private:
  template <class Row>
  void bound(ThreadPool& pool, Row slack_of_row);

  Pages memory_;
  Matrix matrix_;
  std::vector<float> scale_, slack_, block_slack_;
  double mean_slack_ = 0.0;
};

// One row of logits as the screen left them: near its scores.
class NearLogits {
 public:
  // `digits`: x in digits, or null where the head is float32.
  NearLogits(const HeadScreen& screen, const Matrix& head, const Kernels& kernels, const float* x,
             const DigitRows* digits, float* logits);

  const float* logits() const { return logits_; }
  // So many digits of x are enough.
  int64_t upper() const { return upper_; }
  // Makes logit i what the head says it is, bit by bit.
  void settle(int64_t i) const;
  // How far logit i can be from that.
  float bound(int64_t i) const { return bound_of(logits_[i], screen_.slack()[i]); }
  // How much more than `logit` a score of this block can be whose logit is not larger.
  float block_bound(int64_t block, float logit) const {
    return bound_of(logit, screen_.block_slack()[block]);
  }

 private:
  // The second term: a bias is added to the sum, and the bound to the logit.
  float bound_of(float logit, float slack) const {
    return slack * length_ + (logit < 0.0f ? -logit : logit) * 0x1p-20f;
  }

  const HeadScreen& screen_;
  const Matrix& head_;
  const Kernels& kernels_;
  const float* x_;
  DigitRows digits_{};
  float* logits_;
  int64_t upper_ = kDigits;
  float length_;  // of x, or of what it lacks without its lower digits; rounded up
};

}  // namespace edge
