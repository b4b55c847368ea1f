// SPDX-License-Identifier: Apache-2.0
// Views of the decoder's weights: nothing is copied, the owner of the arrays must outlive them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "cpu/kernels.h"
#include "decoder/spec.h"

namespace edge {

// i4: two weights per byte, see kGroup4; f16 only as its scales.
enum class DType { f32, i8, i4, f16 };

// An array as the binding hands it over: C-contiguous and aligned for its type.
struct TensorView {
  const void* data = nullptr;
  DType dtype = DType::f32;
  std::vector<int64_t> shape;
};

// A matrix [rows, cols] with its bias: float, int8 with one scale per row, or int4 with one per group of
// columns.
struct Matrix {
  const void* data = nullptr;
  const float* scale = nullptr;
  const uint16_t* group_scale = nullptr;
  const float* bias = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;
  DType dtype = DType::f32;
  bool narrow = false;  // in a prefill its activations have 8 bits; without effect on float weights

  // y = W x + b for the weight rows [begin, end), or y += that. `next`: what is read after them; `digits`: x
  // in fixed point, for int8 and int4 weights where the kernels have such products.
  void multiply(const Kernels& kernels, const float* x, int64_t n, float* y, int64_t y_stride, int64_t begin,
                int64_t end, bool accumulate = false, const NextRead& next = {},
                const DigitRows* digits = nullptr) const;
  // out += row `index`, dequantised.
  void add_row(const Kernels& kernels, int64_t index, float* out) const;
  // Without scales.
  int64_t row_bytes() const { return dtype == DType::i4 ? cols / 2 : cols * (dtype == DType::f32 ? 4 : 1); }
  // As read by a product; scales per row are not counted.
  int64_t bytes() const { return rows * (row_bytes() + (dtype == DType::i4 ? cols / kGroup4 * 2 : 0)); }
  const std::byte* row(int64_t index) const {
    return static_cast<const std::byte*>(data) + index * row_bytes();
  }
  NextRead from_row(int64_t index) const {
    return {row(index), group_scale ? group_scale + index * (cols / kGroup4) : nullptr};
  }
};

struct Norm {
  const float* weight = nullptr;
  const float* bias = nullptr;
};

struct Layer {
  Norm attn_norm, cross_norm, mlp_norm;
  Matrix qkv, attn_out, cross_q, cross_out, mlp_in, mlp_out;
  // As a prefill takes them: the same, or int8 ones beside int4 (arrays "prefill.layers.0.qkv.weight", ...).
  struct {
    Matrix qkv, attn_out, mlp_in, mlp_out;
  } prefill;
};

struct Weights {
  Matrix embed, head, transform;
  const float* positions = nullptr;  // [max_positions, hidden]
  const float* types = nullptr;      // [token_types, hidden]
  Norm embed_norm, final_norm, transform_norm;
  std::vector<Layer> layers;
};

// Throws std::invalid_argument listing every missing, unexpected and wrongly shaped array at once.
Weights bind_weights(const DecoderSpec& spec, const std::map<std::string, TensorView>& tensors);

// Matrices whose activations have 8 bits in a prefill, such as "layers.0.mlp_in". Throws
// std::invalid_argument for a name that is no matrix of a layer.
void make_narrow(Weights& weights, const std::vector<std::string>& names);

}  // namespace edge
