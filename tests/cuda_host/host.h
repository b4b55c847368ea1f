// SPDX-License-Identifier: Apache-2.0
// Test only: what the two halves of the stand-in share, the runtime and the threads of a block.
#pragma once

namespace host {

extern int order;  // of threads and blocks; 0: upwards, 1: downwards, 2: shuffled

[[noreturn]] void fail(const char* what);

}  // namespace host
