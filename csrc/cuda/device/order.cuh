// SPDX-License-Identifier: Apache-2.0
// Memory operations that order what blocks of threads tell each other.
#pragma once

#include "cuda/device/common.h"

namespace edge::cuda {
namespace {

// Loads and stores between blocks, by one thread for its whole block: what the block's threads did before its
// barrier is released with them, and what they do after the next one is behind the acquisition.
__device__ inline unsigned load_acquire(const unsigned* p) {
#ifdef __CUDA_ARCH__
  unsigned value;
  asm volatile("ld.acquire.gpu.u32 %0, [%1];" : "=r"(value) : "l"(p) : "memory");
  return value;
#else
  return *static_cast<const volatile unsigned*>(p);
#endif
}

__device__ inline void store_release(unsigned* p, unsigned value) {
#ifdef __CUDA_ARCH__
  asm volatile("st.release.gpu.u32 [%0], %1;" ::"l"(p), "r"(value) : "memory");
#else
  *p = value;
#endif
}

__device__ inline void add_release(unsigned* p, unsigned n) {
#ifdef __CUDA_ARCH__
  asm volatile("red.release.gpu.add.u32 [%0], %1;" ::"l"(p), "r"(n) : "memory");
#else
  *p += n;
#endif
}

__device__ inline unsigned add_acquire_release(unsigned* p, unsigned n) {
#ifdef __CUDA_ARCH__
  unsigned before;
  asm volatile("atom.acq_rel.gpu.add.u32 %0, [%1], %2;" : "=r"(before) : "l"(p), "r"(n) : "memory");
  return before;
#else
  const unsigned before = *p;
  *p += n;
  return before;
#endif
}

}  // namespace
}  // namespace edge::cuda
