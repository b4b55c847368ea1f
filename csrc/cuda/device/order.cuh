// SPDX-License-Identifier: Apache-2.0
// Memory operations that order what blocks of threads tell each other.
#pragma once

#include "cuda/device/common.h"

namespace edge::cuda {
namespace {

// Loads and stores between blocks, by one thread for its whole block: what the block's threads did before its
// barrier is released with them, and what they do after the next one is behind the acquisition. The memory is
// said to be global: an address of any space takes longer, and a sum that nobody asks for would come back.
#ifdef __CUDA_ARCH__
__device__ inline size_t global_address(const void* p) { return __cvta_generic_to_global(p); }
#endif

__device__ inline unsigned load_acquire(const unsigned* p) {
#ifdef __CUDA_ARCH__
  unsigned value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(global_address(p)) : "memory");
  return value;
#else
  return *static_cast<const volatile unsigned*>(p);
#endif
}

__device__ inline void store_release(unsigned* p, unsigned value) {
#ifdef __CUDA_ARCH__
  asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(global_address(p)), "r"(value) : "memory");
#else
  *p = value;
#endif
}

__device__ inline void add_release(unsigned* p, unsigned n) {
#ifdef __CUDA_ARCH__
  asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(global_address(p)), "r"(n) : "memory");
#else
  *p += n;
#endif
}

__device__ inline unsigned add_acquire_release(unsigned* p, unsigned n) {
#ifdef __CUDA_ARCH__
  unsigned before;
  asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], %2;"
               : "=r"(before)
               : "l"(global_address(p)), "r"(n)
               : "memory");
  return before;
#else
  const unsigned before = *p;
  *p += n;
  return before;
#endif
}

}  // namespace
}  // namespace edge::cuda
