// SPDX-License-Identifier: Apache-2.0
// Beam search. The tokens of its texts are nodes of a tree, each with a slot in a cache that all of them
// share: a text that goes on from another one points at its nodes, and nothing is copied.
#include <algorithm>
#include <limits>

#include "decoder/writer.h"

namespace edge {
namespace {

constexpr float kUnseen = std::numeric_limits<float>::lowest();

struct Node {
  int64_t parent;
  int32_t id;
  float logprob;
  int64_t evidence;   // index of the row it was chosen from, or -1
  int64_t slot = -1;  // where its key and value are; none before it went through the network
};

class Tree {
 public:
  int64_t add(const Node& node) {
    nodes_.push_back(node);
    return std::ssize(nodes_) - 1;
  }
  Node& at(int64_t index) { return nodes_[static_cast<size_t>(index)]; }
  const Node& at(int64_t index) const { return nodes_[static_cast<size_t>(index)]; }
  // From the first token to this one.
  std::vector<int64_t> path(int64_t index) const {
    std::vector<int64_t> nodes;
    for (; index >= 0; index = at(index).parent) nodes.push_back(index);
    std::reverse(nodes.begin(), nodes.end());
    return nodes;
  }

 private:
  std::vector<Node> nodes_;
};

// The rows of one step: a slot for each, and which slots each sees.
class Rows {
 public:
  explicit Rows(int64_t capacity) : capacity_(capacity), mask_(static_cast<size_t>(kMaxRows * capacity)) {}

  // Slots that no beam's text holds are free again.
  void place(Tree& tree, std::span<const Beam> beams) {
    std::vector<bool> taken(static_cast<size_t>(capacity_));
    for (const Beam& beam : beams)
      for (int64_t n = tree.at(beam.node).parent; n >= 0; n = tree.at(n).parent)
        taken[static_cast<size_t>(tree.at(n).slot)] = true;
    slots_.clear();
    size_t next = 0;
    for (const Beam& beam : beams) {
      while (taken[next]) ++next;
      taken[next] = true;
      slots_.push_back(static_cast<int64_t>(next));
      tree.at(beam.node).slot = static_cast<int64_t>(next);
    }
    used_ = 0;
    for (size_t i = 0; i < taken.size(); ++i)
      if (taken[i]) used_ = static_cast<int64_t>(i) + 1;
    for (size_t r = 0; r < beams.size(); ++r) {
      float* row = mask_.data() + static_cast<int64_t>(r) * capacity_;
      // Whole groups of keys are read.
      std::fill_n(row, std::min(capacity_, (used_ + kKeyBlock - 1) / kKeyBlock * kKeyBlock), kUnseen);
      for (int64_t n = beams[r].node; n >= 0; n = tree.at(n).parent) row[tree.at(n).slot] = 0.0f;
    }
  }
  Branches branches(int64_t position) const { return {slots_, used_, position, mask_.data(), capacity_, {}}; }

 private:
  int64_t capacity_, used_ = 0;
  std::vector<int64_t> slots_;
  std::vector<float> mask_;
};

class BeamWriter : public Writer {
 public:
  BeamWriter(Transformer& network, const TextRequest& request, const CancelToken* cancel)
      : Writer(network, request, cancel),
        // A row is appended for every token but the last one.
        longest_(std::min(options().max_new_tokens, room_behind_prompt() + 1)),
        chooser_(network.kernels(), network.spec().vocab, without_penalty(options().sampling)),
        blocks_(static_cast<size_t>(chooser_.blocks())),
        search_(options().beam, options().rules, options().stop_ids, longest_),
        rows_(capacity()) {
    const auto beams = static_cast<size_t>(options().beam.beams);
    network.reserve_branches(capacity(), request.lane);
    stats_.resize(beams * blocks_);
    evidence_.resize(beams * keys_);
    step_.evidence = evidence_.empty() ? nullptr : evidence_.data();
    step_.on_block = &measure_;
  }

  int64_t least() const override { return options().beam.beams; }

 protected:
  void begin(const float* first_logits) override {
    if (first_logits)
      for (size_t b = 0; b < blocks_; ++b)
        stats_[b] = chooser_.measure(first_logits, static_cast<int64_t>(b));
    go_on(first_logits ? first_logits : step_.logits);
  }

  void plan(int64_t /*most*/) override {
    rows_.place(tree_, live_);
    branches_ = rows_.branches(done_ - 1);
    ids_.clear();
    types_.clear();
    for (const Beam& beam : live_) {
      ids_.push_back(tree_.at(beam.node).id);
      if (network_.spec().token_types > 0)
        types_.push_back(network_.spec().type_behind(text_of(tree_.at(beam.node).parent)));
    }
    branches_.types = types_;
    step_.ids = ids_;
    step_.branches = &branches_;
  }

  void advance() override {
    ++result_.passes;
    go_on(step_.logits);
  }

 private:
  static SamplingOptions without_penalty(SamplingOptions options) {
    options.repetition_penalty = 1.0f;
    return options;
  }
  int64_t room_behind_prompt() const {
    const Lane& lane = network_.lane(request_.lane);
    return network_.spec().rows() - lane.prefix_rows() - std::ssize(prompt_);
  }
  int64_t capacity() const {
    const int64_t slots = options().beam.beams * std::max<int64_t>(longest_, 1);
    return (slots + kKeyBlock - 1) / kKeyBlock * kKeyBlock;
  }

  std::vector<int32_t> text_of(int64_t node) const {
    std::vector<int32_t> text(prompt_);
    for (const int64_t n : tree_.path(node)) text.push_back(tree_.at(n).id);
    return text;
  }

  // The rows of the live beams are there: which texts go on from them.
  void go_on(const float* logits) {
    const auto vocab = static_cast<size_t>(network_.spec().vocab);
    const TextRules& rules = options().rules;
    const std::vector<int32_t>& suppressed = options().sampling.suppressed;
    std::vector<BeamRow> chosen_from;
    for (size_t r = 0; r < live_.size(); ++r) {
      const std::vector<int32_t> text = text_of(live_[r].node);
      BeamRow row{.logits = logits + r * vocab,
                  .stats = std::span(stats_).subspan(r * blocks_, blocks_),
                  .score = live_[r].score,
                  .banned = banned_after(rules, options().stop_ids, text, done_),
                  .penalised = text};
      row.banned.insert(row.banned.end(), suppressed.begin(), suppressed.end());
      if (!rules.penalise_prompt)
        row.penalised.erase(row.penalised.begin(),
                            row.penalised.begin() + static_cast<std::ptrdiff_t>(prompt_.size()));
      std::sort(row.banned.begin(), row.banned.end());
      std::sort(row.penalised.begin(), row.penalised.end());
      if (rules.forced_end >= 0 && done_ + 1 == longest_) row.only = rules.forced_end;
      chosen_from.push_back(std::move(row));
    }
    const auto best = best_continuations(chosen_from, network_.spec().vocab,
                                         options().sampling.repetition_penalty, search_.wanted());
    const int64_t first_row = keys_ == 0 ? -1 : std::ssize(seen_) / static_cast<int64_t>(keys_);
    if (keys_ > 0)
      seen_.insert(seen_.end(), evidence_.begin(),
                   evidence_.begin() + static_cast<std::ptrdiff_t>(live_.size() * keys_));
    std::vector<int64_t> nodes;
    for (const Continuation& c : best)
      nodes.push_back(tree_.add(
          {live_[static_cast<size_t>(c.beam)].node, c.id, c.logprob, keys_ == 0 ? -1 : first_row + c.beam}));
    const auto next = search_.step(best, nodes);
    ++done_;
    if (next.empty()) return conclude();
    live_.assign(next.begin(), next.end());
  }

  void conclude() {
    StopReason reason = StopReason::length;
    for (int64_t i = 0; i < options().beam.sequences; ++i) {
      const Finished& finished = search_.finished()[static_cast<size_t>(i)];
      std::vector<int64_t> path = tree_.path(finished.node);
      if (finished.by_stop) path.pop_back();
      std::vector<int32_t> text;
      for (const int64_t n : path) text.push_back(tree_.at(n).id);
      result_.sequences.push_back(std::move(text));
      result_.scores.push_back(finished.score);
      if (i > 0) continue;
      const bool forced = std::ssize(path) + 1 == longest_ && options().rules.forced_end >= 0;
      if (finished.by_stop && !forced) reason = StopReason::stop;
      result_.token_ids = result_.sequences.front();
      for (const int64_t n : path) {
        result_.logprobs.push_back(tree_.at(n).logprob);
        if (keys_ == 0) continue;
        const auto row = seen_.begin() + tree_.at(n).evidence * static_cast<int64_t>(keys_);
        result_.evidence.insert(result_.evidence.end(), row, row + static_cast<std::ptrdiff_t>(keys_));
      }
    }
    for (size_t i = 0; i < result_.token_ids.size(); ++i)
      if (!report(result_.token_ids[i], result_.logprobs[i])) {
        reason = StopReason::cancelled;
        break;
      }
    end(reason);
  }

  int64_t longest_;
  const TokenChooser chooser_;
  size_t blocks_;
  std::vector<BlockStats> stats_;  // [beams, blocks]
  BeamSearch search_;
  Tree tree_;
  Rows rows_;
  Branches branches_;
  std::vector<Beam> live_{{-1, 0.0f}};
  std::vector<int32_t> ids_, types_;
  std::vector<float> seen_;  // evidence of all rows that a token was chosen from
  int64_t done_ = 0;         // tokens of every live text
  const BlockHook measure_ = [this](int64_t row, int64_t block, const NearLogits*) {
    stats_[static_cast<size_t>(row) * blocks_ + static_cast<size_t>(block)] =
        chooser_.measure(step_.logits + row * network_.spec().vocab, block);
  };
};

}  // namespace

std::unique_ptr<Writer> make_beam_writer(Transformer& network, const TextRequest& request,
                                         const CancelToken* cancel) {
  return std::make_unique<BeamWriter>(network, request, cancel);
}

}  // namespace edge
