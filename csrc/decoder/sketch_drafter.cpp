// SPDX-License-Identifier: Apache-2.0
#include "decoder/sketch_drafter.h"

#include <algorithm>
#include <new>

namespace edge {
namespace {

// Nearly all guesses are right; this assumption weighs as much as so many of them.
constexpr float kRight = 0.95f, kRightWeight = 20.0f;
// A pass of the sketch yields one of them, where table and text do not help it.
constexpr float kPassWeight = 4.0f;
// Making it ready for a film costs more than it saves where fewer tokens than this are to come.
constexpr int64_t kLeast = 6;

float weighed(int64_t part, int64_t whole, float assumed, float weight) {
  return (static_cast<float>(part) + assumed * weight) / (static_cast<float>(whole) + weight);
}

// Takes the rows of guesses out of the text again.
class Guesses {
 public:
  explicit Guesses(Lane& lane) : lane_(lane), rows_(lane.text_rows()) {}
  ~Guesses() { lane_.rewind(rows_); }
  Guesses(const Guesses&) = delete;
  Guesses& operator=(const Guesses&) = delete;

  void keep(int64_t rows) { lane_.rewind(rows_ + rows); }

 private:
  Lane& lane_;
  int64_t rows_;
};

}  // namespace

SketchDrafter::SketchDrafter(Transformer& network, const TextRequest& request, const TokenChooser& chooser,
                             std::unique_ptr<Drafter> from_text, const PassCosts& costs,
                             const CancelToken* cancel)
    : network_(network),
      request_(request),
      chooser_(chooser),
      from_text_(std::move(from_text)),
      costs_(costs),
      cancel_(cancel),
      ends_(request.options->stop_ids),
      blocks_(static_cast<size_t>(chooser.blocks())),
      measure_([this](int64_t row, int64_t block, const NearLogits*) {
        const auto r = static_cast<size_t>(row);
        stats_[r * blocks_ + static_cast<size_t>(block)] = chooser_.measure(
            step_.logits + row * network_.spec().vocab, block, std::span(changed_).first(changed_before_[r]));
      }) {
  std::sort(ends_.begin(), ends_.end());
  const auto rows = static_cast<size_t>(from_text_ ? kMaxRows : 1);
  logits_.resize(rows * static_cast<size_t>(network.spec().vocab));
  stats_.resize(rows * blocks_);
  step_.lane = request.lane;
  step_.bias = request.options->bias_rows == BiasRows::all;
  step_.logits = logits_.data();
  step_.on_block = &measure_;
  step_.sketch = true;
}

int64_t SketchDrafter::best_length() const {
  const float chance = weighed(right_, tried_, kRight, kRightWeight);
  const float cost = network_.sketch_share(request_.lane) * weighed(passes_, guesses_, 1.0f, kPassWeight);
  float all = 1.0f, expected = 1.0f, most = 0.0f;
  int64_t best = 0;
  for (int64_t n = 0; n < kMaxRows; ++n) {
    const float gain = expected / (static_cast<float>(n) * cost + costs_[static_cast<size_t>(n + 1)]);
    if (gain > most) most = gain, best = n;
    all *= chance;
    expected += all;
  }
  return best;
}

std::span<const int32_t> SketchDrafter::draft(std::span<const int32_t> text, int64_t limit) {
  const int64_t wanted = std::min(limit, best_length());
  asked_ = wanted > 0 && (limit >= kLeast || network_.lane(request_.lane).sketched()) && is_ready();
  if (!asked_) return from_text_ ? from_text_->draft(text, limit) : std::span<const int32_t>{};
  text_.assign(text.begin(), text.end());
  known_ = text.size();
  Guesses rows(network_.lane(request_.lane));
  for (int64_t left = wanted; left > 0;) {
    const bool more = guess(left);
    const auto guessed = static_cast<int64_t>(text_.size() - known_);
    rows.keep(guessed);
    left = more && !(cancel_ && cancel_->cancelled()) ? wanted - guessed : 0;
  }
  return std::span<const int32_t>(text_).subspan(known_);
}

// A text needs no sketch: where memory is short it is written without one.
bool SketchDrafter::is_ready() {
  try {
    if (!without_) network_.ready_sketch(request_.lane);
  } catch (const std::bad_alloc&) {
    without_ = true;
  }
  return !without_;
}

bool SketchDrafter::guess(int64_t most) {
  pass_.assign(1, text_.back());
  if (from_text_) {
    const auto draft = from_text_->draft(text_, most - 1);
    pass_.insert(pass_.end(), draft.begin(), draft.end());
  }
  changed_.clear();
  const auto add = [this](int32_t id) {
    if (chooser_.fresh(id) && std::find(changed_.begin(), changed_.end(), id) == changed_.end())
      changed_.push_back(id);
  };
  for (size_t i = known_; i < text_.size(); ++i) add(text_[i]);
  for (size_t r = 0; r < pass_.size(); ++r) {
    if (r > 0) add(pass_[r]);
    changed_before_[r] = changed_.size();
  }
  step_.ids = pass_;
  network_.append(step_);
  ++passes_;
  size_t row = 0;
  bool ended = false;
  for (;;) {
    const int32_t id = chosen(row);
    ended = std::binary_search(ends_.begin(), ends_.end(), id);
    if (ended) break;
    text_.push_back(id);
    ++guesses_;
    if (row + 1 == pass_.size() || pass_[row + 1] != id) break;
    ++row;
  }
  if (from_text_) from_text_->verified(static_cast<int64_t>(row), row + 1 < pass_.size());
  return !ended;
}

int32_t SketchDrafter::chosen(size_t row) const {
  const auto stats = std::span(stats_).subspan(row * blocks_, blocks_);
  return std::max_element(stats.begin(), stats.end(),
                          [](const BlockStats& a, const BlockStats& b) { return a.best < b.best; })
      ->id;
}

void SketchDrafter::verified(int64_t accepted, bool refuted) {
  if (!asked_) {
    if (from_text_) from_text_->verified(accepted, refuted);
    return;
  }
  right_ += accepted;
  tried_ += accepted + (refuted ? 1 : 0);
}

}  // namespace edge
