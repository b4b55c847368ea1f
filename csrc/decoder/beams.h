// SPDX-License-Identifier: Apache-2.0
// Beam search: which texts go on, and which are finished. Follows transformers' arithmetic (float32 scores,
// length penalty on finished texts only, its three kinds of early stopping), so that ids come out the same.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "decoder/sampling.h"

namespace edge {

enum class EarlyStopping { no, yes, never };

struct BeamOptions {
  int64_t beams = 1;  // 1: no beam search
  float length_penalty = 1.0f;
  EarlyStopping early = EarlyStopping::no;
  int64_t sequences = 1;  // texts to return, at most `beams`
};

// Rules on what may follow a text.
struct TextRules {
  int64_t no_repeat_ngram = 0;   // no group of so many ids appears twice; 0: off
  int64_t min_new_tokens = 0;    // no stop id before so many
  bool penalise_prompt = false;  // the repetition penalty counts prompt ids, too
  int32_t forced_end = -1;       // takes the last place of a text that reaches the cap
  int64_t counted_begin = 0;     // so many of the prompt's ids count as text in the length penalty

  bool ban_anything() const { return no_repeat_ngram > 0 || min_new_tokens > 0; }
};

// Ids that must not follow `text`, of which the last `generated` are new; unsorted, perhaps with repeats.
std::vector<int32_t> banned_after(const TextRules& rules, std::span<const int32_t> stop_ids,
                                  std::span<const int32_t> text, int64_t generated);

// A text that goes on: its last token is a node of a tree.
struct Beam {
  int64_t node = -1;
  float score = 0.0f;
};

// A token that may follow a beam.
struct Continuation {
  float score;  // of the whole text
  int64_t beam;
  int32_t id;
  float logprob;  // of the token alone, before any rule
};

struct Finished {
  float score = -1e9f;
  bool done = false;
  int64_t node = -1;
  bool by_stop = false;
};

class BeamSearch {
 public:
  // `longest`: new tokens at most; `stop_ids` end a text.
  BeamSearch(const BeamOptions& options, const TextRules& rules, std::span<const int32_t> stop_ids,
             int64_t longest);

  // Continuations looked at per step.
  int64_t wanted() const;
  // Takes the best continuations in falling order and the nodes made for them; the beams that go on, or none
  // when the search has ended.
  std::span<const Beam> step(std::span<const Continuation> best, std::span<const int64_t> nodes);
  // Best first.
  std::span<const Finished> finished() const { return finished_; }

 private:
  bool is_stop(int32_t id) const;
  float penalised(float score, int64_t length) const;

  BeamOptions options_;
  TextRules rules_;
  std::vector<int32_t> stop_ids_;
  int64_t longest_, steps_ = 0;
  bool can_improve_ = true;
  std::vector<Beam> beams_;
  std::vector<Finished> finished_;
};

// One beam's row, for `best_continuations`.
struct BeamRow {
  const float* logits;
  std::span<const BlockStats> stats;  // their maximum and sum per block
  float score;
  std::vector<int32_t> banned;     // sorted
  std::vector<int32_t> penalised;  // sorted
  int32_t only = -1;               // the one id that may follow, its log-probability counting as 0
};

// The `wanted` best continuations of all rows, in falling order; of equal ones the earlier.
std::vector<Continuation> best_continuations(std::span<const BeamRow> rows, int64_t vocab, float penalty,
                                             int64_t wanted);

}  // namespace edge
