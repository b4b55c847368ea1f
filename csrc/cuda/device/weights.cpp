// SPDX-License-Identifier: Apache-2.0
#include "cuda/device/weights.h"

#include <algorithm>

namespace edge::cuda {
namespace {

constexpr int64_t kStaging = int64_t{4} << 20;  // floats

int type_on_device(const EdgeCudaMatrix& m, int float_type) {
  return m.type == EDGE_CUDA_F32 ? float_type : m.type;
}

int64_t matrix_bytes(const EdgeCudaMatrix& m, int float_type) {
  const int type = type_on_device(m, float_type);
  const int64_t scales = type == EDGE_CUDA_I8   ? m.rows * 4
                         : type == EDGE_CUDA_I4 ? m.rows * m.cols / kGroup4 * 2
                                                : 0;
  return bytes_of(type, m.rows * round_up(m.cols, kPad)) + scales + (m.bias ? m.rows * 4 : 0);
}

}  // namespace

int64_t DeviceWeights::bytes(const EdgeCudaModel& model) {
  int64_t total = matrix_bytes(model.embed, model.float_type) + model.max_positions * model.hidden * 4 +
                  (4 * model.layers + 2) * model.hidden * 4 + kStaging * 4;
  if (model.head.data) total += matrix_bytes(model.head, model.float_type);
  for (int64_t i = 0; i < model.layers; ++i) {
    const EdgeCudaLayer& l = model.layer[i];
    for (const EdgeCudaMatrix* m : {&l.qkv, &l.attn_out, &l.mlp_in, &l.mlp_out})
      total += matrix_bytes(*m, model.float_type);
  }
  return total;
}

DeviceWeights::DeviceWeights(const EdgeCudaModel& model, cudaStream_t stream) {
  if (model.float_type != EDGE_CUDA_F32) staging_ = Buffer<float>(kStaging);
  const int64_t d = model.hidden;
  embed = matrix(model.embed, model.float_type, stream);
  head = model.head.data ? matrix(model.head, model.float_type, stream) : embed;
  positions = vector(model.positions, model.max_positions * d, stream);
  final_norm = norm(model.final_norm, d, stream);
  for (int64_t i = 0; i < model.layers; ++i) {
    const EdgeCudaLayer& from = model.layer[i];
    layers.push_back(
        {norm(from.attn_norm, d, stream), norm(from.mlp_norm, d, stream),
         matrix(from.qkv, model.float_type, stream), matrix(from.attn_out, model.float_type, stream),
         matrix(from.mlp_in, model.float_type, stream), matrix(from.mlp_out, model.float_type, stream)});
  }
  check(cudaStreamSynchronize(stream), "to load the weights");
  staging_ = Buffer<float>();
}

void* DeviceWeights::copy(const void* from, int64_t bytes, cudaStream_t stream) {
  owned_.emplace_back(bytes);
  check(
      cudaMemcpyAsync(owned_.back().get(), from, static_cast<size_t>(bytes), cudaMemcpyHostToDevice, stream),
      "to load a weight");
  return owned_.back().get();
}

const float* DeviceWeights::vector(const float* from, int64_t n, cudaStream_t stream) {
  return static_cast<const float*>(copy(from, n * 4, stream));
}

DeviceNorm DeviceWeights::norm(const EdgeCudaNorm& norm, int64_t n, cudaStream_t stream) {
  return {vector(norm.weight, n, stream), vector(norm.bias, n, stream)};
}

DeviceMatrix DeviceWeights::matrix(const EdgeCudaMatrix& from, int float_type, cudaStream_t stream) {
  const int type = type_on_device(from, float_type);
  const int64_t padded = round_up(from.cols, kPad);
  DeviceMatrix m{};
  m.rows = static_cast<int32_t>(from.rows);
  m.cols = static_cast<int32_t>(from.cols);
  m.padded = static_cast<int32_t>(padded);
  m.type = type;
  if (from.bias) m.bias = vector(from.bias, from.rows, stream);
  if (type == EDGE_CUDA_I8) m.scale = copy(from.scale, from.rows * 4, stream);
  if (type == EDGE_CUDA_I4) m.scale = copy(from.scale, from.rows * (from.cols / kGroup4) * 2, stream);
  const int64_t size = bytes_of(type, from.rows * padded);
  owned_.emplace_back(size);
  m.data = owned_.back().get();
  if (type == from.type) {
    const auto width = static_cast<size_t>(bytes_of(type, from.cols));
    if (padded == from.cols) {  // as one piece: row by row takes far longer
      check(cudaMemcpyAsync(m.data, from.data, static_cast<size_t>(size), cudaMemcpyHostToDevice, stream),
            "to load a weight");
      return m;
    }
    check(cudaMemsetAsync(m.data, 0, static_cast<size_t>(size), stream), "to clear a weight");
    check(cudaMemcpy2DAsync(m.data, static_cast<size_t>(bytes_of(type, padded)), from.data, width, width,
                            static_cast<size_t>(from.rows), cudaMemcpyHostToDevice, stream),
          "to load a weight");
    return m;
  }
  const int64_t at_once = std::max<int64_t>(1, kStaging / from.cols);
  for (int64_t row = 0; row < from.rows; row += at_once) {
    const int64_t n = std::min(at_once, from.rows - row);
    check(cudaMemcpyAsync(staging_.get(), static_cast<const float*>(from.data) + row * from.cols,
                          static_cast<size_t>(n * from.cols) * 4, cudaMemcpyHostToDevice, stream),
          "to load a weight");
    check(launch_convert(type,
                         {staging_.get(), static_cast<unsigned char*>(m.data) + bytes_of(type, row * padded),
                          n, from.cols, padded},
                         stream),
          "to convert a weight");
  }
  return m;
}

}  // namespace edge::cuda
