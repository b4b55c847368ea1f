// SPDX-License-Identifier: Apache-2.0
// UTF-8 and what the texts of this library need to know about characters.
#pragma once

#include <string>
#include <string_view>

namespace edge::capi {

inline constexpr char32_t kReplacement = 0xFFFD;

struct Utf8Char {
  char32_t code;  // U+FFFD where not valid
  size_t bytes;   // taken; of an invalid sequence its longest beginning that could have been one, at least 1
  bool valid;
};

// The first character of bytes that are not empty.
Utf8Char decode_utf8(std::string_view bytes);
void append_utf8(std::string& out, char32_t code);

// Bytes that are no character become U+FFFD each, one per longest beginning of one.
std::u32string to_utf32(std::string_view bytes);
std::string to_utf8(std::u32string_view text);

bool is_space(char32_t c);
// Control and format characters, direction marks, line separators: what a terminal could act on.
bool is_unsafe(char32_t c);
// Exact for ASCII and Latin-1; of the rest letters are told from punctuation, and cases in Greek and
// Cyrillic.
bool is_letter(char32_t c);
bool is_upper(char32_t c);
inline bool is_digit(char32_t c) { return c >= U'0' && c <= U'9'; }
char32_t to_lower(char32_t c);
std::u32string_view strip(std::u32string_view text);

// One printable line: unsafe characters become '?'.
std::string printable(std::string_view text);
// For messages: in single quotes, printable, at most 60 characters.
std::string in_quotes(std::string_view text);

}  // namespace edge::capi
