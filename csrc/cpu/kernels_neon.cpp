// SPDX-License-Identifier: Apache-2.0
// The level that every 64-bit Arm processor has.
//
// The kernels built for neon. Everything included below lives in an anonymous namespace: no function built
// with this file's flags can be picked by the linker for another level.
#include "cpu/simd_neon.h"

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

const Kernels& kernels_neon() {
  static constexpr Kernels table = make_table("neon");
  return table;
}

}  // namespace edge
