// SPDX-License-Identifier: Apache-2.0
// One text token by token, greedy or sampled; greedy ones several tokens per pass where they can be guessed.
#include <algorithm>
#include <array>

#include "decoder/sketch_drafter.h"
#include "decoder/writer.h"

namespace edge {
namespace {

// Measured in passes over one row. Where weights and cache come from memory, further rows cost little until
// the arithmetic takes longer than the reading, which it does later where weights are float32; a decoder that
// stays in the processor's cache pays for the arithmetic of every row.
constexpr PassCosts kFromMemory{0.0f, 1.0f,  1.02f, 1.05f, 1.2f, 1.5f,  1.53f, 1.56f, 1.75f,
                                2.1f, 2.15f, 2.3f,  2.5f,  2.7f, 2.85f, 3.0f,  3.1f};
constexpr PassCosts kFloatsFromMemory{0.0f,  1.0f,  1.03f, 1.08f, 1.13f, 1.21f, 1.28f, 1.45f, 1.55f,
                                      1.65f, 1.73f, 1.8f,  1.86f, 2.05f, 2.12f, 2.2f,  2.27f};
constexpr PassCosts kFromCache{0.0f, 1.0f, 1.4f, 1.95f, 2.4f, 3.4f, 3.75f, 4.2f, 4.4f,
                               5.3f, 5.6f, 6.0f, 6.3f,  7.0f, 7.3f, 7.6f,  7.9f};
constexpr float kCacheBytes = 32 << 20;

PassCosts costs_of(const Transformer& network, const TextRequest& request, int64_t texts) {
  const bool large = network.step_bytes(request.lane) > kCacheBytes;
  const PassCosts costs = pass_costs(*request.options, !large                   ? kFromCache
                                                       : network.reads_floats() ? kFloatsFromMemory
                                                                                : kFromMemory);
  if (texts == 1) return costs;
  // As if every text had as many rows: what the rows of one cost is seen by all.
  PassCosts shared = costs;
  for (int64_t rows = 1; rows <= kMaxRows; ++rows)
    shared[static_cast<size_t>(rows)] =
        costs[static_cast<size_t>(std::min(rows * texts, kMaxRows))] / costs[static_cast<size_t>(texts)];
  return shared;
}

// The rows of a pass whose ids turned out wrong, or were never looked at, leave the cache again.
class SpareRows {
 public:
  explicit SpareRows(Lane& lane) : lane_(lane) {}
  ~SpareRows() { drop(); }
  SpareRows(const SpareRows&) = delete;
  SpareRows& operator=(const SpareRows&) = delete;

  int64_t count = 0;
  void drop() {
    lane_.rewind(lane_.text_rows() - count);
    count = 0;
  }

 private:
  Lane& lane_;
};

std::unique_ptr<Drafter> drafter_of(Transformer& network, const TextRequest& request,
                                    const CancelToken* cancel, int64_t texts, const TokenChooser& chooser) {
  const GenerateOptions& options = *request.options;
  const PassCosts costs = costs_of(network, request, texts);
  // Several texts share what a pass reads as it is.
  if (!options.sketch || !network.sketches() || texts != 1 || !can_be_drafted(options))
    return make_drafter(options, costs);
  const bool large = network.sketch_share(request.lane) * network.step_bytes(request.lane) > kCacheBytes;
  auto from_text = make_drafter(options, large ? kFromMemory : kFromCache);
  return std::make_unique<SketchDrafter>(network, request, chooser, std::move(from_text), costs, cancel);
}

class GreedyWriter : public Writer {
 public:
  GreedyWriter(Transformer& network, const TextRequest& request, const CancelToken* cancel, int64_t texts)
      : Writer(network, request, cancel),
        chooser_(network.kernels(), network.spec().vocab, options().sampling),
        drafter_(drafter_of(network, request, cancel, texts, chooser_)),
        blocks_(static_cast<size_t>(chooser_.blocks())),
        text_(options().forced_ids),
        before_(prompt_),
        spare_(network.lane(request.lane)) {
    const size_t widest = drafter_ ? kMaxRows : 1;
    stats_.resize(widest * blocks_);
    evidence_.resize(widest * keys_);
    step_.evidence = evidence_.empty() ? nullptr : evidence_.data();
    step_.on_block = &measure_;
    if (network.screens() && options().sampling.temperature == 0.0f) {
      settled_.resize(stats_.size());
      step_.on_screened = &settle_;
    }
    if (options().rules.penalise_prompt)
      for (const int32_t id : prompt_) chooser_.generated(id);
    set_bans();
  }

  int64_t least() const override { return 1; }

 protected:
  void begin(const float* first_logits) override {
    choice_ = first_logits ? chooser_.choose(first_logits) : choose(0);
    cap_ = options().max_new_tokens - (options().rules.forced_end >= 0 ? 1 : 0);
    if (cap_ <= 0)
      end(StopReason::length);
    else
      consume();
  }

  void plan(int64_t most) override {
    pass_.assign(1, choice_.id);
    if (drafter_) {
      const int64_t left = cap_ - std::ssize(result_.token_ids);
      const auto draft =
          drafter_->draft(text_, std::min({left, network_.rows_left(request_.lane), most}) - 1);
      pass_.insert(pass_.end(), draft.begin(), draft.end());
      result_.sketch_passes = drafter_->sketch_passes();
    }
    changed_.clear();
    for (size_t r = 1; r < pass_.size(); ++r) {
      if (chooser_.fresh(pass_[r]) && std::find(changed_.begin(), changed_.end(), pass_[r]) == changed_.end())
        changed_.push_back(pass_[r]);
      changed_before_[r] = changed_.size();
    }
    step_.ids = pass_;
    set_bans();
  }

  void advance() override {
    row_ = 0;
    spare_.count = std::ssize(pass_) - 1;
    ++result_.passes;
    result_.drafted += spare_.count;
    choice_ = choose(0);
    consume();
  }

 private:
  // Takes the chosen id, and those that further rows of the pass choose, until one needs a new pass.
  void consume() {
    for (;;) {
      const std::vector<int32_t>& stops = options().stop_ids;
      if (std::find(stops.begin(), stops.end(), choice_.id) != stops.end()) return end(StopReason::stop);
      result_.token_ids.push_back(choice_.id);
      result_.logprobs.push_back(choice_.logprob);
      const auto mass = evidence_.begin() + static_cast<std::ptrdiff_t>(row_ * keys_);
      result_.evidence.insert(result_.evidence.end(), mass, mass + static_cast<std::ptrdiff_t>(keys_));
      chooser_.generated(choice_.id);
      text_.push_back(choice_.id);
      if (!report(choice_.id, choice_.logprob)) return end(StopReason::cancelled);
      const int64_t rows_left = network_.rows_left(request_.lane) + spare_.count;
      if (cap_ <= std::ssize(result_.token_ids) || rows_left == 0) return end(StopReason::length);
      if (cancelled()) return end(StopReason::cancelled);
      if (spare_.count == 0 || pass_[row_ + 1] != choice_.id) break;
      // The draft was right: the row that follows this id has been computed.
      ++row_;
      --spare_.count;
      ++result_.accepted;
      choice_ = choose(row_);
    }
    if (drafter_ && !pass_.empty()) drafter_->verified(static_cast<int64_t>(row_), spare_.count > 0);
    spare_.drop();
  }

  Choice choose(size_t row) {
    return chooser_.choose(step_.logits + row * static_cast<size_t>(network_.spec().vocab),
                           std::span(settled_.empty() ? stats_ : settled_).subspan(row * blocks_, blocks_));
  }

  void set_bans() {
    if (!options().rules.ban_anything()) return;
    before_.resize(prompt_.size());
    before_.insert(before_.end(), result_.token_ids.begin(), result_.token_ids.end());
    chooser_.ban(banned_after(options().rules, options().stop_ids, before_, std::ssize(result_.token_ids)));
  }

  TokenChooser chooser_;
  std::unique_ptr<Drafter> drafter_;
  size_t blocks_;
  std::vector<BlockStats> stats_;    // [rows, blocks]
  std::vector<BlockStats> settled_;  // the same behind a screen
  Choice choice_{};
  int64_t cap_ = 0;
  std::vector<int32_t> text_, pass_;  // what a draft follows; the ids of the running pass
  std::vector<int32_t> before_;       // all ids before the next one, where rules look at them
  // Row r is chosen from as if the drafted ids before it were generated: `changed_` are those of them whose
  // score that changes, each once; the first changed_before_[r] belong to row r.
  std::vector<int32_t> changed_;
  std::array<size_t, kMaxRows> changed_before_{};
  size_t row_ = 0;  // of the pass, that `choice_` comes from
  SpareRows spare_;
  std::span<const int32_t> changed_before(size_t row) const {
    return std::span(changed_).first(changed_before_[row]);
  }
  const BlockHook measure_ = [this](int64_t row, int64_t block, const NearLogits* near) {
    const auto r = static_cast<size_t>(row);
    const float* logits = step_.logits + row * network_.spec().vocab;
    stats_[r * blocks_ + static_cast<size_t>(block)] =
        near ? chooser_.measure_near(*near, block, changed_before(r))
             : chooser_.measure(logits, block, changed_before(r));
  };
  const ScreenHook settle_ = [this](int64_t row, int64_t begin, int64_t end, const NearLogits& near) {
    const auto r = static_cast<size_t>(row);
    const auto stats = std::span(stats_).subspan(r * blocks_, blocks_);
    const Reach reach = TokenChooser::reach(stats);
    for (int64_t b = begin; b < end; ++b)
      settled_[r * blocks_ + static_cast<size_t>(b)] =
          chooser_.settle(near, b, stats[static_cast<size_t>(b)], reach, changed_before(r));
  };
};

}  // namespace

PassCosts pass_costs(const GenerateOptions& options, const PassCosts& assumed) {
  PassCosts costs = assumed;
  if (!options.draft_costs.empty()) std::copy_n(options.draft_costs.begin(), kMaxRows, costs.begin() + 1);
  return costs;
}

// A sampled id depends on the state of the random numbers, so there is nothing to check a draft against.
bool can_be_drafted(const GenerateOptions& options) {
  return options.draft_script.empty() && options.sampling.temperature == 0.0f &&
         !options.rules.ban_anything();
}

std::unique_ptr<Drafter> make_drafter(const GenerateOptions& options, const PassCosts& costs) {
  if (!options.draft_script.empty())
    return std::make_unique<ScriptedDrafter>(options.draft_script, std::ssize(options.forced_ids));
  if (!options.draft || !can_be_drafted(options)) return nullptr;
  std::vector<int32_t> ends(options.stop_ids);
  ends.insert(ends.end(), options.sampling.suppressed.begin(), options.sampling.suppressed.end());
  return std::make_unique<TextDrafter>(options.draft_table, std::move(ends), costs);
}

std::unique_ptr<Writer> make_greedy_writer(Transformer& network, const TextRequest& request,
                                           const CancelToken* cancel, int64_t texts) {
  return std::make_unique<GreedyWriter>(network, request, cancel, texts);
}

}  // namespace edge
