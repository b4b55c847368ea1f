// SPDX-License-Identifier: Apache-2.0
// The library's one exported function, and the border where exceptions become a status and a sentence.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <exception>
#include <memory>
#include <new>

#include "cuda/api.h"
#include "cuda/device/memory.h"
#include "cuda/device/network.h"

namespace edge::cuda {
namespace {

void tell(EdgeCudaReason* reason, const char* text) {
  std::snprintf(reason->text, sizeof reason->text, "%s", text);
}

template <class F>
int guarded(EdgeCudaReason* reason, F work) {
  try {
    work();
    return EDGE_CUDA_OK;
  } catch (const Failure& failure) {
    tell(reason, failure.reason.c_str());
    return failure.status;
  } catch (const std::bad_alloc&) {
    tell(reason, "out of memory");
  } catch (const std::exception& error) {
    tell(reason, error.what());
  }
  return EDGE_CUDA_FAILED;
}

// The first device that CUDA_VISIBLE_DEVICES shows.
EdgeCudaDevice first_device() {
  int count = 0;
  cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaErrorInsufficientDriver)
    throw Failure{EDGE_CUDA_NO_DEVICE, "the NVIDIA driver is missing or too old for this build's CUDA"};
  if (status != cudaSuccess || count < 1)
    throw Failure{EDGE_CUDA_NO_DEVICE,
                  std::string("no CUDA device can be used here") +
                      (status == cudaSuccess ? "" : std::string(": ") + cudaGetErrorString(status))};
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, 0), "to describe itself");
  EdgeCudaDevice device{};
  std::snprintf(device.name, sizeof device.name, "%.120s", properties.name);
  device.major = properties.major;
  device.minor = properties.minor;
  std::memcpy(device.uuid, properties.uuid.bytes, sizeof device.uuid);
  device.processors = properties.multiProcessorCount;
  if (device.major < 8)
    throw Failure{EDGE_CUDA_NO_DEVICE, std::string(device.name) + " has compute capability " +
                                           std::to_string(device.major) + "." + std::to_string(device.minor) +
                                           "; this build runs on 8.0 and later"};
  check(cudaSetDevice(0), "to be opened");
  size_t free = 0, total = 0;
  check(cudaMemGetInfo(&free, &total), "to tell its memory");
  device.total_bytes = static_cast<int64_t>(total);
  device.free_bytes = static_cast<int64_t>(free);
  if (const cudaError_t code = prepare_steps(); code != cudaSuccess) {
    cudaGetLastError();
    throw Failure{EDGE_CUDA_NO_DEVICE, std::string("this build holds no code for ") + device.name + " (" +
                                           cudaGetErrorString(code) + ")"};
  }
  return device;
}

int probe(EdgeCudaDevice* device, EdgeCudaReason* reason) {
  return guarded(reason, [&] { *device = first_device(); });
}

int create(const EdgeCudaModel* model, void** decoder, EdgeCudaReason* reason) {
  *decoder = nullptr;
  return guarded(reason, [&] {
    first_device();
    *decoder = new Network(*model);
  });
}

void destroy(void* decoder) { delete static_cast<Network*>(decoder); }

int has_persistent(void* decoder) { return static_cast<Network*>(decoder)->has_persistent(); }

// A call may come from any thread of the process; the device is chosen per thread.
template <class F>
int on_device(void* decoder, EdgeCudaReason* reason, F work) {
  return guarded(reason, [&] {
    check(cudaSetDevice(0), "to be opened");
    Network& network = *static_cast<Network*>(decoder);
    try {
      work(network);
    } catch (...) {
      network.settle();
      throw;
    }
  });
}

int set_prefix(void* decoder, const float* keys, const float* values, int64_t length, const float* bias,
               int64_t bias_length, int32_t there, EdgeCudaReason* reason) {
  return on_device(decoder, reason, [&](Network& network) {
    network.set_prefix(keys, values, length, bias, bias_length, there != 0);
  });
}

int append(void* decoder, const int32_t* ids, int64_t n, int64_t text_rows, int32_t bias, int64_t from,
           float* logits, float* evidence, EdgeCudaReason* reason) {
  return on_device(decoder, reason, [&](Network& network) {
    network.append(ids, n, text_rows, bias != 0, from, logits, evidence);
  });
}

int generate(void* decoder, const EdgeCudaGreedy* greedy, int64_t text_rows, int32_t* end, float* evidence,
             EdgeCudaReason* reason) {
  return on_device(decoder, reason,
                   [&](Network& network) { *end = network.generate(*greedy, text_rows, evidence); });
}

int allocate(int64_t bytes, void** p, EdgeCudaReason* reason) {
  return guarded(reason, [&] {
    check(cudaSetDevice(0), "to be opened");
    check(cudaMalloc(p, static_cast<size_t>(bytes)), "to give memory");
  });
}

void release(void* p) { cudaFree(p); }

int copy(void* to, const void* from, int64_t bytes, int32_t to_device, EdgeCudaReason* reason) {
  return guarded(reason, [&] {
    check(cudaSetDevice(0), "to be opened");
    check(cudaMemcpy(to, from, static_cast<size_t>(bytes),
                     to_device ? cudaMemcpyHostToDevice : cudaMemcpyDeviceToHost),
          "to copy");
    // What goes up is only sure to have left the caller's memory, and no other stream waits for the rest of
    // its way.
    if (to_device) check(cudaStreamSynchronize(nullptr), "to copy");
  });
}

int open_stream(void** stream, EdgeCudaReason* reason) {
  return guarded(reason, [&] {
    check(cudaSetDevice(0), "to be opened");
    cudaStream_t opened = nullptr;
    check(cudaStreamCreateWithFlags(&opened, cudaStreamNonBlocking), "to open a stream");
    *stream = opened;
  });
}

int wait_stream(void* stream, EdgeCudaReason* reason) {
  return guarded(reason, [&] {
    check(cudaSetDevice(0), "to be opened");
    check(cudaStreamSynchronize(static_cast<cudaStream_t>(stream)), "while it worked");
  });
}

void close_stream(void* stream) { cudaStreamDestroy(static_cast<cudaStream_t>(stream)); }

int record(void* stream, int (*work)(void* user), void* user, void** graph, EdgeCudaReason* reason) {
  *graph = nullptr;
  return guarded(reason, [&] {
    check(cudaSetDevice(0), "to be opened");
    auto recorded = std::make_unique<Graph>();
    recorded->record(static_cast<cudaStream_t>(stream), [&] {
      if (!work(user)) throw Failure{EDGE_CUDA_FAILED, "what was to be recorded could not be started"};
    });
    *graph = recorded.release();
  });
}

int replay(void* graph, void* stream, EdgeCudaReason* reason) {
  return guarded(reason, [&] {
    check(cudaSetDevice(0), "to be opened");
    static_cast<Graph*>(graph)->launch(static_cast<cudaStream_t>(stream));
  });
}

void forget(void* graph) { delete static_cast<Graph*>(graph); }

int copy_bandwidth(int64_t bytes, double* gbps, EdgeCudaReason* reason) {
  return guarded(reason, [&] {
    check(cudaSetDevice(0), "to be opened");
    const Stream stream;
    const Buffer<unsigned char> from(bytes), to(bytes);
    check(cudaMemsetAsync(from.get(), 1, static_cast<size_t>(bytes), stream), "to clear memory");
    *gbps = 0.0;
    constexpr int kCopies = 8;
    for (int pass = 0; pass < 5; ++pass) {
      check(cudaStreamSynchronize(stream), "to copy");
      const auto start = std::chrono::steady_clock::now();
      for (int i = 0; i < kCopies; ++i)
        check(cudaMemcpyAsync(to.get(), from.get(), static_cast<size_t>(bytes), cudaMemcpyDeviceToDevice,
                              stream),
              "to copy");
      check(cudaStreamSynchronize(stream), "to copy");
      const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
      *gbps = std::max(*gbps, 2.0 * kCopies * static_cast<double>(bytes) / seconds.count() / 1e9);
    }
  });
}

constexpr EdgeCudaApi kApi{.abi = EDGE_CUDA_ABI,
                           .bytes = sizeof(EdgeCudaApi),
                           .probe = probe,
                           .create = create,
                           .destroy = destroy,
                           .has_persistent = has_persistent,
                           .set_prefix = set_prefix,
                           .append = append,
                           .generate = generate,
                           .allocate = allocate,
                           .release = release,
                           .copy = copy,
                           .open_stream = open_stream,
                           .wait_stream = wait_stream,
                           .close_stream = close_stream,
                           .record = record,
                           .replay = replay,
                           .forget = forget,
                           .copy_bandwidth = copy_bandwidth};

}  // namespace
}  // namespace edge::cuda

extern "C" __attribute__((visibility("default"))) const EdgeCudaApi* edge_cuda_api(uint32_t abi) {
  return abi == EDGE_CUDA_ABI ? &edge::cuda::kApi : nullptr;
}
