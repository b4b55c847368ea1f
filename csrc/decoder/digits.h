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
  // For so many rows of so many columns at most.
  Digits(const Kernels& kernels, int64_t rows, int64_t cols);

  // Takes the memory, where it is going to be needed: a thread of a team must not run out of it (ThreadPool).
  void make_room();

  // The n rows of x [n, matrix.cols] for products with this matrix, or null if it takes them as they are.
  // Valid until the next call.
  const DigitRows* round(const Matrix& matrix, const float* x, int64_t n);
  // What the last call returned.
  const DigitRows* rows() const { return current_; }
  // Of rows for a matrix of this type, those from this one on.
  static DigitRows from(const DigitRows& rows, DType matrix, int64_t first) {
    return {rows.digits + first * rows.chunks * digits_of(matrix),
            rows.start + first * starts_of(matrix, rows.chunks), rows.scale + first, rows.chunks};
  }
  // Of a chunk.
  static constexpr int64_t digits_of(DType matrix) {
    return kDigits * (matrix == DType::i4 ? kDigitChunk : kByteChunk);
  }

 private:
  // Of a row.
  static constexpr int64_t starts_of(DType matrix, int64_t chunks) {
    return kDigits * kDigitLanes * (matrix == DType::i4 ? chunks : 1);
  }

  const Kernels* kernels_;
  int64_t most_rows_, most_chunks_;
  Pages memory_;
  std::vector<float> scale_;
  DigitRows rows_{};
  const DigitRows* current_ = nullptr;
};

}  // namespace edge
