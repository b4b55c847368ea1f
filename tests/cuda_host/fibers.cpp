// SPDX-License-Identifier: Apache-2.0
// Test only: the host's stand-in for the threads of a block, as fibers.
#include <cuda_runtime.h>
#include <setjmp.h>
#include <stdio.h>
#include <ucontext.h>

#include <chrono>
#include <memory>
#include <vector>

#include "host.h"

uint3 threadIdx, blockIdx;
dim3 gridDim, blockDim;

namespace host {

int order = 0;

void fail(const char* what) {
  fprintf(stderr, "cuda_host: %s\n", what);
  abort();
}

namespace {

constexpr size_t kStack = 96 << 10;
constexpr size_t kShared = 99 << 10;

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

unsigned lane() { return current % 32; }

long long cycles() {
  return std::chrono::nanoseconds(std::chrono::steady_clock::now().time_since_epoch()).count();
}

uint64_t shuffle(uint64_t value, unsigned source, unsigned lanes) {
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
  if (!(lanes >> source & 1)) fail("a shuffle from a lane that the mask does not name");
  return slots.value[side][source];
}

namespace {

// The blocks with these numbers, all at once.
void run_together(const std::vector<unsigned>& numbers, dim3 grid, size_t shared) {
  unsigned char* const memory = edge::cuda::edge_shared;
  static const std::vector<unsigned char> unwritten(sizeof edge::cuda::edge_shared, 0xff);
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
      if (memcmp(memory + shared, unwritten.data(), unwritten.size() - shared) != 0)
        fail("a write beyond a block's shared memory");
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
