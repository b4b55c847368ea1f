// SPDX-License-Identifier: Apache-2.0
// The level of processors with VNNI and BF16. Activations stay in full precision, and at one row the weights'
// bytes are the cost, so its kernels are so far those of avx512; it is a level of its own because chunks of
// many rows are bound by arithmetic, and there these instructions can pay.
//
// The kernels built for avx512vnni. Everything included below lives in an anonymous namespace: no function
// built with this file's flags can be picked by the linker for another level.
#include "cpu/simd_avx512.h"

#include "cpu/kernels_rows.h"

#include "cpu/kernels_matmul.h"

#include "cpu/kernels_flash.h"

#include "cpu/kernels_gemm.h"

#include "cpu/kernels_attention.h"

#include "cpu/kernels_table.h"

namespace edge {

const Kernels& kernels_avx512vnni() {
  static constexpr Kernels table = make_table("avx512vnni");
  return table;
}

}  // namespace edge
