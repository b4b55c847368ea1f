// SPDX-License-Identifier: Apache-2.0
// Test only: the host's stand-in for the CUDA runtime. Work is done as late as a device may do it: when
// somebody waits for its stream, or piece by piece when somebody asks whether it is done.
#include <cuda_runtime.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include <deque>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "host.h"

using Work = std::function<void()>;

struct HostStream {
  std::deque<Work> queue;
  HostGraph* capturing = nullptr;
};
struct HostGraph {
  std::vector<Work> nodes;
};
struct HostGraphExec {
  std::vector<Work> nodes;
};

namespace {

std::recursive_mutex one_at_a_time;
std::map<void*, size_t> allocations;
std::map<void*, size_t> on_device, pinned;  // those of cudaMalloc and of cudaHostAlloc
std::set<HostStream*> streams;
HostStream legacy;  // the stream of cudaMemcpy, which does not wait for the others, as they are opened here
thread_local HostStream* recording = nullptr;
std::set<const void*> loaded;        // kernels
std::map<const void*, int> allowed;  // shared memory, where it is more than any kernel may have
int64_t used = 0, memory = int64_t{4} << 30, devices = 1, capability = 90, fail_launch = -1, fail_wait = 0;
int64_t uuid = 7, processors = 3, any_pointer = 0, cooperates = 1, taken = 0;
int64_t launches = 0, replays = 0, records = 0, cooperative = 0;

size_t page() { return static_cast<size_t>(sysconf(_SC_PAGESIZE)); }

// The end of an allocation lies at a page that cannot be touched; fresh memory holds NaN.
void* guarded(size_t bytes) {
  const size_t body = (bytes + page() - 1) / page() * page();
  char* base = static_cast<char*>(
      mmap(nullptr, body + page(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  if (base == MAP_FAILED) host::fail("out of memory");
  mprotect(base + body, page(), PROT_NONE);
  char* p = base + body - (bytes + 15) / 16 * 16;
  memset(p, 0xff, (bytes + 15) / 16 * 16);
  allocations[p] = bytes;
  return p;
}

void release(void* p) {
  const auto found = allocations.find(p);
  if (found == allocations.end()) host::fail("memory freed that was not allocated");
  const size_t body = (found->second + page() - 1) / page() * page();
  char* base = static_cast<char*>(p) + (found->second + 15) / 16 * 16 - body;
  munmap(base, body + page());
  allocations.erase(found);
}

bool holds(const std::map<void*, size_t>& known, const void* p) {
  auto* at = static_cast<char*>(const_cast<void*>(p));
  auto found = known.upper_bound(at);
  return found != known.begin() && at < static_cast<char*>((--found)->first) + found->second;
}

HostStream& of(cudaStream_t stream) { return stream ? *stream : legacy; }

void finish(HostStream& stream) {
  while (!stream.queue.empty()) {
    const Work work = std::move(stream.queue.front());
    stream.queue.pop_front();
    work();
  }
}

void finish_all() {
  finish(legacy);
  for (HostStream* stream : streams) finish(*stream);
}

// What must not be called between the two ends of a recording.
bool breaks_a_recording() { return recording != nullptr; }

cudaError_t submit(cudaStream_t stream, Work work) {
  const std::lock_guard lock(one_at_a_time);
  if (of(stream).capturing)
    stream->capturing->nodes.push_back(std::move(work));
  else
    of(stream).queue.push_back(std::move(work));
  return cudaSuccess;
}

// Rows of memory are read when it is the copy's turn, also those that are not pinned, as by a device that
// reaches all memory; what goes to pageable memory is there at the end of the call.
cudaError_t copy_rows(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width,
                      size_t height, cudaMemcpyKind kind, cudaStream_t stream) {
  const std::lock_guard lock(one_at_a_time);
  const bool up = kind == cudaMemcpyHostToDevice, down = kind == cudaMemcpyDeviceToHost;
  if (of(stream).capturing && ((up && !holds(pinned, from)) || (down && !holds(pinned, to))))
    return cudaErrorStreamCaptureUnsupported;
  if (width * height > 0 && !any_pointer &&
      ((up && !holds(on_device, to)) || (down && !holds(on_device, from))))
    return cudaErrorInvalidValue;
  submit(stream, [=] {
    for (size_t i = 0; i < height; ++i)
      memcpy(static_cast<char*>(to) + i * to_pitch, static_cast<const char*>(from) + i * from_pitch, width);
  });
  if (down && !holds(pinned, to)) finish(of(stream));
  return cudaSuccess;
}

cudaError_t waited() {
  return fail_wait ? cudaErrorLaunchFailure : cudaSuccess;  // as all calls after one whose kernel failed
}

}  // namespace

// What a test may set ("devices", "capability", "memory", "order", "fail_launch") and read.
extern "C" __attribute__((visibility("default"))) void cuda_host_set(const char* name, int64_t value) {
  const std::string what = name;
  if (what == "devices") devices = value;
  if (what == "capability") capability = value;
  if (what == "uuid") uuid = value;
  if (what == "processors") processors = value;
  if (what == "cooperates") cooperates = value;
  if (what == "taken") taken = value;              // multiprocessors that other processes have
  if (what == "any_pointer") any_pointer = value;  // host memory passes for the device's
  if (what == "memory") memory = value;
  if (what == "order") host::order = static_cast<int>(value);
  if (what == "fail_launch") fail_launch = value;
  if (what == "fail_wait") fail_wait = value;
}

// Work of somebody else on a stream, as a library with kernels of its own would start it.
extern "C" __attribute__((visibility("default"))) void cuda_host_enqueue(void* stream, void (*work)()) {
  submit(static_cast<cudaStream_t>(stream), work);
}

extern "C" __attribute__((visibility("default"))) int64_t cuda_host_get(const char* name) {
  const std::string what = name;
  if (what == "allocations") return static_cast<int64_t>(allocations.size());
  if (what == "launches") return launches;
  if (what == "replays") return replays;
  if (what == "records") return records;
  if (what == "recording") return recording != nullptr;
  if (what == "cooperative") return cooperative;
  return -1;
}

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorNoDevice:
      return "no CUDA-capable device is detected";
    case cudaErrorInsufficientDriver:
      return "CUDA driver version is insufficient for CUDA runtime version";
    case cudaErrorStreamCaptureUnsupported:
      return "operation not permitted when stream is capturing";
    case cudaErrorCooperativeLaunchTooLarge:
      return "too many blocks in cooperative launch";
    default:
      return "error of the stand-in";
  }
}
cudaError_t cudaGetLastError() { return cudaSuccess; }
cudaError_t cudaGetDeviceCount(int* count) {
  *count = static_cast<int>(devices);
  return devices > 0 ? cudaSuccess : cudaErrorNoDevice;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int) {
  snprintf(p->name, sizeof p->name, "host stand-in");
  p->major = static_cast<int>(capability / 10);
  p->minor = static_cast<int>(capability % 10);
  p->totalGlobalMem = static_cast<size_t>(memory);
  memset(p->uuid.bytes, static_cast<int>(uuid), sizeof p->uuid.bytes);
  p->multiProcessorCount = static_cast<int>(processors);
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int) { return cudaSuccess; }
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = static_cast<int>(attribute == cudaDevAttrCooperativeLaunch ? cooperates
                            : attribute == cudaDevAttrL2CacheSize     ? 8192 * processors
                            : attribute == cudaDevAttrClockRate       ? 1000000
                                                                      : processors);
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  *free = static_cast<size_t>(memory > used ? memory - used : 0);
  *total = static_cast<size_t>(memory);
  return cudaSuccess;
}
cudaError_t cudaMalloc(void** p, size_t bytes) {
  const std::lock_guard lock(one_at_a_time);
  if (breaks_a_recording()) return cudaErrorStreamCaptureUnsupported;
  if (used + static_cast<int64_t>(bytes) > memory) return cudaErrorMemoryAllocation;
  used += static_cast<int64_t>(bytes);
  *p = guarded(bytes);
  on_device[*p] = bytes;
  return cudaSuccess;
}
cudaError_t cudaFree(void* p) {
  if (!p) return cudaSuccess;
  const std::lock_guard lock(one_at_a_time);
  if (breaks_a_recording()) return cudaErrorStreamCaptureUnsupported;
  finish_all();
  used -= static_cast<int64_t>(allocations[p]);
  on_device.erase(p);
  release(p);
  return cudaSuccess;
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* p) {
  const std::lock_guard lock(one_at_a_time);
  const bool inside = any_pointer || holds(on_device, p);
  *attributes = {inside ? cudaMemoryTypeDevice : cudaMemoryTypeUnregistered, inside ? 0 : -2};
  return cudaSuccess;
}
cudaError_t cudaHostAlloc(void** p, size_t bytes, unsigned) {
  const std::lock_guard lock(one_at_a_time);
  *p = guarded(bytes);
  pinned[*p] = bytes;
  return cudaSuccess;
}
cudaError_t cudaHostGetDevicePointer(void** device, void* p, unsigned) {
  *device = p;
  return cudaSuccess;
}
cudaError_t cudaFreeHost(void* p) {
  if (!p) return cudaSuccess;
  const std::lock_guard lock(one_at_a_time);
  finish_all();
  pinned.erase(p);
  release(p);
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  const std::lock_guard lock(one_at_a_time);
  *stream = new HostStream;
  streams.insert(*stream);
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  const std::lock_guard lock(one_at_a_time);
  finish(*stream);
  streams.erase(stream);
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  const std::lock_guard lock(one_at_a_time);
  if (of(stream).capturing) return cudaErrorStreamCaptureUnsupported;
  finish(of(stream));
  return waited();
}
cudaError_t cudaStreamQuery(cudaStream_t stream) {
  const std::lock_guard lock(one_at_a_time);
  if (of(stream).capturing) return cudaErrorStreamCaptureUnsupported;
  std::deque<Work>& queue = of(stream).queue;
  if (queue.empty()) return waited();
  const Work work = std::move(queue.front());
  queue.pop_front();
  work();
  return cudaErrorNotReady;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  return copy_rows(to, bytes, from, bytes, bytes, 1, kind, stream);
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  if (breaks_a_recording()) return cudaErrorStreamCaptureUnsupported;
  return copy_rows(to, bytes, from, bytes, bytes, 1, kind, nullptr);
}
cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width,
                              size_t height, cudaMemcpyKind kind, cudaStream_t stream) {
  return copy_rows(to, to_pitch, from, from_pitch, width, height, kind, stream);
}
cudaError_t cudaMemsetAsync(void* p, int value, size_t bytes, cudaStream_t stream) {
  return submit(stream, [=] { memset(p, value, bytes); });
}
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (!stream || recording) return cudaErrorStreamCaptureUnsupported;
  stream->capturing = new HostGraph;
  recording = stream;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  *graph = stream->capturing;
  stream->capturing = nullptr;
  recording = nullptr;
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  ++records;
  *exec = new HostGraphExec{graph->nodes};
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  // Replays that are still to come hold the nodes themselves.
  delete exec;
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  const std::lock_guard lock(one_at_a_time);
  ++replays;
  for (const Work& node : exec->nodes) submit(stream, node);
  return cudaSuccess;
}
void host_load(const void* kernel) {
  const std::lock_guard lock(one_at_a_time);
  loaded.insert(kernel);
}
void host_allow(const void* kernel, int shared) {
  const std::lock_guard lock(one_at_a_time);
  allowed[kernel] = shared;
}
cudaError_t host_launch(const cudaLaunchConfig_t& config, const void* kernel, Work work) {
  const std::lock_guard lock(one_at_a_time);
  if (fail_launch >= 0 && fail_launch-- == 0) return cudaErrorLaunchFailure;
  if (recording && !loaded.contains(kernel)) return cudaErrorStreamCaptureUnsupported;
  host_load(kernel);
  const auto most = allowed.find(kernel);
  if (config.dynamicSmemBytes > static_cast<size_t>(most == allowed.end() ? 48 << 10 : most->second))
    return cudaErrorInvalidValue;
  const bool together = config.numAttrs == 1 && config.attrs->id == cudaLaunchAttributeCooperative &&
                        config.attrs->val.cooperative;
  const dim3 grid = config.gridDim, block = config.blockDim;
  if (together && !cooperates) return cudaErrorNotSupported;
  // More blocks than can run at once.
  if (together && grid.x > static_cast<unsigned>(processors - taken))
    return cudaErrorCooperativeLaunchTooLarge;
  if (grid.x < 1 || grid.x > 0x7fffffffu || grid.y < 1 || grid.y > 65535 || grid.z != 1 || block.x < 1 ||
      block.x > 1024)
    return cudaErrorInvalidValue;
  return submit(config.stream,
                [grid, block, shared = config.dynamicSmemBytes, together, work = std::move(work)] {
                  ++launches;
                  cooperative += together;
                  host::run(grid, block, shared, together, work);
                });
}
