// SPDX-License-Identifier: Apache-2.0
// Characters to sentences, and what in a text deserves a warning; the twin of edge/text.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tokenizer.h"

namespace edge::capi {

// Begin and end of a sentence, white space outside.
using TextSpan = std::pair<size_t, size_t>;

std::vector<TextSpan> sentence_spans(std::u32string_view text);
// Without its last sentence if that is not ended; unchanged if it is the only one.
std::u32string cut_at_sentence(std::u32string_view text);
// Removed names, and comparison with films that the model has not seen.
std::vector<std::string> text_warnings(std::u32string_view text);

// The text of the ids, and for each of them how many characters are there once it is known.
std::u32string decode_stepwise(const Tokenizer& tokenizer, std::span<const int32_t> ids,
                               std::vector<size_t>& ends);

// Turns ids into pieces that, put together, are the final text: never inside a character, white space at
// either end held back; with `whole_sentences` a piece always ends with a sentence.
class TextStream {
 public:
  TextStream(const Tokenizer& tokenizer, bool whole_sentences)
      : tokenizer_(tokenizer), whole_sentences_(whole_sentences) {}

  // What became certain with the id; often empty. UTF-8.
  std::string push(int32_t id);
  // The rest, given the final text.
  std::string finish(std::u32string_view text) { return advance(text); }

 private:
  std::string advance(std::u32string_view text);

  const Tokenizer& tokenizer_;
  bool whole_sentences_;
  std::vector<int32_t> ids_;
  size_t sent_ = 0;
};

}  // namespace edge::capi
