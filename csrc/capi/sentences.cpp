// SPDX-License-Identifier: Apache-2.0
#include "sentences.h"

#include <algorithm>
#include <iterator>

#include "utf8.h"

namespace edge::capi {
namespace {

using View = std::u32string_view;

constexpr View kAbbreviations[] = {
    U"dr",   U"mr",   U"mrs",  U"ms",  U"prof", U"st",  U"vs",  U"e.g", U"i.e", U"cf",  U"approx", U"ca",
    U"resp", U"incl", U"dept", U"fig", U"figs", U"ref", U"min", U"max", U"avg", U"est", U"lat",    U"ant",
    U"post", U"sup",  U"inf",  U"int", U"ext",  U"sec", U"hrs", U"ft",  U"lt",  U"rt"};
// These may also end a sentence; what follows decides.
constexpr View kMaybe[] = {U"a.m", U"p.m", U"etc", U"al", U"jr", U"sr", U"no", U"nos"};

template <size_t N>
bool among(const View (&words)[N], View word) {
  return std::find(std::begin(words), std::end(words), word) != std::end(words);
}

bool is_stop(char32_t c) { return c == U'.' || c == U'!' || c == U'?'; }
bool is_closer(char32_t c) { return c == U'"' || c == U'\'' || c == U')' || c == U']'; }
bool is_alnum(char32_t c) { return is_letter(c) || is_digit(c); }

std::u32string lower(View text) {
  std::u32string out(text);
  std::transform(out.begin(), out.end(), out.begin(), to_lower);
  return out;
}

View strip_left(View text) {
  while (!text.empty() && is_space(text.front())) text.remove_prefix(1);
  return text;
}

// The next stop from `from` on: stops with what closes behind them, before white space or the end; or a blank
// line.
bool find_stop(View text, size_t from, TextSpan& found) {
  for (size_t i = from; i < text.size(); ++i) {
    size_t end = i;
    if (is_stop(text[i])) {
      while (end < text.size() && is_stop(text[end])) ++end;
      const size_t stops = end;
      while (end < text.size() && is_closer(text[end])) ++end;
      if (end < text.size() && !is_space(text[end])) {
        i = stops - 1;  // the others of this row are none either
        continue;
      }
    } else if (text[i] == U'\n') {
      ++end;
      while (end < text.size() && is_space(text[end]) && text[end] != U'\n') ++end;
      if (end == text.size() || text[end] != U'\n') continue;
      ++end;
    } else {
      continue;
    }
    found = {i, end};
    return true;
  }
  return false;
}

// The word that ends `before`, without an opening bracket or quotation mark.
View last_word(View before) {
  if (!before.empty() && before.back() == U'\n') before.remove_suffix(1);
  size_t begin = before.size();
  while (begin > 0 && !is_space(before[begin - 1]) && View(U"([\"'").find(before[begin - 1]) == View::npos)
    --begin;
  return before.substr(begin);
}

// Whether only blanks stand between the end of `head` and the line break before it, or only white space in
// all of it. Asked often, of heads that may be long: only their ends are looked at.
bool begins_line(View head) {
  while (!head.empty() && (head.back() == U' ' || head.back() == U'\t')) head.remove_suffix(1);
  if (!head.empty() && head.back() == U'\n') return true;
  while (!head.empty() && is_space(head.back())) head.remove_suffix(1);
  return head.empty();
}

bool ends_sentence(View text, size_t begin, TextSpan stop) {
  if (text[stop.first] != U'.') return true;
  const View before = text.substr(begin, stop.first - begin), word = last_word(before);
  if (word.empty()) return true;
  const std::u32string bare = lower(word);
  const View rest = strip_left(text.substr(stop.second));
  if (among(kMaybe, bare)) {
    if (rest.empty()) return true;
    return bare == U"no" || bare == U"nos" ? !is_digit(rest[0]) : is_upper(rest[0]);
  }
  if (among(kAbbreviations, bare)) return rest.empty();
  if (bare.size() == 1 && is_letter(bare[0])) return rest.empty() || !is_upper(word[0]);
  if (bare.size() <= 2 && std::all_of(bare.begin(), bare.end(), is_digit)) {
    // "1. Heart": a number that begins a sentence or a line.
    return rest.empty() || !begins_line(before.substr(0, static_cast<size_t>(word.data() - before.data())));
  }
  return true;
}

void add(std::vector<TextSpan>& spans, View text, size_t begin, size_t end) {
  const View piece = text.substr(begin, end - begin), stripped = strip(piece);
  if (stripped.empty()) return;
  begin += static_cast<size_t>(stripped.data() - piece.data());
  const bool words =
      std::any_of(stripped.begin(), stripped.end(), [](char32_t c) { return is_alnum(c) || c == U'_'; });
  if (!spans.empty() && !words)
    spans.back().second = begin + stripped.size();  // a lone ". ." belongs to what it follows
  else
    spans.emplace_back(begin, begin + stripped.size());
}

// Words that compare with an earlier film.
constexpr View kPrior[] = {
    U"unchanged", U"compared",    U"comparison",  U"interval", U"intervally",     U"again",
    U"stable",    U"previous",    U"previously",  U"prior",    U"redemonstrated", U"re-demonstrated",
    U"new since", U"newly since", U"since the",   U"persists", U"persistent",     U"persisting",
    U"improved",  U"improving",   U"improvement", U"worsened", U"worsening",      U"resolved",
    U"resolving", U"no longer"};

bool is_word(View text, size_t at) { return at < text.size() && (is_alnum(text[at]) || text[at] == U'_'); }

// The longest of them that stands as whole words at `at`.
View prior_at(View text, size_t at) {
  View found;
  if (at > 0 && is_word(text, at - 1)) return found;
  for (const View word : kPrior)
    if (word.size() > found.size() && text.substr(at, word.size()) == word &&
        !is_word(text, at + word.size()))
      found = word;
  return found;
}

View without_incomplete(View text) {
  while (!text.empty() && text.back() == kReplacement) text.remove_suffix(1);
  return text;
}

}  // namespace

std::vector<TextSpan> sentence_spans(View text) {
  std::vector<TextSpan> spans;
  TextSpan stop{0, 0};
  size_t begin = 0;
  while (find_stop(text, stop.second, stop)) {
    if (!ends_sentence(text, begin, stop)) continue;
    add(spans, text, begin, stop.second);
    begin = stop.second;
  }
  add(spans, text, begin, text.size());
  return spans;
}

std::u32string cut_at_sentence(View text) {
  std::vector<TextSpan> spans = sentence_spans(text);
  if (spans.empty()) return std::u32string(text);
  if (spans.size() > 1) {
    size_t end = spans.back().second;
    while (end > 0 && is_closer(text[end - 1])) --end;
    if (end == 0 || !is_stop(text[end - 1])) spans.pop_back();
  }
  return std::u32string(text.substr(0, spans.back().second));
}

std::vector<std::string> text_warnings(View text) {
  std::vector<std::string> warnings, words;
  if (text.find(U"___") != View::npos)
    warnings.push_back("the text holds ___, where the training texts had a name or a date removed");
  const std::u32string lowered = lower(text);
  for (size_t i = 0; i < lowered.size();) {
    const View word = prior_at(lowered, i);
    if (!word.empty()) words.push_back(to_utf8(word));
    i += std::max<size_t>(word.size(), 1);
  }
  std::sort(words.begin(), words.end());
  words.erase(std::unique(words.begin(), words.end()), words.end());
  if (!words.empty()) {
    std::string shown;
    for (size_t i = 0; i < std::min<size_t>(words.size(), 4); ++i) shown += (i ? ", " : "") + words[i];
    warnings.push_back("the text compares with earlier films (" + shown +
                       "), but the model has seen only this one");
  }
  return warnings;
}

std::u32string decode_stepwise(const Tokenizer& tokenizer, std::span<const int32_t> ids,
                               std::vector<size_t>& ends) {
  std::u32string text = tokenizer.decode(ids);
  ends.resize(ids.size());
  for (size_t i = 0; i + 1 < ids.size(); ++i)
    ends[i] = without_incomplete(tokenizer.decode(ids.first(i + 1))).size();
  if (!ends.empty()) ends.back() = text.size();
  return text;
}

std::string TextStream::push(int32_t id) {
  ids_.push_back(id);
  const std::u32string all = tokenizer_.decode(ids_);
  View text = strip(without_incomplete(all));
  if (whole_sentences_) {
    const std::vector<TextSpan> spans = sentence_spans(text);
    text = spans.size() > 1 ? text.substr(0, spans[spans.size() - 2].second) : View();
  }
  return advance(text);
}

std::string TextStream::advance(View text) {
  const size_t begin = std::min(sent_, text.size());
  sent_ = std::max(sent_, text.size());
  return to_utf8(text.substr(begin));
}

}  // namespace edge::capi
