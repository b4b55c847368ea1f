// SPDX-License-Identifier: Apache-2.0
#include "tokenizer.h"

#include <algorithm>
#include <array>
#include <set>

#include "failure.h"
#include "json.h"
#include "utf8.h"

namespace edge::capi {
namespace {

constexpr size_t kMaxBytes = size_t{64} << 20;

// Byte-level BPE writes every byte as a printable character: printable Latin-1 as itself, the others as the
// characters from U+0100 on, in order.
constexpr int kByteChars = 0x144;
std::array<int, kByteChars> byte_of_char() {
  std::array<int, kByteChars> table;
  table.fill(-1);
  int next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    const bool itself = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    table[static_cast<size_t>(itself ? byte : next++)] = byte;
  }
  return table;
}

// What a token stands for; one with a character that stands for no byte means itself.
std::string token_bytes(const std::string& token, const std::array<int, kByteChars>& table) {
  std::string out;
  for (const char32_t c : to_utf32(token)) {
    const int byte = c < kByteChars ? table[c] : -1;
    if (byte < 0) return token;
    out.push_back(static_cast<char>(byte));
  }
  return out;
}

std::string_view type_of(const JsonValue* section) {
  const JsonValue* type = section ? section->member("type") : nullptr;
  const std::string* name = type ? type->get<std::string>() : nullptr;
  return name ? std::string_view(*name) : std::string_view();
}

}  // namespace

Tokenizer::Tokenizer(std::string_view json, const std::string& name, int64_t vocab) {
  const auto fail = [&] { return bundle_failure(name + " is not a tokenizer this version can read"); };
  JsonValue root;
  try {
    if (json.size() > kMaxBytes) throw fail();
    root = parse_json(json);
  } catch (const JsonError&) {
    throw fail();
  }
  const JsonValue *model = root.member("model"), *added = root.member("added_tokens");
  if (type_of(root.member("decoder")) != "ByteLevel")
    throw bundle_failure(name + " is no byte-level tokenizer, which is what this version can read");
  if (!type_of(model).empty() && type_of(model) != "BPE") throw fail();
  const JsonValue* words = model ? model->member("vocab") : nullptr;
  const JsonObject* entries = words ? words->get<JsonObject>() : nullptr;
  if (!entries) throw fail();
  if (std::ssize(*entries) > vocab)
    throw bundle_failure(name + " holds " + std::to_string(entries->size()) + " tokens, the decoder " +
                         std::to_string(vocab) + ": they do not match");

  bytes_.resize(static_cast<size_t>(vocab));
  const auto table = byte_of_char();
  std::set<std::string_view> tokens;
  for (const auto& [token, value] : *entries) {
    const int64_t* id = value.get<int64_t>();
    if (!id || *id < 0) throw fail();
    tokens.insert(token);
    // An id beyond the vocabulary is never generated.
    if (*id < vocab) bytes_[static_cast<size_t>(*id)] = token_bytes(token, table);
  }
  if (added && !added->get<std::nullptr_t>()) {
    const JsonArray* items = added->get<JsonArray>();
    if (!items) throw fail();
    for (const JsonValue& item : *items) {
      const JsonValue *id = item.member("id"), *content = item.member("content"),
                      *special = item.member("special");
      const int64_t* number = id ? id->get<int64_t>() : nullptr;
      const std::string* token = content ? content->get<std::string>() : nullptr;
      const bool* skip = special ? special->get<bool>() : nullptr;
      if (!number || *number < 0 || !token || !skip) throw fail();
      tokens.insert(*token);
      if (*number < vocab) bytes_[static_cast<size_t>(*number)] = *skip ? "" : token_bytes(*token, table);
    }
  }
  if (std::ssize(tokens) > vocab)
    throw bundle_failure(name + " holds " + std::to_string(tokens.size()) + " tokens, the decoder " +
                         std::to_string(vocab) + ": they do not match");
}

std::u32string Tokenizer::decode(std::span<const int32_t> ids) const {
  std::string bytes;
  for (const int32_t id : ids)
    if (id >= 0 && id < std::ssize(bytes_)) bytes += bytes_[static_cast<size_t>(id)];
  std::u32string text = to_utf32(bytes);
  std::erase_if(text, [](char32_t c) { return c != U'\n' && c != U'\t' && is_unsafe(c); });
  return text;
}

}  // namespace edge::capi
