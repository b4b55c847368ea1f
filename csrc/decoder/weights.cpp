// SPDX-License-Identifier: Apache-2.0
#include "decoder/weights.h"

#include <set>
#include <stdexcept>

namespace edge {
namespace {

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

class Binder {
 public:
  explicit Binder(const std::map<std::string, TensorView>& tensors) : tensors_(tensors) {}

  const float* vector(const std::string& name, std::vector<int64_t> shape) {
    const TensorView* t = get(name, shape);
    if (!t) return nullptr;
    if (t->dtype != DType::f32) return error(name + " must be float32"), nullptr;
    return static_cast<const float*>(t->data);
  }

  Matrix matrix(const std::string& name, int64_t rows, int64_t cols, bool has_bias) {
    Matrix m{.rows = rows, .cols = cols};
    const std::string weight = name + ".weight", scale = weight + ".scale";
    if (is_int4(weight)) {
      if (cols % kGroup4 != 0)
        error(weight + " cannot be int4: " + std::to_string(cols) + " columns are not whole groups of " +
              std::to_string(kGroup4));
      if (const TensorView* t = get(weight, {rows, cols / 2})) m.data = t->data;
      if (const TensorView* t = get(scale, {rows, cols / kGroup4})) {
        if (t->dtype != DType::f16) error(scale + " must be float16");
        m.group_scale = static_cast<const uint16_t*>(t->data);
      }
      m.dtype = DType::i4;
    } else if (const TensorView* t = get(weight, {rows, cols})) {
      if (t->dtype != DType::f32 && t->dtype != DType::i8) error(weight + " must not be float16");
      m.data = t->data;
      m.dtype = t->dtype;
      if (t->dtype == DType::i8) m.scale = vector(scale, {rows});
    }
    if (has_bias) m.bias = vector(name + ".bias", {rows});
    return m;
  }

  // The int8 matrix of a prefill beside an int4 one, where there is one.
  Matrix prefill(const std::string& name, const Matrix& main) {
    const std::string other = "prefill." + name;
    if (!tensors_.contains(other + ".weight")) return main;
    if (main.dtype != DType::i4) error("unexpected " + other + ".weight: " + name + " is not int4");
    Matrix m = matrix(other, main.rows, main.cols, false);
    if (m.dtype != DType::i8) error(other + ".weight must be int8");
    m.bias = main.bias;
    return m;
  }

  Norm norm(const std::string& name, int64_t size) {
    return {vector(name + ".weight", {size}), vector(name + ".bias", {size})};
  }

  void finish() {
    for (const auto& [name, tensor] : tensors_)
      if (!used_.contains(name)) error("unexpected " + name + " " + shape_text(tensor.shape));
    if (errors_.empty()) return;
    std::string message = "decoder weights do not fit the spec: ";
    for (size_t i = 0; i < errors_.size(); ++i) message += (i ? "; " : "") + errors_[i];
    throw std::invalid_argument(message);
  }

 private:
  bool is_int4(const std::string& name) const {
    const auto found = tensors_.find(name);
    return found != tensors_.end() && found->second.dtype == DType::i4;
  }

  const TensorView* get(const std::string& name, const std::vector<int64_t>& shape) {
    used_.insert(name);
    const auto found = tensors_.find(name);
    if (found == tensors_.end()) return error("missing " + name + " " + shape_text(shape)), nullptr;
    if (found->second.shape != shape) {
      error(name + " has shape " + shape_text(found->second.shape) + ", not " + shape_text(shape));
      return nullptr;
    }
    return &found->second;
  }

  void error(std::string message) { errors_.push_back(std::move(message)); }

  const std::map<std::string, TensorView>& tensors_;
  std::set<std::string> used_;
  std::vector<std::string> errors_;
};

}  // namespace

void Matrix::multiply(const Kernels& kernels, const float* x, int64_t n, float* y, int64_t y_stride,
                      int64_t begin, int64_t end, bool accumulate, const NextRead& next,
                      const DigitRows* digits) const {
  const MatmulArgs args{.w = data,
                        .scale = scale,
                        .group_scale = group_scale,
                        .bias = bias,
                        .x = x,
                        .y = y,
                        .cols = cols,
                        .begin = begin,
                        .end = end,
                        .rows = n,
                        .x_stride = cols,
                        .y_stride = y_stride,
                        .accumulate = accumulate,
                        .next = next,
                        .digits = digits};
  if (digits) return (dtype == DType::i4 ? kernels.matmul_digits : kernels.matmul_digits8)(args);
  switch (dtype) {
    case DType::i8:
      return kernels.matmul_i8(args);
    case DType::i4:
      return kernels.matmul_i4(args);
    default:
      return kernels.matmul_f32(args);
  }
}

void Matrix::add_row(const Kernels& kernels, int64_t index, float* out) const {
  switch (dtype) {
    case DType::i8:
      return kernels.add_i8(row(index), scale[index], out, cols);
    case DType::i4:
      return kernels.add_i4(row(index), group_scale + index * (cols / kGroup4), out, cols);
    default:
      return kernels.add_f32(row(index), 1.0f, out, cols);
  }
}

Weights bind_weights(const DecoderSpec& spec, const std::map<std::string, TensorView>& tensors) {
  Binder in(tensors);
  const int64_t d = spec.hidden;
  Weights w;
  w.embed = in.matrix("embed", spec.vocab, d, false);
  w.positions = in.vector("positions.weight", {spec.max_positions, d});
  if (spec.token_types > 0) w.types = in.vector("types.weight", {spec.token_types, d});
  if (spec.embed_norm) w.embed_norm = in.norm("embed_norm", d);
  w.layers.reserve(static_cast<size_t>(spec.layers));
  for (int64_t i = 0; i < spec.layers; ++i) {
    const std::string at = "layers." + std::to_string(i) + ".";
    Layer layer;
    layer.attn_norm = in.norm(at + "attn_norm", d);
    layer.qkv = in.matrix(at + "qkv", 3 * d, d, true);
    layer.attn_out = in.matrix(at + "attn_out", d, d, true);
    if (spec.has_cross()) {
      layer.cross_norm = in.norm(at + "cross_norm", d);
      layer.cross_q = in.matrix(at + "cross_q", d, d, true);
      layer.cross_out = in.matrix(at + "cross_out", d, d, true);
    }
    layer.mlp_norm = in.norm(at + "mlp_norm", d);
    layer.mlp_in = in.matrix(at + "mlp_in", spec.mlp, d, true);
    layer.mlp_out = in.matrix(at + "mlp_out", d, spec.mlp, true);
    layer.prefill = {in.prefill(at + "qkv", layer.qkv), in.prefill(at + "attn_out", layer.attn_out),
                     in.prefill(at + "mlp_in", layer.mlp_in), in.prefill(at + "mlp_out", layer.mlp_out)};
    w.layers.push_back(layer);
  }
  if (spec.norm_position == NormPosition::pre) w.final_norm = in.norm("final_norm", d);
  if (spec.head_transform) {
    w.transform = in.matrix("transform", d, d, true);
    w.transform_norm = in.norm("transform_norm", d);
  }
  w.head = spec.tied_head ? w.embed : in.matrix("head", spec.vocab, d, false);
  if (spec.head_bias) w.head.bias = in.vector("head.bias", {spec.vocab});
  in.finish();
  return w;
}

void make_narrow(Weights& weights, const std::vector<std::string>& names) {
  std::map<std::string, Matrix*> known;
  for (size_t i = 0; i < weights.layers.size(); ++i) {
    Layer& layer = weights.layers[i];
    const std::string at = "layers." + std::to_string(i) + ".";
    known[at + "qkv"] = &layer.prefill.qkv;
    known[at + "attn_out"] = &layer.prefill.attn_out;
    known[at + "mlp_in"] = &layer.prefill.mlp_in;
    known[at + "mlp_out"] = &layer.prefill.mlp_out;
  }
  for (const std::string& name : names) {
    const auto found = known.find(name);
    if (found == known.end()) throw std::invalid_argument("prefill_int8: there is no matrix '" + name + "'");
    found->second->narrow = true;
  }
}

}  // namespace edge
