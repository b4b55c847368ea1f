// SPDX-License-Identifier: Apache-2.0
#include "decoder/spec.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <set>
#include <stdexcept>
#include <vector>

namespace edge {
namespace {

std::string text_of(const SpecValue& value) {
  if (const bool* b = std::get_if<bool>(&value)) return *b ? "true" : "false";
  if (const int64_t* i = std::get_if<int64_t>(&value)) return std::to_string(*i);
  if (const double* d = std::get_if<double>(&value)) return std::to_string(*d);
  if (std::holds_alternative<std::vector<int64_t>>(value)) return "a list";
  return "'" + std::get<std::string>(value) + "'";
}

class Reader {
 public:
  explicit Reader(const std::map<std::string, SpecValue>& values) : values_(values) {}

  int64_t integer(const char* key, int64_t low, int64_t high, std::optional<int64_t> missing = {}) {
    const SpecValue* value = get(key, missing.has_value());
    if (!value) return missing.value_or(low);
    const int64_t* i = std::get_if<int64_t>(value);
    if (!i || *i < low || *i > high) {
      errors_.push_back(std::string(key) + " = " + text_of(*value) + " (a whole number from " +
                        std::to_string(low) + " to " + std::to_string(high) + " is needed)");
      return low;
    }
    return *i;
  }

  double number(const char* key, double low, double high, std::optional<double> missing = {}) {
    const SpecValue* value = get(key, missing.has_value());
    if (!value) return missing.value_or(low);
    double x = std::nan("");
    if (const double* d = std::get_if<double>(value)) x = *d;
    if (const int64_t* i = std::get_if<int64_t>(value)) x = static_cast<double>(*i);
    if (!(x >= low && x <= high)) {
      errors_.push_back(std::string(key) + " = " + text_of(*value) + " (out of range)");
      return low;
    }
    return x;
  }

  bool flag(const char* key, std::optional<bool> missing = {}) {
    const SpecValue* value = get(key, missing.has_value());
    if (!value) return missing.value_or(false);
    if (const bool* b = std::get_if<bool>(value)) return *b;
    errors_.push_back(std::string(key) + " = " + text_of(*value) + " (true or false is needed)");
    return false;
  }

  // The index of the value among `choices`.
  size_t choice(const char* key, const std::vector<std::string>& choices) {
    const SpecValue* value = get(key, false);
    if (!value) return 0;
    std::string all;
    for (size_t i = 0; i < choices.size(); ++i) {
      if (const std::string* s = std::get_if<std::string>(value); s && *s == choices[i]) return i;
      all += (i ? ", " : "") + choices[i];
    }
    errors_.push_back(std::string(key) + " = " + text_of(*value) + " (implemented: " + all + ")");
    return 0;
  }

  std::vector<int64_t> list(const char* key) {
    const SpecValue* value = get(key, true);
    if (!value) return {};
    if (const auto* numbers = std::get_if<std::vector<int64_t>>(value)) return *numbers;
    errors_.push_back(std::string(key) + " = " + text_of(*value) + " (a list of whole numbers is needed)");
    return {};
  }

  void fail(std::string message) { errors_.push_back(std::move(message)); }
  bool clean() const { return errors_.empty(); }

  void finish() {
    for (const auto& [key, value] : values_)
      if (!known_.contains(key)) errors_.push_back("unknown key '" + key + "' = " + text_of(value));
    if (errors_.empty()) return;
    std::string message = "decoder spec: ";
    for (size_t i = 0; i < errors_.size(); ++i) message += (i ? "; " : "") + errors_[i];
    throw std::invalid_argument(message);
  }

 private:
  const SpecValue* get(const char* key, bool optional) {
    known_.insert(key);
    const auto found = values_.find(key);
    if (found != values_.end()) return &found->second;
    if (!optional) errors_.push_back(std::string("missing key '") + key + "'");
    return nullptr;
  }

  const std::map<std::string, SpecValue>& values_;
  std::set<std::string> known_;
  std::vector<std::string> errors_;
};

}  // namespace

int32_t DecoderSpec::type_behind(std::span<const int32_t> before) const {
  for (auto pair = type_after.rbegin(); pair != type_after.rend(); ++pair)
    if (std::find(before.begin(), before.end(), pair->first) != before.end()) return pair->second;
  return 0;
}

DecoderSpec parse_spec(const std::map<std::string, SpecValue>& values) {
  // The bounds keep every product of sizes below far inside 64 bits.
  constexpr int64_t kWide = int64_t{1} << 20;
  Reader in(values);
  DecoderSpec spec;
  spec.layers = in.integer("layers", 1, 1024);
  spec.hidden = in.integer("hidden", 1, kWide);
  spec.heads = in.integer("heads", 1, 4096);
  spec.head_dim = in.integer("head_dim", 1, 4096);
  const int64_t kv_heads = in.integer("kv_heads", 1, 4096);
  spec.mlp = in.integer("mlp", 1, kWide);
  spec.vocab = in.integer("vocab", 1, int64_t{1} << 24);
  spec.max_positions = in.integer("max_positions", 1, kWide);
  spec.position_offset = in.integer("position_offset", 0, 1024, 0);
  spec.norm_eps = static_cast<float>(in.number("norm_eps", 0.0, 1.0));
  in.choice("norm", {"layernorm"});
  spec.norm_position = in.choice("norm_position", {"pre", "post"}) ? NormPosition::post : NormPosition::pre;
  in.choice("positions", {"learned"});
  spec.activation =
      in.choice("activation", {"gelu_tanh", "gelu_erf"}) ? Activation::gelu_erf : Activation::gelu_tanh;
  spec.tied_head = in.flag("tied_head");
  // Absent means: as in a plain decoder behind an image prefix.
  spec.cross_keys = in.integer("cross_keys", 0, kWide, 0);
  spec.embed_scale = static_cast<float>(in.number("embed_scale", 1e-3, 1e3, 1.0));
  spec.embed_norm = in.flag("embed_norm", false);
  spec.head_transform = in.flag("head_transform", false);
  spec.head_bias = in.flag("head_bias", false);
  spec.token_types = in.integer("token_types", 0, 64, 0);
  const std::vector<int64_t> after = in.list("type_after");
  if (in.clean()) {
    const auto known = [&](size_t i, int64_t limit) { return after[i] >= 0 && after[i] < limit; };
    for (size_t i = 0; i + 1 < after.size(); i += 2)
      if (known(i, spec.vocab) && known(i + 1, spec.token_types))
        spec.type_after.emplace_back(static_cast<int32_t>(after[i]), static_cast<int32_t>(after[i + 1]));
    if (2 * spec.type_after.size() != after.size() || after.size() > 32)
      in.fail("type_after must hold up to 16 pairs of a token id and one of the token_types");
  }
  if (in.clean()) {
    if (spec.rows() < 1)
      in.fail("position_offset = " + std::to_string(spec.position_offset) +
              " (leaves none of max_positions = " + std::to_string(spec.max_positions) + ")");
    if (kv_heads != spec.heads)
      in.fail("kv_heads = " + std::to_string(kv_heads) +
              " (grouped queries are not implemented: kv_heads must equal heads)");
    if (spec.heads * spec.head_dim != spec.hidden)
      in.fail("heads * head_dim = " + std::to_string(spec.heads * spec.head_dim) +
              " (must equal hidden = " + std::to_string(spec.hidden) + ")");
  }
  in.finish();
  return spec;
}

}  // namespace edge
