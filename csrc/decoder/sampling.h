// SPDX-License-Identifier: Apache-2.0
// From logits to the next token: repetition penalty, suppressed ids, greedy choice or sampling,
// log-probability.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "cpu/kernels.h"
#include "decoder/screen.h"

namespace edge {

struct SamplingOptions {
  float repetition_penalty = 1.0f;  // over generated ids: score < 0 ? score * p : score / p
  float temperature = 0.0f;         // 0: greedy
  int64_t top_k = 0;                // 0: off
  float top_p = 1.0f;               // 1: off
  uint64_t seed = 0;
  std::vector<int32_t> suppressed;
};

// SplitMix64 (Steele, Lea, Flood 2014): 64-bit integer arithmetic only, so the same on every platform.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t next() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  // In [0, 1), 53 bits.
  double uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; }

 private:
  uint64_t state_;
};

// One block of raw logits: its log-sum-exp parts, and its best id after penalty and suppression.
struct BlockStats {
  float max;
  float sum_exp;
  float best;
  int32_t id;
  float slack = 0.0f;  // how far `best` can be from that id's score, where a screen left it near
};

// Which of the logits that a screen left near their scores are wanted as they are.
struct Reach {
  float best;   // those that can be as large as this: one of them wins
  float heavy;  // those that can be above this: what they are off by would be seen in the log-sum-exp
};

struct Choice {
  int32_t id;
  float logprob;  // log-softmax of the raw logits
};

struct Candidate {
  int32_t id;
  double probability;
};

class TokenChooser {
 public:
  // Throws std::invalid_argument for options out of range.
  TokenChooser(const Kernels& kernels, int64_t vocab, SamplingOptions options);

  int64_t blocks() const { return (vocab_ + kVocabBlock - 1) / kVocabBlock; }
  // Statistics of one block of a row, the ids `also` counting as generated (each must be `fresh`); may be
  // called from several threads at once.
  BlockStats measure(const float* logits, int64_t block, std::span<const int32_t> also = {}) const;
  // Logits of a screen, first of a block and then, when all blocks have been measured, of the row: makes
  // those exact that the penalty changes, and those within reach. Whoever is chosen has been made exact, and
  // was the best.
  BlockStats measure_near(const NearLogits& near, int64_t block, std::span<const int32_t> also = {}) const;
  // Looks at the statistics alone: other members may be settling logits.
  static Reach reach(std::span<const BlockStats> stats);
  // The block's statistics after that.
  BlockStats settle(const NearLogits& near, int64_t block, const BlockStats& stats, const Reach& reach,
                    std::span<const int32_t> also = {}) const;
  // Whether the score of the id would change if it counted as generated.
  bool fresh(int32_t id) const;
  // The next token of a row whose blocks have been measured. Equal scores: the lowest id.
  Choice choose(const float* logits, std::span<const BlockStats> stats);
  Choice choose(const float* logits);
  // Ids that the rows to come cannot choose, until others are named.
  void ban(std::vector<int32_t> ids);
  // From now on the id counts as generated.
  void generated(int32_t id);

  // What sampling draws from: ids that survive top-k and then top-p, in id order, probabilities summing to 1;
  // at least one.
  std::vector<Candidate> candidates(const float* logits) const;

 private:
  struct Special {
    int32_t id;
    bool suppressed;
    bool operator<(const Special& other) const { return id < other.id; }
  };
  float adjusted(const Special& special, float score) const;

  const Kernels& kernels_;
  int64_t vocab_;
  SamplingOptions options_;
  std::vector<Special> special_;  // sorted by id
  std::vector<int32_t> banned_;   // sorted
  Random random_;
};

}  // namespace edge
