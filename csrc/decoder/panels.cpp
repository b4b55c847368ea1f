// SPDX-License-Identifier: Apache-2.0
#include "decoder/panels.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace edge {
namespace {

constexpr int64_t kSums = std::numeric_limits<int32_t>::max();
constexpr int64_t kSmallWeight = 127, kMostLevels = std::numeric_limits<int16_t>::max();
constexpr int64_t kLine = 64;

int64_t whole(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

}  // namespace

PanelScratch::PanelScratch(int64_t rows, int64_t cols, const Kernels& kernels)
    : small(static_cast<size_t>(rows * whole(cols, 2))),
      scale(static_cast<size_t>(rows)),
      sums(static_cast<size_t>(rows * kernels.gemm_outs)) {}

Panels::Panels(const Matrix& matrix, const Kernels& kernels)
    : matrix_(&matrix), kernels_(&kernels), integers_(matrix.dtype != DType::f32) {
  cols_ = integers_ ? whole(matrix.cols, 2) : matrix.cols;
  count_ = whole(matrix.rows, kernels.gemm_outs) / kernels.gemm_outs;
  panel_bytes_ = whole(cols_ * kernels.gemm_outs * (integers_ ? 2 : 4), kLine);
  // The largest sum of products stays inside 32 bits. int4 weights become integers of as many levels as the
  // activations have.
  const int64_t product = kSums / matrix.cols;
  const auto root = static_cast<int64_t>(std::sqrt(static_cast<double>(product)));
  const int64_t w = matrix.dtype == DType::i8 ? kSmallWeight : std::min(root, kMostLevels);
  w_levels_ = static_cast<float>(w);
  x_levels_ = static_cast<float>(std::min(product / w, kMostLevels));
}

int64_t Panels::ends() const { return count_ ? count_ * 2 * kernels_->gemm_outs : 0; }

void Panels::pack(int64_t begin, int64_t end) const {
  if (begin >= end) return;
  const Matrix& m = *matrix_;
  const int64_t outs = kernels_->gemm_outs;
  for (int64_t i = begin; i < end; ++i) {
    const int64_t first = i * outs;
    const PackArgs args{.w = m.row(first),
                        .scale = m.scale ? m.scale + first : nullptr,
                        .group_scale = m.group_scale ? m.group_scale + first * (m.cols / kGroup4) : nullptr,
                        .bias = m.bias ? m.bias + first : nullptr,
                        .panel = memory_ + i * panel_bytes_,
                        .panel_scale = ends_ + i * 2 * outs,
                        .panel_bias = ends_ + i * 2 * outs + outs,
                        .cols = m.cols,
                        .panel_cols = cols_,
                        .outs = std::min(outs, m.rows - first),
                        .levels = w_levels_};
    (m.dtype == DType::f32  ? kernels_->pack_f32
     : m.dtype == DType::i8 ? kernels_->pack_i8
                            : kernels_->pack_i4)(args);
  }
}

void Panels::multiply(const float* x, int64_t n, float* y, int64_t y_stride, bool accumulate,
                      PanelScratch& own, int64_t from) const {
  const int64_t cols = matrix_->cols, outs = kernels_->gemm_outs;
  for (int64_t r = 0; integers_ && r < n; ++r)
    own.scale[static_cast<size_t>(r)] =
        kernels_->to_int16(x + r * cols, own.small.data() + r * cols_, cols, cols_, x_levels_);
  for (int64_t i = from / outs; i < count_; ++i)
    (integers_ ? kernels_->gemm_i16
               : kernels_->gemm_f32)({.x = integers_ ? static_cast<const void*>(own.small.data()) : x,
                                      .x_scale = own.scale.data(),
                                      .panel = memory_ + i * panel_bytes_,
                                      .scale = ends_ + i * 2 * outs,
                                      .bias = ends_ + i * 2 * outs + outs,
                                      .y = y + i * outs,
                                      .sums = own.sums.data(),
                                      .cols = cols_,
                                      .rows = n,
                                      .outs = std::min(outs, matrix_->rows - i * outs),
                                      .x_stride = cols_,
                                      .y_stride = y_stride,
                                      .accumulate = accumulate});
}

}  // namespace edge
