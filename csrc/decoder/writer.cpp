// SPDX-License-Identifier: Apache-2.0
#include "decoder/writer.h"

#include <algorithm>
#include <string>

namespace edge {

Writer::Writer(Transformer& network, const TextRequest& request, const CancelToken* cancel)
    : network_(network),
      request_(request),
      cancel_(cancel),
      prompt_(request.options->begin_ids),
      keys_(network.has_evidence() ? static_cast<size_t>(network.lane(request.lane).image_rows()) : 0),
      start_(std::chrono::steady_clock::now()) {
  const GenerateOptions& options = *request.options;
  prompt_.insert(prompt_.end(), options.forced_ids.begin(), options.forced_ids.end());
  if (!request.first_logits && prompt_.empty())
    throw std::invalid_argument("without first_logits a prompt (begin_ids or forced_ids) is needed");
  // What the prompt shares with the text that is there need not be computed again, but for the row it is
  // chosen from.
  step_.lane = request.lane;
  step_.bias = options.bias_rows != BiasRows::none;
  Lane& lane = network_.lane(request.lane);
  const int64_t shared =
      prompt_.empty() ? 0 : std::min(lane.matching_rows(prompt_, step_.bias), std::ssize(prompt_) - 1);
  lane.rewind(shared);
  const int64_t rows_left = network_.rows_left(request.lane);
  if (std::ssize(prompt_) - shared > rows_left)
    throw std::invalid_argument("a prompt of " + std::to_string(prompt_.size()) +
                                " ids does not fit: " + std::to_string(rows_left) + " positions are left");
  prompt_at_ = static_cast<size_t>(shared);
  result_.forced_ids = options.forced_ids;
  if (options.max_new_tokens == 0) end(StopReason::length);
}

Step* Writer::next(int64_t most) {
  if (!ended_ && !begun_ && prompt_at_ == prompt_.size()) {
    begun_ = true;
    step_.bias = options().bias_rows == BiasRows::all;
    begin(request_.first_logits);
  }
  if (!ended_ && cancelled()) end(StopReason::cancelled);
  if (ended_) return nullptr;
  if (begun_) {
    plan(most);
    return &step_;
  }
  const auto ids = std::span<const int32_t>(prompt_).subspan(prompt_at_);
  step_.ids = ids.first(std::min(static_cast<size_t>(most), ids.size()));
  step_.logits_from = std::ssize(step_.ids) - (step_.ids.size() == ids.size() ? 1 : 0);
  return &step_;
}

void Writer::took() {
  if (begun_) {
    advance();
    return;
  }
  prompt_at_ += step_.ids.size();
  if (prompt_at_ < prompt_.size()) return;
  begun_ = true;
  step_.bias = options().bias_rows == BiasRows::all;
  step_.logits_from = 0;
  begin(nullptr);
}

void Writer::end(StopReason reason) {
  ended_ = true;
  result_.stop_reason = reason;
  result_.decode_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
}

GenerationResult Writer::finish() { return std::move(result_); }

}  // namespace edge
