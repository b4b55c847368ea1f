// SPDX-License-Identifier: Apache-2.0
// Reading less of a float32 head, exactly. A greedy step wants the best of all scores, and of the others
// little more than their sum: every row is read in 8 bits first, and those that could win, or that weigh
// something in the sum, in float32 behind that. What the 8 bits may be off is bounded by Cauchy and Schwarz,
// |w x - w8 x| <= |w - w8| |x|, so the winner is always among the rows that are read in full.
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

// Heads below this many bytes stay in the processor's caches, where reading is not what takes the time.
inline constexpr int64_t kScreenFrom = int64_t{32} << 20;

class HeadScreen {
 public:
  // Screens nothing.
  HeadScreen() = default;
  // Of a float32 head.
  HeadScreen(const Matrix& head, const Kernels& kernels, ThreadPool& pool);

  explicit operator bool() const { return memory_.data() != nullptr; }
  // The head in int8.
  const Matrix& matrix() const { return matrix_; }
  // A score of row i is off by at most slack[i] |x|, the rounding of both sums included.
  const float* slack() const { return slack_.data(); }
  // The largest of each block.
  const float* block_slack() const { return block_slack_.data(); }

 private:
  Pages memory_;
  Matrix matrix_;
  std::vector<float> scale_, slack_, block_slack_;
};

// One row of logits as the screen left them: near its scores.
class NearLogits {
 public:
  NearLogits(const HeadScreen& screen, const Matrix& head, const Kernels& kernels, const float* x,
             float* logits);

  const float* logits() const { return logits_; }
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
  float* logits_;
  float length_;  // of x, rounded up
};

}  // namespace edge
