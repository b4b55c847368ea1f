// SPDX-License-Identifier: Apache-2.0
#include "decoder/sketch.h"

#include <algorithm>

namespace edge {

int64_t Sketch::worth(const Weights& weights) {
  int64_t bytes = 0;
  for (const Layer& layer : weights.layers)
    for (const Matrix* matrix : matrices_of(layer))
      if (matrix->dtype == DType::f32) bytes += matrix->bytes();
  return bytes;
}

int64_t Sketch::bytes(const Weights& weights) {
  const auto rounded = [](const Matrix& m) { return m.dtype == DType::f32 ? m.rows * m.cols : m.bytes(); };
  int64_t bytes = rounded(weights.transform);
  for (const Layer& layer : weights.layers)
    for (const Matrix* matrix : matrices_of(layer)) bytes += rounded(*matrix);
  return bytes;
}

Sketch::Sketch(const Weights& weights, const Kernels& kernels, ThreadPool& pool)
    : layers_(weights.layers), transform_(weights.transform) {
  std::vector<Matrix*> copies{&transform_};
  for (Layer& layer : layers_)
    for (Matrix* matrix : matrices_of(layer)) copies.push_back(matrix);
  std::erase_if(copies, [](const Matrix* matrix) { return !matrix->data || matrix->dtype != DType::f32; });
  int64_t elements = 0, rows = 0;
  for (const Matrix* matrix : copies) elements += matrix->rows * matrix->cols, rows += matrix->rows;
  memory_ = Pages(static_cast<size_t>(elements));
  scales_.resize(static_cast<size_t>(rows));
  auto* bytes = reinterpret_cast<int8_t*>(memory_.data());
  float* scales = scales_.data();
  for (Matrix* matrix : copies) {
    const auto* from = static_cast<const float*>(matrix->data);
    pool.run_whole([&](int thread) {
      const int64_t end = matrix->rows * (thread + 1) / pool.team();
      for (int64_t i = matrix->rows * thread / pool.team(); i < end; ++i)
        scales[i] = kernels.to_int8(from + i * matrix->cols, bytes + i * matrix->cols, matrix->cols);
    });
    matrix->data = bytes;
    matrix->scale = scales;
    matrix->dtype = DType::i8;
    bytes += matrix->rows * matrix->cols;
    scales += matrix->rows;
  }
}

}  // namespace edge
