// SPDX-License-Identifier: Apache-2.0
// Measures how fast this machine's memory can be read: the bound for decoding, which reads every weight once
// per token.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/pages.h"
#include "cpu/thread_pool.h"

namespace edge {

// A buffer that stays, so that it can be read again between other measurements. Each thread reads its own
// contiguous share from begin to end, pass after pass. In huge pages where the system has them, as the
// decoder's cache.
class ReadMeter {
 public:
  // Throws std::invalid_argument for arguments out of range and std::bad_alloc.
  ReadMeter(int64_t bytes, int64_t threads);

  // GB/s (1e9 bytes) of every pass within about `seconds`, at least three.
  std::vector<double> passes(double seconds);

 private:
  struct alignas(64) Sum {
    uint64_t value = 0;
  };
  int64_t begin(int64_t thread) const { return lines_ * thread / pool_.team(); }

  int64_t lines_;
  ThreadPool pool_;
  std::vector<Sum> sums_;
  Pages memory_;
  uint64_t* data_;
};

}  // namespace edge
