// SPDX-License-Identifier: Apache-2.0
#include "cpu/thread_pool.h"

#include <chrono>

#if defined(__linux__)
#include <sched.h>
#endif
#include <unistd.h>

namespace edge {
namespace {

inline void relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

// Long enough for the other members' share of a stage and for the caller's work between two tokens, short
// enough that a stalled decode (a slow callback) does not burn a core.
constexpr std::chrono::microseconds kSpinTime{200};
constexpr int kPausesPerLook = 64;

}  // namespace

int available_processors() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
  const unsigned n = std::thread::hardware_concurrency();
  return n ? static_cast<int>(n) : 1;
}

ThreadPool::ThreadPool(int threads)
    : size_(threads), may_spin_(threads <= available_processors()), owner_(getpid()) {
  workers_.reserve(static_cast<size_t>(size_ - 1));
  try {
    for (int i = 1; i < size_; ++i) workers_.emplace_back([this, i] { work(i); });
  } catch (...) {
    stop_.store(true);
    epoch_.fetch_add(1);
    epoch_.notify_all();
    for (std::thread& worker : workers_) worker.join();
    throw;
  }
}

ThreadPool::~ThreadPool() {
  if (!usable()) {
    for (std::thread& worker : workers_) worker.detach();
    return;
  }
  stop_.store(true, std::memory_order_relaxed);
  epoch_.fetch_add(1);
  epoch_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

bool ThreadPool::usable() const { return getpid() == owner_; }

void ThreadPool::wait_change(std::atomic<uint32_t>& value, uint32_t old, bool spin) {
  if (spin && may_spin_) {
    const auto until = std::chrono::steady_clock::now() + kSpinTime;
    do {
      for (int i = 0; i < kPausesPerLook; ++i) {
        if (value.load(std::memory_order_acquire) != old) return;
        relax();
      }
    } while (std::chrono::steady_clock::now() < until);
  }
  while (value.load(std::memory_order_acquire) == old) value.wait(old, std::memory_order_acquire);
}

void ThreadPool::work(int index) {
  uint32_t seen = 0;
  for (;;) {
    wait_change(epoch_, seen, busy_.load(std::memory_order_relaxed) > 0);
    // One step at a time: every job ends with a barrier, so an epoch can not be skipped.
    ++seen;
    if (stop_.load(std::memory_order_relaxed)) return;
    (*job_)(index);
    barrier();
  }
}

void ThreadPool::run(const std::function<void(int)>& job) {
  if (size_ == 1) {
    job(0);
    return;
  }
  const Busy busy(*this);
  job_ = &job;
  epoch_.fetch_add(1);
  epoch_.notify_all();
  job(0);
  barrier();
}

void ThreadPool::barrier() {
  if (size_ == 1) return;
  const uint32_t phase = phase_.load(std::memory_order_relaxed);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == static_cast<uint32_t>(size_)) {
    arrived_.store(0, std::memory_order_relaxed);
    // Sequentially consistent, as run()'s: notify looks for sleepers only after the new value is visible.
    phase_.fetch_add(1);
    phase_.notify_all();
    return;
  }
  wait_change(phase_, phase, true);
}

}  // namespace edge
