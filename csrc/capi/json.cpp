// SPDX-License-Identifier: Apache-2.0
#include "json.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "utf8.h"

namespace edge::capi {
namespace {

class Parser {
 public:
  Parser(std::string_view text, const JsonLimits& limits) : text_(text), limits_(limits) {}

  JsonValue parse() {
    JsonValue result = value(0);
    space();
    if (at_ != text_.size()) fail("extra data");
    return result;
  }

 private:
  [[noreturn]] void fail(const char* what) const {
    const auto line = 1 + std::count(text_.begin(), text_.begin() + static_cast<std::ptrdiff_t>(at_), '\n');
    throw JsonError(std::string(what) + ", line " + std::to_string(line), true);
  }
  [[noreturn]] static void refuse(const std::string& what) { throw JsonError(what, false); }

  int peek() const { return at_ < text_.size() ? static_cast<unsigned char>(text_[at_]) : -1; }
  bool take(char c) {
    if (peek() != static_cast<unsigned char>(c)) return false;
    ++at_;
    return true;
  }
  bool take(std::string_view word) {
    if (text_.substr(at_, word.size()) != word) return false;
    at_ += word.size();
    return true;
  }
  void space() {
    while (at_ < text_.size() && std::string_view(" \t\n\r").find(text_[at_]) != std::string_view::npos)
      ++at_;
  }

  JsonValue value(int depth) {
    if (depth > limits_.depth) refuse("nested too deeply");
    space();
    const int c = peek();
    if (c == '{') return {object(depth)};
    if (c == '[') return {array(depth)};
    if (c == '"') return {string()};
    if (c == '-' || (c >= '0' && c <= '9')) return number();
    if (take("true")) return {true};
    if (take("false")) return {false};
    if (take("null")) return {nullptr};
    for (const char* word : {"NaN", "Infinity"})
      if (take(word)) refuse(std::string(word) + " is not a JSON number");
    fail("a value is expected");
  }

  JsonObject object(int depth) {
    ++at_;
    JsonObject members;
    space();
    if (take('}')) return members;
    do {
      space();
      if (peek() != '"') fail("a key is expected");
      std::string key = string();
      space();
      if (!take(':')) fail("':' is expected");
      members.emplace_back(std::move(key), value(depth + 1));
      space();
    } while (take(','));
    if (!take('}')) fail("',' or '}' is expected");
    refuse_twice(members);
    return members;
  }

  static void refuse_twice(const JsonObject& members) {
    std::vector<std::string_view> keys;
    keys.reserve(members.size());
    for (const auto& [key, member] : members) keys.push_back(key);
    std::sort(keys.begin(), keys.end());
    const auto twice = std::adjacent_find(keys.begin(), keys.end());
    if (twice != keys.end()) refuse("the key " + in_quotes(*twice) + " appears twice");
  }

  JsonArray array(int depth) {
    ++at_;
    JsonArray items;
    space();
    if (take(']')) return items;
    do {
      items.push_back(value(depth + 1));
      space();
    } while (take(','));
    if (!take(']')) fail("',' or ']' is expected");
    return items;
  }

  std::string string() {
    ++at_;
    std::string out;
    for (;;) {
      const int c = peek();
      if (c < 0x20) fail("a string is not ended");  // -1 too
      if (take('"')) return out;
      if (take('\\')) {
        escape(out);
      } else if (c < 0x80) {
        out.push_back(text_[at_++]);
      } else {
        const Utf8Char found = decode_utf8(text_.substr(at_));
        if (!found.valid) fail("bytes that are not UTF-8");
        out.append(text_, at_, found.bytes);
        at_ += found.bytes;
      }
    }
  }

  void escape(std::string& out) {
    constexpr std::string_view kNames = "\"\\/bfnrt", kMeant = "\"\\/\b\f\n\r\t";
    const int c = peek();
    if (c < 0) fail("a string is not ended");
    ++at_;
    if (c == 'u') {
      char32_t code = unit();
      if (code >= 0xD800 && code <= 0xDBFF && take("\\u")) {
        const char32_t low = unit();
        if (low < 0xDC00 || low > 0xDFFF) refuse("half of a character in a string");
        code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
      } else if (code >= 0xD800 && code <= 0xDFFF) {
        refuse("half of a character in a string");
      }
      append_utf8(out, code);
      return;
    }
    const size_t index = kNames.find(static_cast<char>(c));
    if (index == std::string_view::npos) fail("an unknown escape");
    out.push_back(kMeant[index]);
  }

  char32_t unit() {
    uint32_t code = 0;
    const char* begin = text_.data() + at_;
    if (text_.size() - at_ < 4) fail("an escape is cut off");
    const auto [end, problem] = std::from_chars(begin, begin + 4, code, 16);
    if (problem != std::errc{} || end != begin + 4) fail("an escape without four digits");
    at_ += 4;
    return code;
  }

  JsonValue number() {
    const size_t begin = at_;
    take('-');
    if (take("Infinity")) refuse("-Infinity is not a JSON number");
    const size_t first = at_;
    digits();
    if (at_ - first > 1 && text_[first] == '0') {
      at_ = first + 1;
      fail("a number begins with zero");
    }
    const bool whole = peek() != '.' && peek() != 'e' && peek() != 'E';
    if (take('.')) digits();
    if (take('e') || take('E')) {
      if (!take('+')) take('-');
      digits();
    }
    const char *from = text_.data() + begin, *to = text_.data() + at_;
    if (whole) {
      if (at_ - begin > limits_.digits) refuse("a number has too many digits");
      int64_t value = 0;
      if (std::from_chars(from, to, value).ec == std::errc{}) return {value};
      return {*from == '-' ? INT64_MIN : INT64_MAX};  // out of every range there is
    }
    double value = 0.0;
    const auto [end, problem] = std::from_chars(from, to, value);
    if (problem == std::errc::result_out_of_range && !tiny(from, to)) refuse("a number is out of range");
    return {value};
  }

  // A number too small for a double counts as 0; one too large is refused.
  static bool tiny(const char* from, const char* to) {
    const std::string_view text(from, static_cast<size_t>(to - from));
    const size_t e = text.find_first_of("eE");
    return e != std::string_view::npos && e + 1 < text.size() && text[e + 1] == '-';
  }

  void digits() {
    const size_t begin = at_;
    while (peek() >= '0' && peek() <= '9') ++at_;
    if (at_ == begin) fail("a digit is expected");
  }

  std::string_view text_;
  JsonLimits limits_;
  size_t at_ = 0;
};

}  // namespace

const JsonValue* JsonValue::member(std::string_view key) const {
  const JsonObject* object = get<JsonObject>();
  if (!object) return nullptr;
  for (const auto& [name, member] : *object)
    if (name == key) return &member;
  return nullptr;
}

JsonValue parse_json(std::string_view text, const JsonLimits& limits) { return Parser(text, limits).parse(); }

}  // namespace edge::capi
