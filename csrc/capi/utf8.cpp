// SPDX-License-Identifier: Apache-2.0
#include "utf8.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <utility>

namespace edge::capi {
namespace {

using Range = std::pair<char32_t, char32_t>;

// General categories Cc, Cf, Cs, Zl and Zp of Unicode 15.
constexpr Range kUnsafe[] = {{0x0, 0x1F},        {0x7F, 0x9F},       {0xAD, 0xAD},       {0x600, 0x605},
                             {0x61C, 0x61C},     {0x6DD, 0x6DD},     {0x70F, 0x70F},     {0x890, 0x891},
                             {0x8E2, 0x8E2},     {0x180E, 0x180E},   {0x200B, 0x200F},   {0x2028, 0x202E},
                             {0x2060, 0x2064},   {0x2066, 0x206F},   {0xD800, 0xDFFF},   {0xFEFF, 0xFEFF},
                             {0xFFF9, 0xFFFB},   {0x110BD, 0x110BD}, {0x110CD, 0x110CD}, {0x13430, 0x1343F},
                             {0x1BCA0, 0x1BCA3}, {0x1D173, 0x1D17A}, {0xE0001, 0xE0001}, {0xE0020, 0xE007F}};

// Beyond Latin-1, what is no letter and no digit: punctuation, symbols, spaces, private use.
constexpr Range kNoLetter[] = {{0x2000, 0x206F},  {0x20A0, 0x20CF}, {0x2190, 0x245F}, {0x2500, 0x2BFF},
                               {0x2E00, 0x2E7F},  {0x3000, 0x3004}, {0x3008, 0x3020}, {0xE000, 0xF8FF},
                               {0xFE10, 0xFE6F},  {0xFF01, 0xFF0F}, {0xFF1A, 0xFF20}, {0xFFE0, 0xFFFF},
                               {0x1F000, 0x1FAFF}};

template <size_t N>
bool inside(const Range (&ranges)[N], char32_t c) {
  return std::any_of(std::begin(ranges), std::end(ranges),
                     [c](const Range& range) { return c >= range.first && c <= range.second; });
}

}  // namespace

Utf8Char decode_utf8(std::string_view bytes) {
  const auto at = [&](size_t i) { return static_cast<unsigned char>(bytes[i]); };
  const unsigned char lead = at(0);
  if (lead < 0x80) return {lead, 1, true};
  size_t length = 0;
  char32_t code = 0;
  // Bounds of the second byte exclude overlong forms, surrogates and what lies beyond U+10FFFF.
  unsigned char low = 0x80, high = 0xBF;
  if (lead >= 0xC2 && lead <= 0xDF) {
    length = 2, code = lead & 0x1Fu;
  } else if (lead >= 0xE0 && lead <= 0xEF) {
    length = 3, code = lead & 0x0Fu;
    if (lead == 0xE0) low = 0xA0;
    if (lead == 0xED) high = 0x9F;
  } else if (lead >= 0xF0 && lead <= 0xF4) {
    length = 4, code = lead & 0x07u;
    if (lead == 0xF0) low = 0x90;
    if (lead == 0xF4) high = 0x8F;
  } else {
    return {kReplacement, 1, false};
  }
  for (size_t i = 1; i < length; ++i) {
    if (i >= bytes.size() || at(i) < low || at(i) > high) return {kReplacement, i, false};
    code = code << 6 | (at(i) & 0x3Fu);
    low = 0x80, high = 0xBF;
  }
  return {code, length, true};
}

void append_utf8(std::string& out, char32_t code) {
  const auto put = [&](char32_t byte) { out.push_back(static_cast<char>(byte)); };
  if (code < 0x80) {
    put(code);
  } else if (code < 0x800) {
    put(0xC0 | code >> 6), put(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    put(0xE0 | code >> 12), put(0x80 | (code >> 6 & 0x3F)), put(0x80 | (code & 0x3F));
  } else {
    put(0xF0 | code >> 18), put(0x80 | (code >> 12 & 0x3F));
    put(0x80 | (code >> 6 & 0x3F)), put(0x80 | (code & 0x3F));
  }
}

std::u32string to_utf32(std::string_view bytes) {
  std::u32string text;
  text.reserve(bytes.size());
  while (!bytes.empty()) {
    const Utf8Char next = decode_utf8(bytes);
    text.push_back(next.code);
    bytes.remove_prefix(next.bytes);
  }
  return text;
}

std::string to_utf8(std::u32string_view text) {
  std::string bytes;
  bytes.reserve(text.size());
  for (const char32_t c : text) append_utf8(bytes, c);
  return bytes;
}

bool is_space(char32_t c) {
  return (c >= 0x9 && c <= 0xD) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

bool is_unsafe(char32_t c) { return inside(kUnsafe, c); }

bool is_letter(char32_t c) {
  if (c < 0x80) return (c | 0x20) >= 'a' && (c | 0x20) <= 'z';
  if (c < 0x100) return c == 0xAA || c == 0xB5 || c == 0xBA || (c >= 0xC0 && c != 0xD7 && c != 0xF7);
  return !inside(kNoLetter, c) && !is_space(c) && !is_unsafe(c);
}

bool is_upper(char32_t c) {
  return (c >= 'A' && c <= 'Z') || (c >= 0xC0 && c <= 0xDE && c != 0xD7) || (c >= 0x391 && c <= 0x3A9) ||
         (c >= 0x400 && c <= 0x42F);
}

char32_t to_lower(char32_t c) {
  if (c >= 0x400 && c <= 0x40F) return c + 0x50;
  return is_upper(c) ? c + 0x20 : c;
}

std::u32string_view strip(std::u32string_view text) {
  while (!text.empty() && is_space(text.front())) text.remove_prefix(1);
  while (!text.empty() && is_space(text.back())) text.remove_suffix(1);
  return text;
}

std::string printable(std::string_view text) {
  std::string out;
  for (const char32_t c : to_utf32(text)) append_utf8(out, is_unsafe(c) ? U'?' : c);
  return out;
}

std::string in_quotes(std::string_view text) {
  constexpr size_t kMost = 60;
  std::u32string plain = to_utf32(printable(text));
  const bool cut = plain.size() > kMost - 2;
  if (cut) plain.resize(kMost - 4);
  return std::string("'").append(to_utf8(plain)).append(cut ? "..." : "'");
}

}  // namespace edge::capi
