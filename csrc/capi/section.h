// SPDX-License-Identifier: Apache-2.0
// JSON objects of the manifest whose every value is checked when it is taken; the twin of edge/strict.py.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "json.h"

namespace edge::capi {

class Section {
 public:
  // Throws Failure (EDGE_BUNDLE) where the value is no object.
  Section(const JsonValue& value, std::string where);

  [[noreturn]] void fail(std::string_view key, const std::string& expected) const;
  bool has(std::string_view key) const { return value_.member(key) != nullptr; }
  const JsonObject& members() const { return *value_.get<JsonObject>(); }
  const JsonValue& take(std::string_view key, const std::string& expected);
  Section section(std::string_view key);
  int64_t integer(std::string_view key, int64_t low, int64_t high);
  double number(std::string_view key, double low, double high);
  bool boolean(std::string_view key);
  std::string choice(std::string_view key, const std::vector<std::string>& options);
  // One printable line of at most so many characters.
  std::string text(std::string_view key, size_t limit, bool empty = true);
  bool is_null(std::string_view key, const std::string& expected);
  std::vector<int64_t> integers(std::string_view key, size_t limit, int64_t low, int64_t high,
                                bool exactly = false);
  std::vector<double> numbers(std::string_view key, size_t exactly, double low, double high);
  const JsonArray& array(std::string_view key, size_t limit, bool exactly = false);
  std::vector<std::string> strings(std::string_view key, size_t limit, size_t each);
  // Refuses what was not asked for.
  void done() const;

 private:
  const JsonValue& value_;
  std::string where_;
  std::vector<std::string_view> taken_;
};

}  // namespace edge::capi
