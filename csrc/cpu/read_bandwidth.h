// SPDX-License-Identifier: Apache-2.0
// How fast this machine reads memory: the bound of a decode step, measured the way a decode step reads.
#pragma once

#include <cstdint>

namespace edge {

// GB/s (1e9 bytes) of `threads` threads, each reading its contiguous share of one buffer of `bytes` from
// begin to end, pass after pass for about `seconds`; the best pass counts. Pages are the platform's default.
// Throws std::invalid_argument for arguments out of range and std::bad_alloc.
double read_bandwidth(int64_t bytes, int64_t threads, double seconds);

}  // namespace edge
