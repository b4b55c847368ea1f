// SPDX-License-Identifier: Apache-2.0
// Test only: arrays to the device and back.
#pragma once

#include "cuda/device/memory.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

template <class T>
edge::cuda::Buffer<T> up(const T* from, int64_t n, cudaStream_t stream) {
  edge::cuda::Buffer<T> buffer(n);
  if (n > 0)
    edge::cuda::check(cudaMemcpyAsync(buffer.get(), from, static_cast<size_t>(n) * sizeof(T),
                                      cudaMemcpyHostToDevice, stream),
                      "up");
  edge::cuda::check(cudaStreamSynchronize(stream), "up");  // what is copied may be gone after this
  return buffer;
}

template <class T>
void down(T* to, const edge::cuda::Buffer<T>& from, cudaStream_t stream) {
  edge::cuda::check(cudaMemcpyAsync(to, from.get(), static_cast<size_t>(from.size()) * sizeof(T),
                                    cudaMemcpyDeviceToHost, stream),
                    "down");
  edge::cuda::check(cudaStreamSynchronize(stream), "down");
}

// 0 where the work went well.
template <class F>
int answer(F work) {
  try {
    work();
    return 0;
  } catch (const edge::cuda::Failure&) {
    return 1;
  }
}

}  // namespace
