// SPDX-License-Identifier: Apache-2.0
// The level of processors with VNNI, BF16 and VBMI: products with int4 and int8 weights are products of
// bytes, in full precision where a step or a few are decoded (kernels_digits.h), and so are those of a
// prefill that may have 8-bit activations (kernels_gemm.h). The rest is that of avx512.
//
// The kernels built for avx512vnni. Everything included below lives in an anonymous namespace: no function
// built with this file's flags can be picked by the linker for another level.
#include "cpu/simd_avx512.h"

#include "cpu/kernels_rows.h"

#include "cpu/kernels_matmul.h"

#include "cpu/kernels_digits.h"

#include "cpu/kernels_digits8.h"

#include "cpu/kernels_flash.h"

#include "cpu/kernels_flash16.h"

#include "cpu/kernels_gemm.h"

#include "cpu/kernels_attention.h"

#include "cpu/kernels_table.h"

namespace edge {

const Kernels& kernels_avx512vnni() {
  static constexpr Kernels table = make_table("avx512vnni");
  return table;
}

}  // namespace edge
