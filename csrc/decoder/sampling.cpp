// SPDX-License-Identifier: Apache-2.0
#include "decoder/sampling.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

namespace edge {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();
// A share of the probability: errors of a screen in ids below it do not add up to anything.
constexpr double kLight = 1e-4;

void require(bool ok, const char* message) {
  if (!ok) throw std::invalid_argument(message);
}

}  // namespace

TokenChooser::TokenChooser(const Kernels& kernels, int64_t vocab, SamplingOptions options)
    : kernels_(kernels), vocab_(vocab), options_(std::move(options)), random_(options_.seed) {
  require(std::isfinite(options_.repetition_penalty) && options_.repetition_penalty > 0.0f,
          "repetition_penalty must be a positive number");
  require(std::isfinite(options_.temperature) && options_.temperature >= 0.0f,
          "temperature must be zero (greedy) or a positive number");
  require(options_.top_k >= 0, "top_k must be zero (off) or positive");
  require(options_.top_p > 0.0f && options_.top_p <= 1.0f, "top_p must be above 0 and at most 1");
  for (const int32_t id : options_.suppressed) special_.push_back({id, true});
  std::sort(special_.begin(), special_.end());
  const auto last =
      std::unique(special_.begin(), special_.end(), [](auto a, auto b) { return a.id == b.id; });
  special_.erase(last, special_.end());
  require(special_.empty() || (special_.front().id >= 0 && special_.back().id < vocab_),
          "suppressed_ids holds an id outside the vocabulary");
  require(static_cast<int64_t>(special_.size()) < vocab_, "suppressed_ids holds the whole vocabulary");
}

float TokenChooser::adjusted(const Special& special, float score) const {
  if (special.suppressed) return kNever;
  return score < 0.0f ? score * options_.repetition_penalty : score / options_.repetition_penalty;
}

BlockStats TokenChooser::measure(const float* logits, int64_t block, std::span<const int32_t> also) const {
  const int64_t begin = block * kVocabBlock, n = std::min(kVocabBlock, vocab_ - begin);
  const float* raw = logits + begin;
  BlockStats stats{};
  stats.max = kernels_.max(raw, n);
  stats.sum_exp = kernels_.sum_exp(raw, n, stats.max);
  float scores[kVocabBlock];
  const float* scored = raw;
  auto special =
      std::lower_bound(special_.begin(), special_.end(), Special{static_cast<int32_t>(begin), false});
  const auto inside = [&](int32_t id) { return id >= begin && id < begin + n; };
  const auto banned = std::lower_bound(banned_.begin(), banned_.end(), static_cast<int32_t>(begin));
  if ((special != special_.end() && special->id < begin + n) ||
      (banned != banned_.end() && *banned < begin + n) || std::any_of(also.begin(), also.end(), inside)) {
    std::copy(raw, raw + n, scores);
    for (const int32_t id : also)
      if (inside(id)) scores[id - begin] = adjusted({id, false}, scores[id - begin]);
    for (; special != special_.end() && special->id < begin + n; ++special)
      scores[special->id - begin] = adjusted(*special, scores[special->id - begin]);
    for (auto id = banned; id != banned_.end() && *id < begin + n; ++id) scores[*id - begin] = kNever;
    scored = scores;
  }
  stats.best = kernels_.max(scored, n);
  const auto at = std::find(scored, scored + n, stats.best) - scored;
  stats.id = static_cast<int32_t>(begin + (at < n ? at : 0));
  return stats;
}

BlockStats TokenChooser::measure_near(const NearLogits& near, int64_t block,
                                      std::span<const int32_t> also) const {
  const auto begin = static_cast<int32_t>(block * kVocabBlock);
  const auto end = static_cast<int32_t>(std::min((block + 1) * kVocabBlock, vocab_));
  // Of what is suppressed or banned only the weight counts, as of every other id.
  for (const int32_t id : also)
    if (id >= begin && id < end) near.settle(id);
  for (auto at = std::lower_bound(special_.begin(), special_.end(), Special{begin, false});
       at != special_.end() && at->id < end; ++at)
    if (!at->suppressed) near.settle(at->id);
  BlockStats stats = measure(near.logits(), block, also);
  stats.slack = near.bound(stats.id);
  return stats;
}

Reach TokenChooser::reach(std::span<const BlockStats> stats) {
  Reach reach{kNever, kNever};
  float top = kNever;
  for (const BlockStats& block : stats) {
    // What is not finite is looked at in full.
    if (!std::isfinite(block.max)) return {kNever, kNever};
    top = std::max(top, block.max);
    reach.best = std::max(reach.best, block.best - block.slack);
  }
  double sum = 0.0;
  for (const BlockStats& block : stats)
    sum += static_cast<double>(block.sum_exp) * std::exp(static_cast<double>(block.max - top));
  reach.heavy = static_cast<float>(top + std::log(sum * kLight));
  return reach;
}

BlockStats TokenChooser::settle(const NearLogits& near, int64_t block, const BlockStats& stats,
                                const Reach& reach, std::span<const int32_t> also) const {
  const float least = std::min(reach.best, reach.heavy);
  if (stats.max + near.block_bound(block, stats.max) < least) return stats;
  const int64_t end = std::min((block + 1) * kVocabBlock, vocab_);
  for (int64_t i = block * kVocabBlock; i < end; ++i)
    if (!(near.logits()[i] + near.bound(i) < least)) near.settle(i);
  return measure(near.logits(), block, also);
}

Choice TokenChooser::choose(const float* logits, std::span<const BlockStats> stats) {
  float top = stats[0].max;
  for (const BlockStats& block : stats) top = std::max(top, block.max);
  double sum = 0.0;
  const BlockStats* best = &stats[0];
  for (const BlockStats& block : stats) {
    sum += static_cast<double>(block.sum_exp) * std::exp(static_cast<double>(block.max) - top);
    if (block.best > best->best) best = &block;
  }
  if (!std::isfinite(sum) || !std::isfinite(top)) throw std::runtime_error("the logits are not finite");
  int32_t id = best->id;
  if (options_.temperature > 0.0f) {
    const std::vector<Candidate> drawn_from = candidates(logits);
    double u = random_.uniform();
    id = drawn_from.back().id;
    for (const Candidate& c : drawn_from) {
      u -= c.probability;
      if (u < 0.0) {
        id = c.id;
        break;
      }
    }
  }
  return {id, static_cast<float>(static_cast<double>(logits[id]) - top - std::log(sum))};
}

Choice TokenChooser::choose(const float* logits) {
  std::vector<BlockStats> stats(static_cast<size_t>(blocks()));
  for (size_t b = 0; b < stats.size(); ++b) stats[b] = measure(logits, static_cast<int64_t>(b));
  return choose(logits, stats);
}

bool TokenChooser::fresh(int32_t id) const {
  return options_.repetition_penalty != 1.0f &&
         !std::binary_search(special_.begin(), special_.end(), Special{id, false});
}

void TokenChooser::ban(std::vector<int32_t> ids) {
  banned_ = std::move(ids);
  std::sort(banned_.begin(), banned_.end());
}

void TokenChooser::generated(int32_t id) {
  if (options_.repetition_penalty == 1.0f) return;
  const Special entry{id, false};
  const auto at = std::lower_bound(special_.begin(), special_.end(), entry);
  if (at == special_.end() || at->id != id) special_.insert(at, entry);
}

std::vector<Candidate> TokenChooser::candidates(const float* logits) const {
  std::vector<float> scores(logits, logits + vocab_);
  for (const Special& special : special_) {
    float& score = scores[static_cast<size_t>(special.id)];
    score = adjusted(special, score);
  }
  for (const int32_t id : banned_) scores[static_cast<size_t>(id)] = kNever;
  const auto likeliest =
      static_cast<int32_t>(std::max_element(scores.begin(), scores.end()) - scores.begin());
  const float temperature = options_.temperature > 0.0f ? options_.temperature : 1.0f;
  for (float& score : scores) score /= temperature;

  float lowest = std::numeric_limits<float>::lowest();
  if (options_.top_k > 0 && options_.top_k < vocab_) {
    // Ties with the k-th score stay.
    std::vector<float> order(scores);
    const auto kth = order.begin() + (options_.top_k - 1);
    std::nth_element(order.begin(), kth, order.end(), std::greater<>());
    lowest = std::max(lowest, *kth);
  }
  std::vector<Candidate> kept;
  for (int64_t i = 0; i < vocab_; ++i)
    if (const float score = scores[static_cast<size_t>(i)]; score >= lowest)
      kept.push_back({static_cast<int32_t>(i), static_cast<double>(score)});
  double top = static_cast<double>(kNever), sum = 0.0;
  for (const Candidate& c : kept) top = std::max(top, c.probability);
  // Nothing may be written, or a small temperature leaves single precision: what is greedy is left.
  if (!std::isfinite(top)) return {{likeliest, 1.0}};
  for (Candidate& c : kept) sum += c.probability = std::exp(c.probability - top);
  for (Candidate& c : kept) c.probability /= sum;

  if (options_.top_p < 1.0f) {
    // An id stays while those more probable than it (lower id first where equal) hold less than top_p.
    const auto later = [](const Candidate& a, const Candidate& b) {
      return a.probability != b.probability ? a.probability < b.probability : a.id > b.id;
    };
    std::make_heap(kept.begin(), kept.end(), later);
    auto end = kept.end();
    double mass = 0.0;
    while (end != kept.begin() && mass < options_.top_p) {
      std::pop_heap(kept.begin(), end, later);
      mass += (--end)->probability;
    }
    kept.erase(kept.begin(), end);
    std::sort(kept.begin(), kept.end(), [](const auto& a, const auto& b) { return a.id < b.id; });
    for (Candidate& c : kept) c.probability /= mass;
  }
  return kept;
}

}  // namespace edge
