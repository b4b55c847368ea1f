// SPDX-License-Identifier: Apache-2.0
// How many threads an engine uses; the twin of edge/threads.py.
#pragma once

#include <cstdint>

namespace edge::capi {

inline constexpr int kMaxThreads = 512;

// Physical cores this process may run on, no more than the control group's CPU quota.
int default_threads();
// At most `threads`, and no more than the decoder's weights can keep busy; with drafts every weight works
// more.
int decode_threads(int threads, int64_t weight_bytes, bool draft);

}  // namespace edge::capi
