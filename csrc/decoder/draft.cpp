// SPDX-License-Identifier: Apache-2.0
#include "decoder/draft.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>

namespace edge {
namespace {

// Look-up in the own text: at least so many ids must have come before in the same order.
constexpr size_t kLeastMatch = 3, kMostMatch = 16;
constexpr size_t kNone = std::numeric_limits<size_t>::max();
// How often what followed then follows again: the more ids match, the more often.
float own_share(size_t match) { return static_cast<float>(match) / static_cast<float>(match + 2); }
// A table's share, or the above, counts as much as so many guesses that were checked.
constexpr float kPrior = 4.0f;
// Below this chance that a whole draft is right nothing is worth adding to it.
constexpr float kHopeless = 0.05f;
// Tokens per cost to begin with, and how many units of cost this assumption weighs.
constexpr float kExpected = 1.5f, kExpectedWeight = 2.0f;

void require(bool ok, const char* message) {
  if (!ok) throw std::invalid_argument(std::string("draft table: ") + message);
}

}  // namespace

DraftTable::DraftTable(const DraftArrays& arrays, int64_t vocab) : arrays_(arrays), vocab_(vocab) {
  const size_t n = arrays.tokens.size();
  require(n >= 1 && n < (size_t{1} << 30), "it has no nodes, or too many");
  require(arrays.next.size() == n && arrays.share.size() == n && arrays.children.size() == n + 1,
          "its arrays do not have the same length");
  // Children lie behind their parent and every node but the first has one parent: no walk can run in circles.
  require(arrays.children[0] == 1 && arrays.children[n] == static_cast<int64_t>(n), "its nodes are no tree");
  for (size_t i = 0; i < n; ++i) {
    const int32_t begin = arrays.children[i], end = arrays.children[i + 1];
    require(begin <= end && begin > static_cast<int64_t>(i) && end <= static_cast<int64_t>(n),
            "its nodes are no tree");
    for (int32_t c = begin; c < end; ++c) {
      const int32_t id = arrays.tokens[static_cast<size_t>(c)];
      require(id >= kTextBegin && id < vocab, "it holds an id outside the vocabulary");
      require(c == begin || arrays.tokens[static_cast<size_t>(c) - 1] < id, "its nodes are not sorted");
    }
    require(arrays.next[i] >= 0 && arrays.next[i] < vocab, "it holds an id outside the vocabulary");
    require(arrays.share[i] > 0.0f && arrays.share[i] <= 1.0f, "it holds a share that is none");
  }
}

DraftTable::Guess DraftTable::guess(std::span<const int32_t> text) const {
  size_t node = 0;
  for (size_t back = 1; back <= text.size() + 1; ++back) {
    const int32_t id = back <= text.size() ? text[text.size() - back] : kTextBegin;
    const auto begin = arrays_.tokens.begin() + arrays_.children[node];
    const auto end = arrays_.tokens.begin() + arrays_.children[node + 1];
    const auto at = std::lower_bound(begin, end, id);
    if (at == end || *at != id) break;
    node = static_cast<size_t>(at - arrays_.tokens.begin());
  }
  return {arrays_.next[node], arrays_.share[node]};
}

TextDrafter::TextDrafter(const DraftTable* table, std::vector<int32_t> ends, const PassCosts& costs)
    : table_(table),
      ends_(std::move(ends)),
      costs_(costs),
      tokens_(kExpected * kExpectedWeight),
      cost_(kExpectedWeight) {
  std::sort(ends_.begin(), ends_.end());
}

// What a share has been worth in this text so far.
float TextDrafter::chance(int kind, float share, Record*& record) {
  const int grade = std::min(static_cast<int>(share * kGrades), kGrades - 1);
  record = &records_[static_cast<size_t>(kind)][static_cast<size_t>(grade)];
  return (kPrior * share + static_cast<float>(record->right)) / (kPrior + static_cast<float>(record->tried));
}

// Where the longest earlier occurrence of the end of the text goes on, the latest where several are as long;
// kNone where there is none.
size_t TextDrafter::find_earlier(size_t& longest) const {
  const size_t n = text_.size();
  size_t best = kNone;
  longest = kLeastMatch - 1;
  for (size_t at = n; at-- > kLeastMatch;) {
    size_t match = 0;
    while (match < kMostMatch && match < at && text_[at - 1 - match] == text_[n - 1 - match]) ++match;
    if (match > longest) best = at, longest = match;
  }
  return best;
}

bool TextDrafter::guess(size_t found, float share, Guess& out) {
  out.chance = 0.0f;
  if (table_) {
    const DraftTable::Guess from_table = table_->guess(text_);
    out.id = from_table.id;
    out.chance = chance(0, from_table.share, out.record);
  }
  if (found != kNone) {
    Record* record = nullptr;
    const float own = chance(1, share, record);
    if (own > out.chance) out = {text_[found], own, record};
  }
  return out.chance > 0.0f && !std::binary_search(ends_.begin(), ends_.end(), out.id);
}

std::span<const int32_t> TextDrafter::draft(std::span<const int32_t> text, int64_t limit) {
  text_.assign(text.begin(), text.end());
  drafted_.clear();
  limit = std::min(limit, kMaxRows - 1);
  // A row is worth its cost where it can be expected to yield more ids than that cost yields otherwise.
  const float worth = std::max(tokens_ / cost_, 1.0f);
  size_t match = 0, found = find_earlier(match), best = 0;
  float all = 1.0f, expected = 1.0f, gain = 1.0f - worth * costs_[1];
  while (static_cast<int64_t>(drafted_.size()) < limit) {
    Guess next{};
    if (!guess(found, own_share(match), next)) break;
    all *= next.chance;
    if (all < kHopeless) break;
    // The look-up goes on where it copies what the table says as well.
    found = found != kNone && text_[found] == next.id ? found + 1 : kNone;
    text_.push_back(next.id);
    drafted_.push_back(next.record);
    expected += all;
    if (const float now = expected - worth * costs_[drafted_.size() + 1]; now > gain)
      gain = now, best = drafted_.size();
  }
  drafted_.resize(best);
  cost_ += costs_[best + 1];
  return {text_.data() + text.size(), best};
}

void TextDrafter::verified(int64_t accepted, bool refuted) {
  tokens_ += static_cast<float>(accepted + 1);
  for (size_t i = 0; i < drafted_.size() && static_cast<int64_t>(i) < accepted + (refuted ? 1 : 0); ++i) {
    ++drafted_[i]->tried;
    if (static_cast<int64_t>(i) < accepted) ++drafted_[i]->right;
  }
}

std::span<const int32_t> ScriptedDrafter::draft(std::span<const int32_t> text, int64_t limit) {
  const size_t at = text.size() - static_cast<size_t>(prompt_);
  if (at >= script_.size()) return {};
  const std::vector<int32_t>& proposal = script_[at];
  return {proposal.data(), std::min(proposal.size(), static_cast<size_t>(std::max<int64_t>(limit, 0)))};
}

}  // namespace edge
