// SPDX-License-Identifier: Apache-2.0
// A weight matrix laid out for products of many rows (cpu/kernels_gemm.h). The memory is the caller's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "cpu/kernels.h"
#include "decoder/weights.h"

namespace edge {

// Working space of a product: as many rows as it was made for.
struct PanelScratch {
  PanelScratch(int64_t rows, int64_t cols, const Kernels& kernels);

  std::vector<int16_t> small;      // [rows, cols], whole fours of them; of narrow products perhaps bytes
  std::vector<float> scale;        // [rows]
  std::vector<int32_t> zero, sum;  // [rows]
  std::vector<float> sums;         // [rows, gemm_outs], or as many integers
};

class Panels {
 public:
  Panels() = default;
  Panels(const Matrix& matrix, const Kernels& kernels);

  int64_t count() const { return count_; }
  // What it takes.
  int64_t bytes() const { return count_ * (panel_bytes_ + end_bytes()); }
  // `memory` on a 64-byte boundary.
  void place(std::byte* memory) { memory_ = memory; }
  // Lays out the panels [begin, end).
  void pack(int64_t begin, int64_t end) const;
  // y (+)= x W + b for n rows x [n, cols]; outputs of panels that end before `from` are left out.
  void multiply(const float* x, int64_t x_stride, int64_t n, float* y, int64_t y_stride, bool accumulate,
                PanelScratch& own, int64_t from = 0) const;

 private:
  enum class Form { floats, wide, narrow };

  // Behind each panel: scales, biases, and sums of weights.
  int64_t end_bytes() const;
  void round(const float* x, int64_t x_stride, int64_t n, PanelScratch& own) const;

  const Matrix* matrix_ = nullptr;
  const Kernels* kernels_ = nullptr;
  Form form_ = Form::floats;
  int64_t cols_ = 0, count_ = 0, panel_bytes_ = 0;
  float x_levels_ = 0.0f, w_levels_ = 0.0f;
  std::byte* memory_ = nullptr;
};

}  // namespace edge
