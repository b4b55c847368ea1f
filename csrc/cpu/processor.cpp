// SPDX-License-Identifier: Apache-2.0
#include "cpu/processor.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace edge {

X86Features x86_features() {
  X86Features found;
#if defined(__x86_64__)
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return found;
  const bool osxsave = c & (1u << 27), avx = c & (1u << 28), fma = c & (1u << 12), f16c = c & (1u << 29);
  if (!osxsave || !avx) return found;
  // The operating system must save the wide registers too: XCR0 says which.
  unsigned xcr0 = 0, high = 0;
  __asm__ volatile("xgetbv" : "=a"(xcr0), "=d"(high) : "c"(0));
  const bool os_ymm = (xcr0 & 0x6) == 0x6, os_zmm = (xcr0 & 0xe6) == 0xe6;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return found;
  const bool avx2 = b & (1u << 5);
  const bool f = b & (1u << 16), dq = b & (1u << 17), bw = b & (1u << 30), vl = b & (1u << 31);
  const bool vnni = c & (1u << 11), vbmi = c & (1u << 1);
  const unsigned max_subleaf = a;
  unsigned a1 = 0, b1 = 0, c1 = 0, d1 = 0;
  const bool bf16 = max_subleaf >= 1 && __get_cpuid_count(7, 1, &a1, &b1, &c1, &d1) && (a1 & (1u << 5));
  found.avx2 = os_ymm && avx2 && fma && f16c;
  found.avx512 = found.avx2 && os_zmm && f && dq && bw && vl;
  found.vnni = found.avx512 && vnni && bf16 && vbmi;
#endif
  return found;
}

}  // namespace edge
