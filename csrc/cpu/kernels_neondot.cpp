// SPDX-License-Identifier: Apache-2.0
// The level of Arm processors that multiply bytes (FEAT_DotProd: most since Cortex-A75 and A55).
//
// The kernels built for neondot. Everything included below lives in an anonymous namespace: no function built
// with this file's flags can be picked by the linker for another level.
#include "cpu/simd_neon.h"

#include "cpu/kernels_rows.h"

#include "cpu/kernels_matmul.h"

#include "cpu/kernels_digits_neon.h"

#include "cpu/kernels_flash.h"

#include "cpu/kernels_flash16.h"

#include "cpu/kernels_gemm.h"

#include "cpu/kernels_attention.h"

#include "cpu/kernels_table.h"

namespace edge {

const Kernels& kernels_neondot() {
  static constexpr Kernels table = make_table("neondot");
  return table;
}

}  // namespace edge
