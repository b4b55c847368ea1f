// SPDX-License-Identifier: Apache-2.0
// Measures how many integers this machine multiplies and adds per second: the bound for a quantized prefill,
// which is long enough to be limited by nothing else.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/kernels.h"
#include "cpu/thread_pool.h"

namespace edge {

class MultiplyMeter {
 public:
  // Throws std::invalid_argument for a number of threads out of range.
  MultiplyMeter(const Kernels& kernels, int64_t threads);

  // 1e9 products per second, all threads together, of every pass within about `seconds`, at least three.
  std::vector<double> passes(double seconds);

 private:
  struct alignas(64) Count {
    int64_t value = 0;
  };

  const Kernels& kernels_;
  ThreadPool pool_;
  std::vector<Count> counts_;
};

}  // namespace edge
