// SPDX-License-Identifier: Apache-2.0
// Writes one line of ASCII JSON. The caller keeps brackets and keys in order.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace edge::capi {

class JsonWriter {
 public:
  JsonWriter& open(char bracket) { return raw(std::string_view(&bracket, 1), true); }
  JsonWriter& close(char bracket) {
    out_.push_back(bracket);
    comma_ = true;
    return *this;
  }
  JsonWriter& key(std::string_view name) {
    text(name);
    out_.push_back(':');
    comma_ = false;
    return *this;
  }
  // UTF-8; what is not becomes U+FFFD.
  JsonWriter& text(std::string_view utf8);
  // Null where the pointer is.
  JsonWriter& text_or_null(const std::string* utf8) { return utf8 ? text(*utf8) : raw("null"); }
  JsonWriter& number(int64_t value) { return raw(std::to_string(value)); }
  // Rounded to so many decimal places, then as short as possible; must be finite.
  JsonWriter& number(double value, int places);
  JsonWriter& null() { return raw("null"); }

  std::string take() { return std::move(out_); }

 private:
  JsonWriter& raw(std::string_view token, bool opens = false) {
    if (comma_) out_.push_back(',');
    out_.append(token);
    comma_ = !opens;
    return *this;
  }

  std::string out_;
  bool comma_ = false;  // whether the next token needs one before it
};

// Decimal rounding to so many places, as printed numbers are rounded.
double rounded(double value, int places);

}  // namespace edge::capi
