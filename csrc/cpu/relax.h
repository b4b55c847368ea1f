// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace edge {

// Tells the processor that this thread only waits: its twin on the same core gets the units meanwhile.
inline void relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

}  // namespace edge
