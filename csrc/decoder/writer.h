// SPDX-License-Identifier: Apache-2.0
// A text that is being written in a lane: which rows it wants computed next, and what it makes of them. The
// loop around it is the decoder's, so several texts can share a pass over the weights.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "decoder/decoder.h"

namespace edge {

class Writer {
 public:
  // Lets the lane's text share its beginning with the prompt. Throws std::invalid_argument for a prompt that
  // does not fit. References are kept.
  Writer(Transformer& network, const TextRequest& request, const CancelToken* cancel);
  virtual ~Writer() = default;
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;

  bool ended() const { return ended_; }
  // Rows that it needs in one pass.
  virtual int64_t least() const = 0;
  // The rows of the next pass, at most `most` (not fewer than `least`); null when the text has ended.
  Step* next(int64_t most);
  // After the pass with these rows, logits where the step says.
  void took();
  GenerationResult finish();

 protected:
  // The prompt is behind us: the first token can be chosen, from the last row of the pass or, without a
  // prompt, from the logits of the request.
  virtual void begin(const float* first_logits) = 0;
  // Sets ids (and what goes with them) of the next pass in `step_`.
  virtual void plan(int64_t most) = 0;
  virtual void advance() = 0;
  void end(StopReason reason);
  bool cancelled() const { return cancel_ && cancel_->cancelled(); }
  bool report(int32_t id, float logprob) const {
    return !request_.on_token || request_.on_token(id, logprob);
  }
  const GenerateOptions& options() const { return *request_.options; }

  Transformer& network_;
  const TextRequest& request_;
  const CancelToken* cancel_;
  std::vector<int32_t> prompt_;
  Step step_;
  std::vector<float> evidence_;  // [rows, keys] of the step
  size_t keys_;                  // 0: no evidence
  GenerationResult result_;

 private:
  std::chrono::steady_clock::time_point start_;
  size_t prompt_at_;
  bool begun_ = false, ended_ = false;
};

// `texts` are written at once.
std::unique_ptr<Writer> make_greedy_writer(Transformer& network, const TextRequest& request,
                                           const CancelToken* cancel, int64_t texts);
std::unique_ptr<Writer> make_beam_writer(Transformer& network, const TextRequest& request,
                                         const CancelToken* cancel);

}  // namespace edge
