// SPDX-License-Identifier: Apache-2.0
// Memory and a stream of the CUDA device, through the library: for a vision graph that runs there.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>

#include "cuda/library.h"

namespace edge {

inline void check_cuda(int status, const EdgeCudaReason& reason) {
  if (status == EDGE_CUDA_NO_DEVICE || status == EDGE_CUDA_NO_MEMORY) throw DeviceUnusable(reason.text);
  if (status != EDGE_CUDA_OK) throw std::runtime_error(reason.text);
}

class DeviceBuffer {
 public:
  DeviceBuffer(const std::string& library, int64_t bytes) : library_(library), bytes_(bytes) {
    if (bytes < 1) throw std::invalid_argument("a buffer has at least one byte");
    library_.probe();
    EdgeCudaReason reason{};
    check_cuda(library_.api().allocate(bytes, &data_, &reason), reason);
  }
  ~DeviceBuffer() { library_.api().release(data_); }
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;

  uintptr_t address() const { return reinterpret_cast<uintptr_t>(data_); }
  int64_t bytes() const { return bytes_; }
  void write(const void* from) {
    EdgeCudaReason reason{};
    check_cuda(library_.api().copy(data_, from, bytes_, 1, &reason), reason);
  }
  void read(void* to) const {
    EdgeCudaReason reason{};
    check_cuda(library_.api().copy(to, data_, bytes_, 0, &reason), reason);
  }

 private:
  CudaLibrary library_;
  int64_t bytes_;
  void* data_ = nullptr;
};

class DeviceStream {
 public:
  explicit DeviceStream(const std::string& library) : library_(library) {
    library_.probe();
    EdgeCudaReason reason{};
    check_cuda(library_.api().open_stream(&stream_, &reason), reason);
  }
  ~DeviceStream() { library_.api().close_stream(stream_); }
  DeviceStream(const DeviceStream&) = delete;
  DeviceStream& operator=(const DeviceStream&) = delete;

  uintptr_t handle() const { return reinterpret_cast<uintptr_t>(stream_); }
  void* get() const { return stream_; }
  const EdgeCudaApi& api() const { return library_.api(); }
  void wait() {
    EdgeCudaReason reason{};
    check_cuda(library_.api().wait_stream(stream_, &reason), reason);
  }

 private:
  CudaLibrary library_;
  void* stream_ = nullptr;
};

// Work on a stream, recorded once.
class DeviceGraph {
 public:
  // `work` starts it from this thread, and returns false where it could not.
  DeviceGraph(std::shared_ptr<DeviceStream> stream, const std::function<bool()>& work)
      : stream_(std::move(stream)) {
    EdgeCudaReason reason{};
    const auto call = [](void* user) -> int { return (*static_cast<const std::function<bool()>*>(user))(); };
    check_cuda(stream_->api().record(stream_->get(), call, const_cast<std::function<bool()>*>(&work), &graph_,
                                     &reason),
               reason);
  }
  ~DeviceGraph() { stream_->api().forget(graph_); }
  DeviceGraph(const DeviceGraph&) = delete;
  DeviceGraph& operator=(const DeviceGraph&) = delete;

  void replay() {
    EdgeCudaReason reason{};
    check_cuda(stream_->api().replay(graph_, stream_->get(), &reason), reason);
  }

 private:
  std::shared_ptr<DeviceStream> stream_;
  void* graph_ = nullptr;
};

}  // namespace edge
