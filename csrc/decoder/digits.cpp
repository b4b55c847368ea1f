// SPDX-License-Identifier: Apache-2.0
#include "decoder/digits.h"

#include <cstddef>

#include "decoder/counts.h"

namespace edge {
namespace {

constexpr int64_t kDigitBytes = kDigits * kDigitChunk;  // of a chunk
constexpr int64_t kStarts = kDigits * kDigitLanes;

int64_t chunks_of(int64_t cols, int64_t chunk) { return (cols + chunk - 1) / chunk; }

}  // namespace

Digits::Digits(const Kernels& kernels, int64_t rows, int64_t cols)
    : kernels_(&kernels), most_rows_(rows), most_chunks_(rows * chunks_of(cols, kDigitChunk)) {}

void Digits::make_room() {
  if (memory_.data() || !kernels_->matmul_digits) return;
  scale_.resize(size_of(most_rows_));
  memory_ = Pages(size_of(most_chunks_ * (kDigitBytes + kStarts * static_cast<int64_t>(sizeof(int32_t)))));
}

const DigitRows* Digits::round(const Matrix& matrix, const float* x, int64_t n) {
  current_ = nullptr;
  if (matrix.dtype == DType::f32 || !kernels_->matmul_digits) return nullptr;
  make_room();
  const int64_t digit_bytes = most_chunks_ * kDigitBytes;
  auto* digits = reinterpret_cast<int8_t*>(memory_.data());
  auto* start = reinterpret_cast<int32_t*>(memory_.data() + digit_bytes);
  const bool four = matrix.dtype == DType::i4;
  const int64_t in_chunk = digits_of(matrix.dtype), chunks = chunks_of(matrix.cols, in_chunk / kDigits);
  const int64_t starts = starts_of(matrix.dtype, chunks);
  for (int64_t r = 0; r < n; ++r)
    scale_[size_of(r)] = (four ? kernels_->to_digits : kernels_->to_digits8)(
        x + r * matrix.cols, matrix.cols, digits + r * chunks * in_chunk, start + r * starts);
  rows_ = {.digits = digits, .start = start, .scale = scale_.data(), .chunks = chunks};
  return current_ = &rows_;
}

}  // namespace edge
