// SPDX-License-Identifier: Apache-2.0
// The team of threads of one decoder. Inside a running decode the members spin briefly at each barrier,
// because a wake-up costs more than the work between two barriers; otherwise they sleep and use no CPU. With
// more members than processors nobody spins: the thread waited for could not run.
//
// Other programs may take processors away while a decode runs, and a barrier waits for the member that lost
// its own. Where that takes more of the time than a member is worth the team goes on without one, and tries
// again later. What is computed must not depend on the size of the team.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

namespace edge {

// Processors this process may run on: affinity, and the control group's CPU quota where there is one.
int available_processors();

// Threads of a team. Throws std::invalid_argument unless they are 1 to 1024.
int checked_threads(int64_t threads);

class ThreadPool {
 public:
  // `threads` includes the caller of run(), so threads - 1 are started.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return size_; }
  // Members of the running (or else the last) job, 1 to size().
  int team() const { return team_; }

  // Calls job(i) for i in [0, team()), job(0) on the calling thread, and returns when all have returned.
  // The job must not throw. One caller at a time.
  void run(const std::function<void(int)>& job);
  // The same with every member, however many processors seemed to be free a moment ago: for long jobs whose
  // members take their work piece by piece, and so hardly wait for one that has to share its processor.
  void run_whole(const std::function<void(int)>& job);

  // All members of the team call it inside a job; returns when the last has arrived. Writes before it are
  // seen after it.
  void barrier(int member);

  // Memory that this member reads after its next wait, to be fetched into its cache while it waits; may be
  // called several times for one wait. Waiting members so keep the memory busy, which is what the stages
  // between barriers are short of.
  void expect(int member, const void* data, int64_t bytes);

  // While one of these lives, workers spin briefly for the next job before they go to sleep. The first one
  // fits the team to the processors that are free.
  class Busy {
   public:
    explicit Busy(ThreadPool& pool) : pool_(pool) {
      if (pool_.busy_.fetch_add(1, std::memory_order_relaxed) == 0) pool_.look_around();
    }
    ~Busy() { pool_.busy_.fetch_sub(1, std::memory_order_relaxed); }
    Busy(const Busy&) = delete;
    Busy& operator=(const Busy&) = delete;

   private:
    ThreadPool& pool_;
  };

  // False in a child process after fork(): the workers did not come along.
  bool usable() const;

 private:
  using Clock = std::chrono::steady_clock;
  struct Member;

  void work(int index);
  void call(const std::function<void(int)>& job);
  void work_on_job(int index);
  void meet(int index);
  void wait_change(Member& member, std::atomic<uint32_t>& value, uint32_t old, bool spin);
  void look_around();
  void adapt(Clock::time_point began);
  void end_workers();

  const int size_;
  const bool may_spin_;
  const long owner_;
  std::unique_ptr<Member[]> members_;
  const std::function<void(int)>* job_ = nullptr;
  int team_;
  bool watched_ = false, long_jobs_ = false;
  bool crowded_ = false;  // the team is as small as it is because of what look_around() saw
  uint32_t jobs_ = 0;
  double lost_ = 0.0;  // share of the last jobs' time for which a member had no processor
  Clock::time_point grow_at_{}, probation_ends_{};
  std::chrono::milliseconds patience_;
  // On lines of their own: each is written by one side while the other polls.
  alignas(64) std::atomic<uint32_t> arrived_{0};
  alignas(64) std::atomic<uint32_t> phase_{0};
  alignas(64) std::atomic<int> busy_{0};
  std::atomic<bool> stop_{false};
  std::atomic<int> awake_{0};  // workers that do not sleep
  std::vector<std::thread> workers_;
};

}  // namespace edge
