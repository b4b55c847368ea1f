// SPDX-License-Identifier: Apache-2.0
// The decoder spec: what a decoder is made of, in terms of operations, never of model names.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace edge {

enum class Activation { gelu_tanh, gelu_erf };
// Norms before each sublayer and the head, or after each sublayer on its sum with what went in.
enum class NormPosition { pre, post };

struct DecoderSpec {
  int64_t layers = 0;
  int64_t hidden = 0;
  int64_t heads = 0;
  int64_t head_dim = 0;
  int64_t mlp = 0;
  int64_t vocab = 0;
  int64_t max_positions = 0;    // rows of the position table
  int64_t position_offset = 0;  // of them in front that no row uses
  float norm_eps = 0.0f;
  Activation activation = Activation::gelu_tanh;
  bool tied_head = true;
  NormPosition norm_position = NormPosition::pre;
  int64_t cross_keys = 0;       // image keys of the cross-attention at most; 0: none, the image is a prefix
  float embed_scale = 1.0f;     // on embeddings, before positions are added
  bool embed_norm = false;      // a norm on the sum of both
  bool head_transform = false;  // a layer, the activation and a norm before the head
  bool head_bias = false;
  int64_t token_types = 0;  // rows of a table that is added to embeddings; 0: none
  // {id, type}: rows behind such an id are of this type, and of several pairs the last one counts; else 0.
  std::vector<std::pair<int32_t, int32_t>> type_after;

  // Rows (prefix and text) that the position table allows.
  int64_t rows() const { return max_positions - position_offset; }
  bool has_cross() const { return cross_keys > 0; }
  // The type of the token that follows these.
  int32_t type_behind(std::span<const int32_t> before) const;
  // Whether it is a plain pre-norm decoder behind an image prefix.
  bool is_plain() const {
    return norm_position == NormPosition::pre && !has_cross() && embed_scale == 1.0f && !embed_norm &&
           !head_transform && !head_bias && token_types == 0;
  }
};

using SpecValue = std::variant<bool, int64_t, double, std::string, std::vector<int64_t>>;

// Throws std::invalid_argument listing every unknown key, missing key and unsupported value at once.
DecoderSpec parse_spec(const std::map<std::string, SpecValue>& values);

}  // namespace edge
