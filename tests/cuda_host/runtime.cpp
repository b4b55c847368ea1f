// SPDX-License-Identifier: Apache-2.0
// Test only: the host's stand-in for the CUDA runtime and for the threads of a block.
#include <cuda_runtime.h>
#include <setjmp.h>
#include <stdio.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

// ---- threads of a block as fibers

uint3 threadIdx, blockIdx;
dim3 gridDim, blockDim;

namespace host {
namespace {

constexpr size_t kStack = 96 << 10;
constexpr size_t kShared = 99 << 10;

[[noreturn]] void fail(const char* what) {
  fprintf(stderr, "cuda_host: %s\n", what);
  abort();
}

enum class Wait { none, pause, barrier, shuffle, over };

struct Fiber {
  jmp_buf at;
  ucontext_t begin;
  std::unique_ptr<char[]> stack{new char[kStack]};
  bool started = false;
  Wait wait = Wait::none;
  unsigned lanes = 0, generation = 0;
};

struct WarpSlots {
  uint64_t value[2][32];
  unsigned arrived[2] = {};
};

std::vector<std::unique_ptr<Fiber>> fibers;
std::vector<WarpSlots> warps;
const std::function<void()>* body = nullptr;
jmp_buf scheduler;
unsigned current = 0;

// Of the blocks that run at once: their shared memory while another one has the turn.
struct Block {
  uint3 index;
  unsigned live, waiting;
  std::vector<unsigned char> shared;
};
std::vector<Block> blocks;
unsigned width = 0;  // threads of a block; fiber = block * width + thread
int order = 0;       // 0: threads and blocks upwards, 1: downwards, 2: shuffled
uint64_t random_state = 1;

unsigned random_below(unsigned n) {
  random_state = random_state * 6364136223846793005u + 1442695040888963407u;
  return static_cast<unsigned>((random_state >> 33) % n);
}

std::vector<unsigned> sequence(unsigned n) {
  std::vector<unsigned> s(n);
  for (unsigned i = 0; i < n; ++i) s[i] = order == 1 ? n - 1 - i : i;
  if (order == 2)
    for (unsigned i = n; i > 1; --i) std::swap(s[i - 1], s[random_below(i)]);
  return s;
}

void yield() {
  if (_setjmp(fibers[current]->at) == 0) _longjmp(scheduler, 1);
}

void fiber_main() {
  for (;;) {
    (*body)();
    fibers[current]->wait = Wait::over;
    --blocks[current / width].live;
    yield();
  }
}

void resume(unsigned i) {
  current = i;
  threadIdx = {i % width, 0, 0};
  blockIdx = blocks[i / width].index;
  Fiber& fiber = *fibers[i];
  if (fiber.started) _longjmp(fiber.at, 1);
  fiber.started = true;
  getcontext(&fiber.begin);
  fiber.begin.uc_stack.ss_sp = fiber.stack.get();
  fiber.begin.uc_stack.ss_size = kStack;
  fiber.begin.uc_link = nullptr;
  makecontext(&fiber.begin, fiber_main, 0);
  setcontext(&fiber.begin);
}

// One turn of a block: whether anything in it got further than asking again.
bool turn(unsigned block, const std::vector<unsigned>& order_of) {
  // Values that survive the jump back into the scheduler live in memory.
  static unsigned at, i, first;
  static bool ahead, progress;
  static const std::vector<unsigned>* turns;
  turns = &order_of;
  first = block * width;
  progress = false;
  do {
    ahead = false;
    for (at = 0; at < width; ++at) {
      i = first + (*turns)[at];
      Fiber& fiber = *fibers[i];
      if (fiber.wait != Wait::none && fiber.wait != Wait::pause) continue;
      const bool asked = fiber.wait == Wait::pause;
      fiber.wait = Wait::none;
      if (_setjmp(scheduler) == 0) resume(i);
      if (fibers[i]->wait != Wait::pause || !asked) ahead = true;
    }
    Block& own = blocks[first / width];
    if (own.live > 0 && own.waiting == own.live) {
      own.waiting = 0;
      for (unsigned t = first; t < first + width; ++t)
        if (fibers[t]->wait == Wait::barrier) fibers[t]->wait = Wait::none;
      ahead = true;
    }
    progress |= ahead;
  } while (ahead);
  return progress;
}

}  // namespace
}  // namespace host

namespace edge::cuda {
alignas(16) unsigned char edge_shared[host::kShared + 4096];
}

namespace host {

void pause() {
  fibers[current]->wait = Wait::pause;
  yield();
}

void barrier() {
  ++blocks[current / width].waiting;
  fibers[current]->wait = Wait::barrier;
  yield();
}

uint64_t shuffle(uint64_t value, int lane_mask, unsigned lanes) {
  const unsigned warp = current / 32, lane = current % 32;  // blocks are whole warps
  Fiber& own = *fibers[current];
  WarpSlots& slots = warps[warp];
  const unsigned side = own.generation++ & 1;
  if (!(lanes >> lane & 1)) fail("a lane shuffles that the mask does not name");
  slots.value[side][lane] = value;
  slots.arrived[side] |= 1u << lane;
  own.lanes = lanes;
  if (slots.arrived[side] == lanes) {
    slots.arrived[side] = 0;
    for (unsigned l = 0; l < 32; ++l) {
      if (!(lanes >> l & 1)) continue;
      Fiber& other = *fibers[warp * 32 + l];
      if (other.lanes != lanes || other.generation != own.generation) fail("lanes in different shuffles");
      other.wait = Wait::none;
    }
  } else {
    own.wait = Wait::shuffle;
    yield();
  }
  const unsigned source = lane ^ static_cast<unsigned>(lane_mask);
  if (!(lanes >> source & 1)) fail("a shuffle from a lane that the mask does not name");
  return slots.value[side][source];
}

namespace {

// The blocks with these numbers, all at once.
void run_together(const std::vector<unsigned>& numbers, dim3 grid, size_t shared) {
  unsigned char* const memory = edge::cuda::edge_shared;
  const auto count = static_cast<unsigned>(numbers.size());
  while (fibers.size() < count * width) fibers.push_back(std::make_unique<Fiber>());
  warps.assign(count * width / 32, {});
  for (unsigned i = 0; i < count * width; ++i) {
    fibers[i]->wait = Wait::none;
    fibers[i]->generation = 0;
  }
  blocks.clear();
  for (const unsigned i : numbers)
    blocks.push_back({{i % grid.x, i / grid.x % grid.y, i / grid.x / grid.y},
                      width,
                      0,
                      // What was not written reads as NaN.
                      std::vector<unsigned char>(shared, 0xff)});
  const std::vector<unsigned> turns = sequence(width);
  unsigned idle = 0;
  for (unsigned left = count; left > 0;) {
    bool progress = false;
    for (unsigned b = 0; b < count; ++b) {
      Block& block = blocks[b];
      if (block.live == 0) continue;
      if (shared > 0) memcpy(memory, block.shared.data(), shared);
      progress |= turn(b, turns);
      if (shared > 0) memcpy(block.shared.data(), memory, shared);
      memset(memory, 0xff, shared);
      // What lies beyond must stay as it is.
      for (size_t at = shared; at < sizeof edge::cuda::edge_shared; ++at)
        if (memory[at] != 0xff) fail("a write beyond a block's shared memory");
      if (block.live == 0) --left;
    }
    idle = progress ? 0 : idle + 1;
    if (idle > 2) fail("deadlock: a barrier or shuffle that not every thread reaches");
  }
}

}  // namespace

void run(dim3 grid, dim3 block, size_t shared, bool together, const std::function<void()>& kernel) {
  if (shared > kShared) fail("more shared memory than a block has");
  if (block.y != 1 || block.z != 1 || block.x > 1024 || block.x % 32 || grid.y > 65535)
    fail("a launch that no device takes");
  body = &kernel;
  gridDim = grid;
  blockDim = block;
  width = block.x;
  memset(edge::cuda::edge_shared, 0xff, sizeof edge::cuda::edge_shared);
  const std::vector<unsigned> numbers = sequence(grid.x * grid.y * grid.z);
  if (together) {
    run_together(numbers, grid, shared);
  } else {
    for (const unsigned i : numbers) run_together({i}, grid, shared);
  }
}

}  // namespace host

// ---- the runtime

struct HostStream {
  HostGraph* capturing = nullptr;
};
struct HostGraph {
  std::vector<std::function<void()>> nodes;
};
struct HostGraphExec {
  std::vector<std::function<void()>> nodes;
};

namespace {

std::recursive_mutex one_at_a_time;
std::map<void*, size_t> allocations;
std::map<void*, size_t> on_device;  // those of cudaMalloc
int64_t used = 0, memory = int64_t{4} << 30, devices = 1, capability = 90, fail_launch = -1;
int64_t uuid = 7, processors = 3, any_pointer = 0;
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

cudaError_t submit(cudaStream_t stream, std::function<void()> work) {
  if (stream->capturing)
    stream->capturing->nodes.push_back(std::move(work));
  else
    work();
  return cudaSuccess;
}

}  // namespace

// What a test may set ("devices", "capability", "memory", "order", "fail_launch") and read.
extern "C" __attribute__((visibility("default"))) void cuda_host_set(const char* name, int64_t value) {
  const std::string what = name;
  if (what == "devices") devices = value;
  if (what == "capability") capability = value;
  if (what == "uuid") uuid = value;
  if (what == "processors") processors = value;
  if (what == "any_pointer") any_pointer = value;  // host memory passes for the device's
  if (what == "memory") memory = value;
  if (what == "order") host::order = static_cast<int>(value);
  if (what == "fail_launch") fail_launch = value;
}

extern "C" __attribute__((visibility("default"))) int64_t cuda_host_get(const char* name) {
  const std::string what = name;
  if (what == "allocations") return static_cast<int64_t>(allocations.size());
  if (what == "launches") return launches;
  if (what == "replays") return replays;
  if (what == "records") return records;
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
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  *value = static_cast<int>(processors);
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  *free = static_cast<size_t>(memory > used ? memory - used : 0);
  *total = static_cast<size_t>(memory);
  return cudaSuccess;
}
cudaError_t cudaMalloc(void** p, size_t bytes) {
  const std::lock_guard lock(one_at_a_time);
  if (used + static_cast<int64_t>(bytes) > memory) return cudaErrorMemoryAllocation;
  used += static_cast<int64_t>(bytes);
  *p = guarded(bytes);
  on_device[*p] = bytes;
  return cudaSuccess;
}
cudaError_t cudaFree(void* p) {
  if (!p) return cudaSuccess;
  const std::lock_guard lock(one_at_a_time);
  used -= static_cast<int64_t>(allocations[p]);
  on_device.erase(p);
  release(p);
  return cudaSuccess;
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* p) {
  const std::lock_guard lock(one_at_a_time);
  auto* at = static_cast<char*>(const_cast<void*>(p));
  auto found = on_device.upper_bound(at);
  const bool inside = any_pointer || (found != on_device.begin() &&
                                      at < static_cast<char*>((--found)->first) + found->second);
  *attributes = {inside ? cudaMemoryTypeDevice : cudaMemoryTypeUnregistered, inside ? 0 : -2};
  return cudaSuccess;
}
cudaError_t cudaHostAlloc(void** p, size_t bytes, unsigned) {
  const std::lock_guard lock(one_at_a_time);
  *p = guarded(bytes);
  return cudaSuccess;
}
cudaError_t cudaHostGetDevicePointer(void** device, void* p, unsigned) {
  *device = p;
  return cudaSuccess;
}
cudaError_t cudaFreeHost(void* p) {
  if (!p) return cudaSuccess;
  const std::lock_guard lock(one_at_a_time);
  release(p);
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = new HostStream;
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamQuery(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
  return submit(stream, [=] { memcpy(to, from, bytes); });
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) {
  memcpy(to, from, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width,
                              size_t height, cudaMemcpyKind, cudaStream_t stream) {
  return submit(stream, [=] {
    for (size_t i = 0; i < height; ++i)
      memcpy(static_cast<char*>(to) + i * to_pitch, static_cast<const char*>(from) + i * from_pitch, width);
  });
}
cudaError_t cudaMemsetAsync(void* p, int value, size_t bytes, cudaStream_t stream) {
  return submit(stream, [=] { memset(p, value, bytes); });
}
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  stream->capturing = new HostGraph;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  *graph = stream->capturing;
  stream->capturing = nullptr;
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
  delete exec;
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t) {
  const std::lock_guard lock(one_at_a_time);
  ++replays;
  for (const auto& node : exec->nodes) node();
  return cudaSuccess;
}
cudaError_t host_launch(const cudaLaunchConfig_t& config, std::function<void()> kernel) {
  if (fail_launch >= 0 && fail_launch-- == 0) return cudaErrorLaunchFailure;
  const bool together = config.numAttrs == 1 && config.attrs->id == cudaLaunchAttributeCooperative &&
                        config.attrs->val.cooperative;
  if (together && config.gridDim.x > static_cast<unsigned>(processors))
    return cudaErrorInvalidValue;  // more blocks than can run at once
  return submit(config.stream, [config, together, kernel = std::move(kernel)] {
    const std::lock_guard lock(one_at_a_time);
    ++launches;
    cooperative += together;
    host::run(config.gridDim, config.blockDim, config.dynamicSmemBytes, together, kernel);
  });
}
