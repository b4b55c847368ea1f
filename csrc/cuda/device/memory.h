// SPDX-License-Identifier: Apache-2.0
// Host side: errors as exceptions, memory that frees itself.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <string>
#include <utility>

#include "cuda/api.h"

namespace edge::cuda {

// Thrown inside the library, turned into a status at its border.
struct Failure {
  int status;
  std::string reason;
};

inline void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // not left for whoever asks next
  throw Failure{status == cudaErrorMemoryAllocation ? EDGE_CUDA_NO_MEMORY : EDGE_CUDA_FAILED,
                std::string("the GPU failed ") + what + ": " + cudaGetErrorString(status)};
}

// n values of device memory.
template <class T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(int64_t n) {
    void* p = nullptr;
    check(cudaMalloc(&p, static_cast<size_t>(n < 1 ? 1 : n) * sizeof(T)), "to give memory");
    data_ = static_cast<T*>(p);
    size_ = n;
  }
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    swap(other);
    return *this;
  }
  ~Buffer() {
    if (data_) cudaFree(data_);
  }
  T* get() const { return data_; }
  int64_t size() const { return size_; }

 private:
  void swap(Buffer& other) {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
  }
  T* data_ = nullptr;
  int64_t size_ = 0;
};

// n values of pinned host memory, which the device reads and writes under the address `device`.
template <class T>
class Pinned {
 public:
  Pinned() = default;
  explicit Pinned(int64_t n) {
    void* p = nullptr;
    check(cudaHostAlloc(&p, static_cast<size_t>(n) * sizeof(T), cudaHostAllocMapped), "to pin host memory");
    host_ = static_cast<T*>(p);
    check(cudaHostGetDevicePointer(&p, host_, 0), "to map pinned memory");
    device_ = static_cast<T*>(p);
  }
  Pinned(const Pinned&) = delete;
  Pinned& operator=(const Pinned&) = delete;
  ~Pinned() {
    if (host_) cudaFreeHost(host_);
  }
  T* host() const { return host_; }
  T* device() const { return device_; }

 private:
  T* host_ = nullptr;
  T* device_ = nullptr;
};

class Stream {
 public:
  Stream() { check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "to open a stream"); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  ~Stream() { cudaStreamDestroy(stream_); }
  operator cudaStream_t() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

// A recorded step.
class Graph {
 public:
  Graph() = default;
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;
  ~Graph() { reset(); }
  template <class F>
  void record(cudaStream_t stream, F work) {
    reset();
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "to record a step");
    cudaGraph_t graph = nullptr;
    try {
      work();
    } catch (...) {
      cudaStreamEndCapture(stream, &graph);
      if (graph) cudaGraphDestroy(graph);
      throw;
    }
    check(cudaStreamEndCapture(stream, &graph), "to record a step");
    const cudaError_t status = cudaGraphInstantiate(&exec_, graph, 0);
    cudaGraphDestroy(graph);
    check(status, "to prepare a recorded step");
  }
  void reset() {
    if (exec_) cudaGraphExecDestroy(exec_);
    exec_ = nullptr;
  }
  bool ready() const { return exec_ != nullptr; }
  void launch(cudaStream_t stream) const { check(cudaGraphLaunch(exec_, stream), "to start a step"); }

 private:
  cudaGraphExec_t exec_ = nullptr;
};

}  // namespace edge::cuda
