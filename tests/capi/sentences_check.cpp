// SPDX-License-Identifier: Apache-2.0
// Prints where the sentences of texts begin and end, one line per text. Standard input: UTF-8, a zero byte
// behind each.
#include <cstdio>
#include <iostream>
#include <string>

#include "capi/sentences.h"
#include "capi/utf8.h"

namespace edge::capi {
// Not asked here.
std::u32string Tokenizer::decode(std::span<const int32_t>) const { return {}; }
}  // namespace edge::capi

int main() {
  std::string text;
  while (std::getline(std::cin, text, '\0')) {
    for (const auto& [begin, end] : edge::capi::sentence_spans(edge::capi::to_utf32(text)))
      std::printf("%zu-%zu ", begin, end);
    std::puts("");
  }
}
