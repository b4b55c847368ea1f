// SPDX-License-Identifier: Apache-2.0
// Fills the kernel table with the functions built for the including file's instruction set.
#pragma once

#include "cpu/kernels.h"
#include "cpu/kernels_keys.h"
#include "cpu/kernels_peak.h"

namespace edge {
namespace {

constexpr Kernels make_table(const char* name) {
  return {.name = name,
          .quick_bytes = kQuickBytes,
          .matmul_f32 = matmul<float>,
          .matmul_i8 = matmul<int8_t>,
          .matmul_i4 = matmul<Int4>,
          .to_digits = kToDigits,
          .matmul_digits = kMatmulDigits,
          .to_digits8 = kToDigits8,
          .matmul_digits8 = kMatmulDigits8,
          .gemm_outs = kGemmOuts,
          .pack_f32 = pack_f32,
          .pack_i8 = pack_i8,
          .pack_i4 = pack_i4,
          .gemm_f32 = gemm<float, float>,
          .gemm_i16 = gemm<int16_t, int32_t>,
          .to_int16 = to_int16_row,
          .narrow_bytes = sizeof(Narrow),
          .pack_narrow_i8 = pack_narrow_i8,
          .pack_narrow_i4 = pack_narrow_i4,
          .gemm_narrow = gemm<Narrow, int32_t>,
          .to_narrow = to_narrow_row,
          .layer_norm = layer_norm_row,
          .gelu_tanh = gelu_tanh_row,
          .gelu_erf = gelu_erf_row,
          .exp = exp_row,
          .max = max_row,
          .sum_exp = sum_exp_row,
          .attend_f32 = attend<float>,
          .attend_f16 = attend<uint16_t>,
          .attend_i8 = attend<int8_t>,
          .flash = flash,
          .flash16 = flash16,
          .attend_join = attend_join_row,
          .turn_words = turn_words,
          .turn_halves = turn_parts<uint16_t>,
          .turn_bytes = turn_parts<int8_t>,
          .to_half = to_half_row,
          .to_int8 = to_int8_row,
          .add_f32 = add_row<float>,
          .add_i8 = add_row<int8_t>,
          .add_i4 = add_int4_row,
          .axpy = axpy_row,
          .multiply_only = multiply_only};
}

}  // namespace
}  // namespace edge
