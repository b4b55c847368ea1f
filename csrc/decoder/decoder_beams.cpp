// SPDX-License-Identifier: Apache-2.0
// The decode loop with several texts at once. Their tokens are nodes of a tree, each with a slot in a cache
// that all texts share: a text that goes on from another one points at its nodes, and nothing is copied.
#include <algorithm>
#include <limits>

#include "decoder/decoder.h"

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

}  // namespace

GenerationResult Decoder::search_beams(const float* first_logits, const float* first_evidence,
                                       std::span<const int32_t> prompt, const GenerateOptions& options,
                                       const OnToken& on_token, const CancelToken* cancel) {
  const auto vocab = static_cast<size_t>(network_.spec().vocab);
  const auto beams = static_cast<size_t>(options.beam.beams);
  const auto keys = network_.has_evidence() ? static_cast<size_t>(network_.image_rows()) : 0;
  // A row is appended for every token but the last one.
  const int64_t longest = std::min(options.max_new_tokens, network_.rows_left() + 1);
  const int64_t capacity =
      (options.beam.beams * std::max<int64_t>(longest, 1) + kKeyBlock - 1) / kKeyBlock * kKeyBlock;
  network_.reserve_branches(capacity);
  SamplingOptions plain = options.sampling;
  plain.repetition_penalty = 1.0f;
  const TokenChooser chooser(network_.kernels(), network_.spec().vocab, plain);
  const auto blocks = static_cast<size_t>(chooser.blocks());
  const auto logits = std::make_unique_for_overwrite<float[]>(beams * vocab);
  std::vector<BlockStats> stats(beams * blocks);
  std::vector<float> evidence(beams * keys), seen;  // of the step; of all rows that a token was chosen from
  const BlockHook measure = [&](int64_t row, int64_t block) {
    stats[static_cast<size_t>(row) * blocks + static_cast<size_t>(block)] =
        chooser.measure(logits.get() + static_cast<size_t>(row) * vocab, block);
  };
  std::copy_n(first_logits, vocab, logits.get());
  for (size_t b = 0; b < blocks; ++b) measure(0, static_cast<int64_t>(b));
  if (first_evidence) std::copy_n(first_evidence, keys, evidence.begin());

  BeamSearch search(options.beam, options.rules, options.stop_ids, longest);
  Tree tree;
  Rows rows(capacity);
  GenerationResult result;
  std::vector<Beam> live{{-1, 0.0f}};
  std::vector<int32_t> ids, types, suppressed(options.sampling.suppressed);
  Step step;
  step.bias = options.bias_rows == BiasRows::all;
  step.logits = logits.get();
  step.evidence = evidence.empty() ? nullptr : evidence.data();
  step.on_block = &measure;
  const auto text_of = [&](int64_t node) {
    std::vector<int32_t> text(prompt.begin(), prompt.end());
    for (const int64_t n : tree.path(node)) text.push_back(tree.at(n).id);
    return text;
  };
  for (int64_t done = 0;; ++done) {
    std::vector<BeamRow> chosen_from;
    for (size_t r = 0; r < live.size(); ++r) {
      const std::vector<int32_t> text = text_of(live[r].node);
      BeamRow row{.logits = logits.get() + r * vocab,
                  .stats = std::span(stats).subspan(r * blocks, blocks),
                  .score = live[r].score,
                  .banned = banned_after(options.rules, options.stop_ids, text, done),
                  .penalised = text};
      row.banned.insert(row.banned.end(), suppressed.begin(), suppressed.end());
      if (!options.rules.penalise_prompt)
        row.penalised.erase(row.penalised.begin(),
                            row.penalised.begin() + static_cast<std::ptrdiff_t>(prompt.size()));
      std::sort(row.banned.begin(), row.banned.end());
      std::sort(row.penalised.begin(), row.penalised.end());
      if (options.rules.forced_end >= 0 && done + 1 == longest) row.only = options.rules.forced_end;
      chosen_from.push_back(std::move(row));
    }
    const auto best = best_continuations(chosen_from, network_.spec().vocab,
                                         options.sampling.repetition_penalty, search.wanted());
    const int64_t first_row = keys == 0 ? -1 : std::ssize(seen) / static_cast<int64_t>(keys);
    if (keys > 0)
      seen.insert(seen.end(), evidence.begin(),
                  evidence.begin() + static_cast<std::ptrdiff_t>(live.size() * keys));
    std::vector<int64_t> nodes;
    for (const Continuation& c : best)
      nodes.push_back(tree.add(
          {live[static_cast<size_t>(c.beam)].node, c.id, c.logprob, keys == 0 ? -1 : first_row + c.beam}));
    const auto next = search.step(best, nodes);
    if (next.empty()) break;
    if (cancel && cancel->cancelled()) {
      result.stop_reason = StopReason::cancelled;
      return result;
    }
    live.assign(next.begin(), next.end());
    rows.place(tree, live);
    Branches branches = rows.branches(done);
    ids.clear();
    types.clear();
    for (const Beam& beam : live) {
      ids.push_back(tree.at(beam.node).id);
      if (network_.spec().token_types > 0)
        types.push_back(network_.spec().type_behind(text_of(tree.at(beam.node).parent)));
    }
    branches.types = types;
    step.ids = ids;
    step.branches = &branches;
    network_.append(step);
    ++result.passes;
  }

  for (int64_t i = 0; i < options.beam.sequences; ++i) {
    const Finished& finished = search.finished()[static_cast<size_t>(i)];
    std::vector<int64_t> path = tree.path(finished.node);
    if (finished.by_stop) path.pop_back();
    std::vector<int32_t> text;
    for (const int64_t n : path) text.push_back(tree.at(n).id);
    result.sequences.push_back(std::move(text));
    result.scores.push_back(finished.score);
    if (i > 0) continue;
    const bool forced = std::ssize(path) + 1 == longest && options.rules.forced_end >= 0;
    result.stop_reason = finished.by_stop && !forced ? StopReason::stop : StopReason::length;
    result.token_ids = result.sequences.front();
    for (const int64_t n : path) {
      result.logprobs.push_back(tree.at(n).logprob);
      if (keys == 0) continue;
      const auto row = seen.begin() + tree.at(n).evidence * static_cast<int64_t>(keys);
      result.evidence.insert(result.evidence.end(), row, row + static_cast<std::ptrdiff_t>(keys));
    }
  }
  for (size_t i = 0; i < result.token_ids.size() && on_token; ++i)
    if (!on_token(result.token_ids[i], result.logprobs[i])) {
      result.stop_reason = StopReason::cancelled;
      break;
    }
  return result;
}

}  // namespace edge
