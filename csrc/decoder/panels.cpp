// SPDX-License-Identifier: Apache-2.0
#include "decoder/panels.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "decoder/counts.h"

namespace edge {
namespace {

constexpr int64_t kSums = std::numeric_limits<int32_t>::max();
constexpr int64_t kSmallWeight = 127, kMostLevels = std::numeric_limits<int16_t>::max();
constexpr int64_t kLine = 64;

}  // namespace

PanelScratch::PanelScratch(int64_t rows, int64_t cols, const Kernels& kernels)
    : small(static_cast<size_t>(rows * whole(cols, 4))),
      scale(static_cast<size_t>(rows)),
      zero(scale.size()),
      sum(scale.size()),
      sums(static_cast<size_t>(rows * kernels.gemm_outs)) {}

Panels::Panels(const Matrix& matrix, const Kernels& kernels) : matrix_(&matrix), kernels_(&kernels) {
  if (matrix.dtype != DType::f32)
    form_ = matrix.narrow && matrix.cols <= kMostNarrowCols ? Form::narrow : Form::wide;
  const int64_t size = form_ == Form::floats ? 4 : form_ == Form::wide ? 2 : kernels.narrow_bytes;
  cols_ = form_ == Form::floats ? matrix.cols : whole(matrix.cols, 4 / size);
  count_ = whole(matrix.rows, kernels.gemm_outs) / kernels.gemm_outs;
  panel_bytes_ = whole(cols_ * kernels.gemm_outs * size, kLine);
  // The largest sum of products stays inside 32 bits. int4 weights become integers of as many levels as the
  // activations have.
  const int64_t product = kSums / matrix.cols;
  const auto root = static_cast<int64_t>(std::sqrt(static_cast<double>(product)));
  const bool small = matrix.dtype == DType::i8 || form_ == Form::narrow;
  const int64_t w = small ? kSmallWeight : std::min(root, kMostLevels);
  w_levels_ = static_cast<float>(w);
  x_levels_ = static_cast<float>(std::min(product / w, kMostLevels));
}

int64_t Panels::end_bytes() const { return kernels_ ? whole(3 * kernels_->gemm_outs * 4, kLine) : 0; }

void Panels::pack(int64_t begin, int64_t end) const {
  if (begin >= end) return;
  const Matrix& m = *matrix_;
  const int64_t outs = kernels_->gemm_outs;
  const bool narrow = form_ == Form::narrow;
  const auto pack = m.dtype == DType::f32  ? kernels_->pack_f32
                    : m.dtype == DType::i8 ? (narrow ? kernels_->pack_narrow_i8 : kernels_->pack_i8)
                                           : (narrow ? kernels_->pack_narrow_i4 : kernels_->pack_i4);
  for (int64_t i = begin; i < end; ++i) {
    const int64_t first = i * outs;
    std::byte* panel = memory_ + i * (panel_bytes_ + end_bytes());
    auto* ends = reinterpret_cast<float*>(panel + panel_bytes_);
    pack({.w = m.row(first),
          .scale = m.scale ? m.scale + first : nullptr,
          .group_scale = m.group_scale ? m.group_scale + first * (m.cols / kGroup4) : nullptr,
          .bias = m.bias ? m.bias + first : nullptr,
          .panel = panel,
          .panel_scale = ends,
          .panel_bias = ends + outs,
          .panel_sum = reinterpret_cast<int32_t*>(ends + 2 * outs),
          .cols = m.cols,
          .panel_cols = cols_,
          .outs = std::min(outs, m.rows - first),
          .levels = w_levels_});
  }
}

// The activations as the product takes them, to own.
void Panels::round(const float* x, int64_t x_stride, int64_t n, PanelScratch& own) const {
  for (int64_t r = 0; r < n; ++r) {
    const float* row = x + r * x_stride;
    const auto i = static_cast<size_t>(r);
    if (form_ == Form::wide) {
      own.scale[i] = kernels_->to_int16(row, own.small.data() + r * cols_, matrix_->cols, cols_, x_levels_);
      continue;
    }
    auto* to = reinterpret_cast<std::byte*>(own.small.data()) + r * cols_ * kernels_->narrow_bytes;
    const NarrowRow narrow = kernels_->to_narrow(row, to, matrix_->cols, cols_);
    own.scale[i] = narrow.scale, own.zero[i] = narrow.zero, own.sum[i] = narrow.sum;
  }
}

void Panels::multiply(const float* x, int64_t x_stride, int64_t n, float* y, int64_t y_stride,
                      bool accumulate, PanelScratch& own, int64_t from) const {
  const int64_t outs = kernels_->gemm_outs;
  if (form_ != Form::floats) round(x, x_stride, n, own);
  const auto gemm = form_ == Form::floats ? kernels_->gemm_f32
                    : form_ == Form::wide ? kernels_->gemm_i16
                                          : kernels_->gemm_narrow;
  for (int64_t i = from / outs; i < count_; ++i) {
    const std::byte* panel = memory_ + i * (panel_bytes_ + end_bytes());
    const auto* ends = reinterpret_cast<const float*>(panel + panel_bytes_);
    gemm({.x = form_ == Form::floats ? x : static_cast<const void*>(own.small.data()),
          .x_scale = own.scale.data(),
          .x_zero = own.zero.data(),
          .x_sum = own.sum.data(),
          .w_sum = reinterpret_cast<const int32_t*>(ends + 2 * outs),
          .panel = panel,
          .scale = ends,
          .bias = ends + outs,
          .y = y + i * outs,
          .sums = own.sums.data(),
          .cols = cols_,
          .rows = n,
          .outs = std::min(outs, matrix_->rows - i * outs),
          .x_stride = form_ == Form::floats ? x_stride : cols_,
          .y_stride = y_stride,
          .accumulate = accumulate});
  }
}

}  // namespace edge
