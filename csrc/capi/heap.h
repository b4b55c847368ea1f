// SPDX-License-Identifier: Apache-2.0
// Memory that is free, and that the C library keeps for itself.
#pragma once

#include <cstddef>

namespace edge::capi {

// Bytes of a graph from which on what a runtime leaves free behind a film is worth the milliseconds that
// handing it back takes.
inline constexpr size_t kLarge = size_t{64} << 20;

// Hands the allocator's free memory back to the system (glibc; elsewhere nothing happens).
void trim_heap();

}  // namespace edge::capi
