// SPDX-License-Identifier: Apache-2.0
// Where all blocks of a cooperative grid meet. Arriving and waiting are two calls: what depends on no other
// block is done between them.
#pragma once

#include "cuda/device/common.h"
#include "cuda/device/order.cuh"
#include "cuda/device/persistent.h"

namespace edge::cuda {
namespace {

// Cycles, some ten seconds: who waits longer waits for ever, and an error is better than a process that
// hangs.
constexpr long long kPatience = 1ll << 34;

__device__ inline void be_patient(long long since) {
  if (clock64() - since > kPatience) __trap();
#ifndef __CUDA_ARCH__
  __nanosleep(0);  // the others' turn
#endif
}

class Meeting {
 public:
  // What a block reads here cannot change before it has come itself.
  __device__ explicit Meeting(Barrier* barrier)
      : barrier_(barrier), side_(load_acquire(&barrier->met)), turn_(load_acquire(&barrier->turn)) {}

  // After the last of what others wait for. The sum of all arrivals flips bit 31 and leaves the rest as it
  // was, so nobody has to be the last one and nothing is reset.
  __device__ void arrive() {
    __syncthreads();
    if (threadIdx.x == 0) add_release(&barrier_->met, blockIdx.x == 0 ? kSide - (gridDim.x - 1) : 1u);
  }

  __device__ void wait() {
    if (threadIdx.x == 0) {
      const long long since = clock64();
      while (!((load_acquire(&barrier_->met) ^ side_) & kSide)) be_patient(since);
    }
    side_ ^= kSide;
    __syncthreads();
  }

  // Arrives; the last block to come does the work, and the others go on after it, or, where nothing follows,
  // at once. Uses the beginning of the shared memory.
  template <class Work>
  __device__ void last_one_works(bool others_wait, Work work) {
    auto* last = reinterpret_cast<volatile int*>(edge_shared);
    __syncthreads();
    if (threadIdx.x == 0) *last = add_acquire_release(&barrier_->arrived, 1u) == gridDim.x - 1;
    __syncthreads();
    const bool is_last = *last != 0;
    __syncthreads();
    ++turn_;
    if (is_last) {
      work();
      __syncthreads();
      if (threadIdx.x == 0) {
        barrier_->arrived = 0;
        store_release(&barrier_->turn, turn_);
      }
    } else if (others_wait && threadIdx.x == 0) {
      const long long since = clock64();
      while (load_acquire(&barrier_->turn) != turn_) be_patient(since);
    }
    __syncthreads();
  }

 private:
  static constexpr unsigned kSide = 0x80000000u;
  Barrier* barrier_;
  unsigned side_, turn_;
};

}  // namespace
}  // namespace edge::cuda
