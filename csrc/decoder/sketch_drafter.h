// SPDX-License-Identifier: Apache-2.0
// Drafts that the decoder's sketch writes, itself helped by drafts from table and text.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "decoder/decoder.h"
#include "decoder/sampling.h"

namespace edge {

class SketchDrafter : public Drafter {
 public:
  // For the greedy text of a request that is alone in its passes. `chooser` chooses its ids, and so the
  // sketch's; `from_text` may be null; `costs` are those of passes over the decoder. References are kept;
  // `cancel` may be null.
  SketchDrafter(Transformer& network, const TextRequest& request, const TokenChooser& chooser,
                std::unique_ptr<Drafter> from_text, const PassCosts& costs, const CancelToken* cancel);
  SketchDrafter(const SketchDrafter&) = delete;
  SketchDrafter& operator=(const SketchDrafter&) = delete;

  // `text` ends with the id that the next pass begins with.
  std::span<const int32_t> draft(std::span<const int32_t> text, int64_t limit) override;
  void verified(int64_t accepted, bool refuted) override;
  int64_t sketch_passes() const override { return passes_; }

 private:
  // Ids after which a further guess costs more than it can be expected to bring.
  int64_t best_length() const;
  // Whether the sketch can be asked.
  bool is_ready();
  // One pass over the sketch behind text_; false when nothing can follow what it chose.
  bool guess(int64_t most);
  int32_t chosen(size_t row) const;

  Transformer& network_;
  const TextRequest& request_;
  const TokenChooser& chooser_;
  std::unique_ptr<Drafter> from_text_;
  PassCosts costs_;
  const CancelToken* cancel_;
  std::vector<int32_t> ends_;  // sorted: ids that no draft holds
  size_t blocks_;
  Step step_;
  std::vector<float> logits_;         // [rows, vocab]
  std::vector<BlockStats> stats_;     // [rows, blocks]
  std::vector<int32_t> text_, pass_;  // the text, then the draft; the ids of a pass of the sketch
  size_t known_ = 0;                  // of text_, not guessed
  std::vector<int32_t> changed_;      // as in the greedy writer
  std::array<size_t, kMaxRows> changed_before_{};
  int64_t passes_ = 0, guesses_ = 0;  // of the sketch, and what they yielded
  int64_t tried_ = 0, right_ = 0;     // guesses that were checked
  bool asked_ = false;                // the sketch, for the last draft
  bool without_ = false;              // there is no memory for it
  const BlockHook measure_;
};

}  // namespace edge
