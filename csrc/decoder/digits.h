// SPDX-License-Identifier: Apache-2.0
// Activations as integers in digits of 8 bits, for the products that are products of bytes.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/kernels.h"
#include "cpu/pages.h"
#include "decoder/weights.h"

namespace edge {

// One thread's copy: each rounds the rows for itself, as it normalises them for itself.
class Digits {
 public:
  // For so many rows of so many columns at most; memory is taken when it is first needed.
  Digits(const Kernels& kernels, int64_t rows, int64_t cols);

  // The n rows of x [n, matrix.cols] for products with this matrix, or null if it takes them as they are.
  // Valid until the next call.
  const DigitRows* round(const Matrix& matrix, const float* x, int64_t n);
  // What the last call returned.
  const DigitRows* rows() const { return current_; }
  // Of rows for int8 weights, those from this one on.
  static DigitRows from(const DigitRows& rows, int64_t first) {
    return {rows.digits + first * rows.chunks * kDigits * kByteChunk,
            rows.start + first * kDigits * kDigitLanes, rows.scale + first, rows.chunks};
  }

 private:
  const Kernels* kernels_;
  int64_t most_rows_, most_chunks_;
  Pages memory_;
  std::vector<float> scale_;
  DigitRows rows_{};
  const DigitRows* current_ = nullptr;
};

}  // namespace edge
