// SPDX-License-Identifier: Apache-2.0
// The kernels built for generic. Everything included below lives in an anonymous namespace: no function built
// with this file's flags can be picked by the linker for another level.
#include "cpu/simd_generic.h"

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

const Kernels& kernels_generic() {
  static constexpr Kernels table = make_table("generic");
  return table;
}

}  // namespace edge
