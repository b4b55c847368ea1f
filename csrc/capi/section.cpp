// SPDX-License-Identifier: Apache-2.0
#include "section.h"

#include <algorithm>
#include <charconv>

#include "failure.h"
#include "json_writer.h"
#include "utf8.h"

namespace edge::capi {
namespace {

std::string plain(double value) {
  char buffer[40];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, value).ptr;
  return {buffer, end};
}

std::string shown(const JsonValue& value) {
  if (const auto* text = value.get<std::string>()) return in_quotes(*text);
  if (const auto* whole = value.get<int64_t>()) return std::to_string(*whole);
  if (const auto* real = value.get<double>()) return plain(*real);
  if (const auto* flag = value.get<bool>()) return *flag ? "true" : "false";
  if (value.get<JsonArray>()) return "such a list";
  return value.get<JsonObject>() ? "an object" : "null";
}

bool is_line(const std::string& text, size_t limit) {
  const std::u32string characters = to_utf32(text);
  return characters.size() <= limit && std::none_of(characters.begin(), characters.end(), [](char32_t c) {
           return is_unsafe(c) || (is_space(c) && c != U' ');
         });
}

bool is_integer(const JsonValue& value, int64_t low, int64_t high) {
  const int64_t* whole = value.get<int64_t>();
  return whole && *whole >= low && *whole <= high;
}

bool is_number(const JsonValue& value, double low, double high, double& out) {
  if (const int64_t* whole = value.get<int64_t>())
    out = static_cast<double>(*whole);
  else if (const double* real = value.get<double>())
    out = *real;
  else
    return false;
  return out >= low && out <= high;
}

}  // namespace

Section::Section(const JsonValue& value, std::string where) : value_(value), where_(std::move(where)) {
  if (!value.get<JsonObject>()) throw bundle_failure(where_ + " must be an object, not " + shown(value));
}

void Section::fail(std::string_view key, const std::string& expected) const {
  const JsonValue* value = value_.member(key);
  throw bundle_failure(where_ + ": " + in_quotes(key) + " must be " + expected + ", not " +
                       (value ? shown(*value) : "nothing"));
}

const JsonValue& Section::take(std::string_view key, const std::string& expected) {
  const JsonValue* value = value_.member(key);
  if (!value) fail(key, expected);
  taken_.push_back(key);
  return *value;
}

Section Section::section(std::string_view key) {
  const JsonValue& value = take(key, "an object");
  return {value, where_ == "manifest" ? std::string(key) : where_ + "." + std::string(key)};
}

int64_t Section::integer(std::string_view key, int64_t low, int64_t high) {
  const std::string expected = "a whole number from " + std::to_string(low) + " to " + std::to_string(high);
  const JsonValue& value = take(key, expected);
  if (!is_integer(value, low, high)) fail(key, expected);
  return *value.get<int64_t>();
}

double Section::number(std::string_view key, double low, double high) {
  const std::string expected = "a number from " + plain(low) + " to " + plain(high);
  double result = 0.0;
  if (!is_number(take(key, expected), low, high, result)) fail(key, expected);
  return result;
}

bool Section::boolean(std::string_view key) {
  const bool* flag = take(key, "true or false").get<bool>();
  if (!flag) fail(key, "true or false");
  return *flag;
}

std::string Section::choice(std::string_view key, const std::vector<std::string>& options) {
  std::string expected = "one of ";
  for (size_t i = 0; i < options.size(); ++i) expected += (i ? ", " : "") + options[i];
  const std::string* text = take(key, expected).get<std::string>();
  if (!text || std::find(options.begin(), options.end(), *text) == options.end()) fail(key, expected);
  return *text;
}

std::string Section::text(std::string_view key, size_t limit, bool empty) {
  const std::string expected =
      "one line of printable text of at most " + std::to_string(limit) + " characters";
  const std::string* value = take(key, expected).get<std::string>();
  if (!value || !is_line(*value, limit)) fail(key, expected);
  if (value->empty() && !empty) fail(key, "not empty");
  return *value;
}

bool Section::is_null(std::string_view key, const std::string& expected) {
  return take(key, expected).get<std::nullptr_t>() != nullptr;
}

const JsonArray& Section::array(std::string_view key, size_t limit, bool exactly) {
  const std::string expected = (exactly ? "a list of " : "a list of at most ") + std::to_string(limit);
  const JsonArray* items = take(key, expected).get<JsonArray>();
  if (!items || items->size() > limit || (exactly && items->size() != limit)) fail(key, expected);
  return *items;
}

std::vector<int64_t> Section::integers(std::string_view key, size_t limit, int64_t low, int64_t high,
                                       bool exactly) {
  std::vector<int64_t> values;
  for (const JsonValue& item : array(key, limit, exactly)) {
    if (!is_integer(item, low, high))
      fail(key, "a list of whole numbers from " + std::to_string(low) + " to " + std::to_string(high));
    values.push_back(*item.get<int64_t>());
  }
  return values;
}

std::vector<double> Section::numbers(std::string_view key, size_t exactly, double low, double high) {
  std::vector<double> values(exactly);
  const JsonArray& items = array(key, exactly, true);
  for (size_t i = 0; i < exactly; ++i)
    if (!is_number(items[i], low, high, values[i]))
      fail(key, std::to_string(exactly) + " numbers from " + plain(low) + " to " + plain(high));
  return values;
}

std::vector<std::string> Section::strings(std::string_view key, size_t limit, size_t each) {
  std::vector<std::string> texts;
  for (const JsonValue& item : array(key, limit, false)) {
    const std::string* text = item.get<std::string>();
    if (!text || !is_line(*text, each))
      fail(key, "a list of printable texts of at most " + std::to_string(each) + " characters");
    texts.push_back(*text);
  }
  return texts;
}

void Section::done() const {
  std::vector<std::string> left;
  for (const auto& [key, member] : members())
    if (std::find(taken_.begin(), taken_.end(), key) == taken_.end()) left.push_back(in_quotes(key));
  if (left.empty()) return;
  std::sort(left.begin(), left.end());
  std::string names;
  for (size_t i = 0; i < std::min<size_t>(left.size(), 8); ++i) names += (i ? ", " : "") + left[i];
  throw bundle_failure(where_ + " holds unknown keys (" + names +
                       "): the bundle was made for another edge-report; update edge-report or export again");
}

}  // namespace edge::capi
