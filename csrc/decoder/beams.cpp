// SPDX-License-Identifier: Apache-2.0
#include "decoder/beams.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

namespace edge {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();
// What transformers adds to scores that must lose.
constexpr float kOut = -1.0e9f;

bool contains(const std::vector<int32_t>& sorted, int32_t id) {
  return std::binary_search(sorted.begin(), sorted.end(), id);
}

bool better(const Continuation& a, const Continuation& b) {
  if (a.score != b.score) return a.score > b.score;
  return a.beam != b.beam ? a.beam < b.beam : a.id < b.id;
}

// The best continuations so far: a heap whose first is the worst of them.
class Best {
 public:
  explicit Best(int64_t wanted) : wanted_(static_cast<size_t>(wanted)) {}

  float floor() const { return kept_.size() < wanted_ ? kNever : kept_.front().score; }
  void offer(const Continuation& one) {
    if (kept_.size() == wanted_) {
      if (!better(one, kept_.front())) return;
      std::pop_heap(kept_.begin(), kept_.end(), better);
      kept_.back() = one;
    } else {
      kept_.push_back(one);
    }
    std::push_heap(kept_.begin(), kept_.end(), better);
  }
  std::vector<Continuation> sorted() && {
    std::sort(kept_.begin(), kept_.end(), better);
    return std::move(kept_);
  }

 private:
  size_t wanted_;
  std::vector<Continuation> kept_;
};

}  // namespace

std::vector<int32_t> banned_after(const TextRules& rules, std::span<const int32_t> stop_ids,
                                  std::span<const int32_t> text, int64_t generated) {
  std::vector<int32_t> banned;
  if (generated < rules.min_new_tokens) banned.assign(stop_ids.begin(), stop_ids.end());
  const auto n = static_cast<size_t>(rules.no_repeat_ngram);
  if (n == 0 || text.size() + 1 < n) return banned;
  const auto tail = text.last(n - 1);
  for (size_t at = 0; at + n <= text.size(); ++at)
    if (std::equal(tail.begin(), tail.end(), text.begin() + static_cast<std::ptrdiff_t>(at)))
      banned.push_back(text[at + n - 1]);
  return banned;
}

BeamSearch::BeamSearch(const BeamOptions& options, const TextRules& rules, std::span<const int32_t> stop_ids,
                       int64_t longest)
    : options_(options),
      rules_(rules),
      stop_ids_(stop_ids.begin(), stop_ids.end()),
      longest_(longest),
      finished_(static_cast<size_t>(options.beams)) {
  if (!std::isfinite(options.length_penalty)) throw std::invalid_argument("length_penalty must be finite");
  if (options.sequences < 1 || options.sequences > options.beams)
    throw std::invalid_argument("sequences must be 1 to the number of beams");
}

int64_t BeamSearch::wanted() const {
  return std::max<int64_t>(2, 1 + std::ssize(stop_ids_)) * options_.beams;
}

bool BeamSearch::is_stop(int32_t id) const {
  return std::find(stop_ids_.begin(), stop_ids_.end(), id) != stop_ids_.end();
}

float BeamSearch::penalised(float score, int64_t length) const {
  return score / static_cast<float>(
                     std::pow(static_cast<double>(length), static_cast<double>(options_.length_penalty)));
}

std::span<const Beam> BeamSearch::step(std::span<const Continuation> best, std::span<const int64_t> nodes) {
  const int64_t length = ++steps_ + rules_.counted_begin;
  const bool last = steps_ >= longest_;
  const auto beams = static_cast<size_t>(options_.beams);
  const auto all_done = [&] {
    return std::all_of(finished_.begin(), finished_.end(), [](const Finished& f) { return f.done; });
  };
  const bool full = options_.early == EarlyStopping::yes && all_done();
  std::vector<Beam> next, over;
  std::vector<Finished> merged(finished_);
  for (size_t i = 0; i < best.size(); ++i) {
    const bool stops = is_stop(best[i].id), ends = stops || last;
    if (ends)
      over.push_back({nodes[i], best[i].score + kOut});
    else
      next.push_back({nodes[i], best[i].score});
    const bool counts = ends && i < beams;  // the others only stand by
    float score = penalised(best[i].score, length);
    if (full) score += kOut;
    if (!can_improve_) score += kOut;
    if (!counts) score += kOut;
    merged.push_back({score, counts, nodes[i], stops});
  }
  std::stable_sort(merged.begin(), merged.end(),
                   [](const Finished& a, const Finished& b) { return a.score > b.score; });
  merged.resize(beams);
  finished_ = std::move(merged);
  const bool goes_on = !next.empty();
  next.insert(next.end(), over.begin(), over.end());
  next.resize(std::min(next.size(), beams));
  beams_ = std::move(next);

  const bool far = options_.early == EarlyStopping::never && options_.length_penalty > 0.0f;
  const float hope = penalised(beams_.front().score, far ? longest_ + rules_.counted_begin : length);
  float worst = std::numeric_limits<float>::max();
  for (const Finished& f : finished_) worst = std::min(worst, f.done ? f.score : kOut);
  can_improve_ = can_improve_ && hope > worst;
  const bool open = !(options_.early == EarlyStopping::yes && all_done());
  if (!can_improve_ || !open || !goes_on) return {};
  return beams_;
}

std::vector<Continuation> best_continuations(std::span<const BeamRow> rows, int64_t vocab, float penalty,
                                             int64_t wanted) {
  Best best(wanted);
  for (size_t r = 0; r < rows.size(); ++r) {
    const BeamRow& row = rows[r];
    float top = row.stats[0].max;
    for (const BlockStats& block : row.stats) top = std::max(top, block.max);
    double sum = 0.0;
    for (const BlockStats& block : row.stats)
      sum += static_cast<double>(block.sum_exp) * std::exp(static_cast<double>(block.max) - top);
    if (!std::isfinite(sum) || !std::isfinite(top)) throw std::runtime_error("the logits are not finite");
    const float shift = top + static_cast<float>(std::log(sum));
    const auto beam = static_cast<int64_t>(r);
    if (row.only >= 0) {
      best.offer({row.score, beam, row.only, row.logits[row.only] - shift});
      continue;
    }
    for (size_t b = 0; b < row.stats.size(); ++b) {
      // A penalty above 1 only takes away from a log-probability.
      if (penalty >= 1.0f && row.stats[b].max - shift + row.score < best.floor()) continue;
      const int64_t begin = static_cast<int64_t>(b) * kVocabBlock, end = std::min(begin + kVocabBlock, vocab);
      for (int64_t i = begin; i < end; ++i) {
        const auto id = static_cast<int32_t>(i);
        const float logprob = row.logits[i] - shift;
        if (penalty >= 1.0f && logprob + row.score < best.floor()) continue;
        float score = logprob;
        if (penalty != 1.0f && contains(row.penalised, id))
          score = score < 0.0f ? score * penalty : score / penalty;
        if (contains(row.banned, id)) score = kNever;
        best.offer({score + row.score, beam, id, logprob});
      }
    }
  }
  return std::move(best).sorted();
}

}  // namespace edge
