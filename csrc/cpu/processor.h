// SPDX-License-Identifier: Apache-2.0
// What this x86-64 processor can do, whichever kernels were built; nothing on others.
#pragma once

namespace edge {

struct X86Features {
  bool avx2 = false;    // with FMA and F16C
  bool avx512 = false;  // F, BW, VL and DQ
  bool vnni = false;    // AVX-512 with VNNI, BF16 and VBMI
};

// What the operating system saves the registers for, too.
X86Features x86_features();

}  // namespace edge
