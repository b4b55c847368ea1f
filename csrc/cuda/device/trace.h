// SPDX-License-Identifier: Apache-2.0
// Where the time of the persistent kernel goes, for whoever tunes it: with EDGE_CUDA_TRACE in the
// environment, each text that it writes ends with a table on standard error.
#pragma once

#include <cstdint>

#include "cuda/device/memory.h"
#include "cuda/device/persistent.h"

namespace edge::cuda {

class Trace {
 public:
  // Nothing without EDGE_CUDA_TRACE. `passes`: of a launch at most.
  Trace(int64_t layers, int passes);
  Word* device() const { return noted_.get(); }
  // What an earlier text has left is void.
  void begin(cudaStream_t stream);
  // After the stream has been waited for. Later launches overwrite earlier ones: it shows the last few
  // tokens.
  void print(cudaStream_t stream) const;

 private:
  int layers_, passes_;
  Buffer<Word> noted_;
};

}  // namespace edge::cuda
