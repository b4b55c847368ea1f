// SPDX-License-Identifier: Apache-2.0
// The decoder spec: what a decoder is made of, in terms of operations, never of model names.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <variant>

namespace edge {

enum class Activation { gelu_tanh, gelu_erf };

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

  // Rows (prefix and text) that the position table allows.
  int64_t rows() const { return max_positions - position_offset; }
};

using SpecValue = std::variant<bool, int64_t, double, std::string>;

// Throws std::invalid_argument listing every unknown key, missing key and unsupported value at once.
DecoderSpec parse_spec(const std::map<std::string, SpecValue>& values);

}  // namespace edge
