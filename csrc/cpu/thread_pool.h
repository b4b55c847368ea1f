// SPDX-License-Identifier: Apache-2.0
// A fixed team of threads for one decoder. Inside a running decode the members spin briefly at each barrier,
// because a wake-up costs more than the work between two barriers; otherwise they sleep and use no CPU. With
// more members than processors nobody spins: the thread waited for could not run.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

namespace edge {

// Processors this process may run on.
int available_processors();

class ThreadPool {
 public:
  // `threads` includes the caller of run(), so threads - 1 are started.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return size_; }

  // Calls job(i) for i in [0, size()), job(0) on the calling thread, and returns when all have returned.
  // The job must not throw. One caller at a time.
  void run(const std::function<void(int)>& job);

  // All members call it inside a job; returns when the last has arrived. Writes before it are seen after it.
  void barrier();

  // While one of these lives, workers spin briefly for the next job before they go to sleep.
  class Busy {
   public:
    explicit Busy(ThreadPool& pool) : pool_(pool) { pool_.busy_.fetch_add(1, std::memory_order_relaxed); }
    ~Busy() { pool_.busy_.fetch_sub(1, std::memory_order_relaxed); }
    Busy(const Busy&) = delete;
    Busy& operator=(const Busy&) = delete;

   private:
    ThreadPool& pool_;
  };

  // False in a child process after fork(): the workers did not come along.
  bool usable() const;

 private:
  void work(int index);
  void wait_change(std::atomic<uint32_t>& value, uint32_t old, bool spin);

  const int size_;
  const bool may_spin_;
  const long owner_;
  const std::function<void(int)>* job_ = nullptr;
  // On lines of their own: each is written by one side while the other polls.
  alignas(64) std::atomic<uint32_t> epoch_{0};
  alignas(64) std::atomic<uint32_t> arrived_{0};
  alignas(64) std::atomic<uint32_t> phase_{0};
  alignas(64) std::atomic<int> busy_{0};
  std::atomic<bool> stop_{false};
  std::vector<std::thread> workers_;
};

}  // namespace edge
