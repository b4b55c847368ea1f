// SPDX-License-Identifier: Apache-2.0
// A strict JSON reader for files that may be hostile (RFC 8259): UTF-8 only, bounded depth, no key twice in
// one object, no number that is not finite. Linear in time and memory.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace edge::capi {

struct JsonValue;
using JsonArray = std::vector<JsonValue>;
using JsonObject = std::vector<std::pair<std::string, JsonValue>>;  // in the order of the text

struct JsonValue {
  std::variant<std::nullptr_t, bool, int64_t, double, std::string, JsonArray, JsonObject> value;

  template <class T>
  const T* get() const {
    return std::get_if<T>(&value);
  }
  // The member of an object; null where there is none or this is no object.
  const JsonValue* member(std::string_view key) const;
};

struct JsonLimits {
  int depth = 64;
  size_t digits = 19;  // of a whole number
};

// `syntax`: not JSON at all; otherwise JSON that is refused. what() is one printable line.
struct JsonError : std::runtime_error {
  JsonError(const std::string& what, bool is_syntax) : std::runtime_error(what), syntax(is_syntax) {}
  bool syntax;
};

// Throws JsonError.
JsonValue parse_json(std::string_view text, const JsonLimits& limits = {});

}  // namespace edge::capi
