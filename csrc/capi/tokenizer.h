// SPDX-License-Identifier: Apache-2.0
// Token ids to text: the decoding half of a byte-level BPE tokenizer.json (Hugging Face tokenizers).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace edge::capi {

class Tokenizer {
 public:
  // Throws Failure (EDGE_BUNDLE) where the text is no such tokenizer, or knows more than `vocab` tokens.
  Tokenizer(std::string_view json, const std::string& name, int64_t vocab);

  // The text of the ids without what a terminal could act on, special tokens skipped; characters that are not
  // yet complete end as U+FFFD.
  std::u32string decode(std::span<const int32_t> ids) const;

 private:
  std::vector<std::string> bytes_;  // by id
};

}  // namespace edge::capi
