// SPDX-License-Identifier: Apache-2.0
#include "json_writer.h"

#include <charconv>

#include "utf8.h"

namespace edge::capi {
namespace {

void append_unit(std::string& out, char32_t unit) {
  constexpr char kDigits[] = "0123456789abcdef";
  out += "\\u";
  for (int shift = 12; shift >= 0; shift -= 4) out.push_back(kDigits[unit >> shift & 0xF]);
}

}  // namespace

JsonWriter& JsonWriter::text(std::string_view utf8) {
  std::string token = "\"";
  while (!utf8.empty()) {
    const Utf8Char next = decode_utf8(utf8);
    utf8.remove_prefix(next.bytes);
    const char32_t c = next.code;
    if (c == '"' || c == '\\') {
      token.push_back('\\');
      token.push_back(static_cast<char>(c));
    } else if (c == '\n') {
      token += "\\n";
    } else if (c == '\t') {
      token += "\\t";
    } else if (c >= 0x20 && c < 0x7F) {
      token.push_back(static_cast<char>(c));
    } else if (c < 0x10000) {
      append_unit(token, c);
    } else {
      append_unit(token, 0xD800 + ((c - 0x10000) >> 10));
      append_unit(token, 0xDC00 + ((c - 0x10000) & 0x3FF));
    }
  }
  token.push_back('"');
  return raw(token);
}

JsonWriter& JsonWriter::number(double value, int places) {
  char buffer[40];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, rounded(value, places)).ptr;
  std::string_view token(buffer, static_cast<size_t>(end - buffer));
  std::string real(token);
  if (token.find_first_of(".e") == std::string_view::npos) real += ".0";
  return raw(real);
}

double rounded(double value, int places) {
  char buffer[400];  // 309 digits and the places
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::fixed, places).ptr;
  double result = value;
  std::from_chars(buffer, end, result);
  return result;
}

}  // namespace edge::capi
