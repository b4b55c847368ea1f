// SPDX-License-Identifier: Apache-2.0
#include "cpu/thread_pool.h"

#include <algorithm>
#include <climits>
#include <cstdlib>
#include <fstream>
#include <stdexcept>
#include <string>

#if defined(__linux__)
#include <fcntl.h>
#include <sched.h>
#endif
#include <unistd.h>

#include "cpu/relax.h"

namespace edge {
namespace {

constexpr int64_t kLine = 64;
// Fetched ahead in one wait at most: half of a small second-level cache.
constexpr int64_t kAheadBytes = 256 << 10;
constexpr int kAheadRanges = 32;
constexpr int kLinesPerLook = 4;

// Long enough for the other members' share of a stage and for the caller's work between two tokens, short
// enough that a stalled decode (a slow callback, a member without a processor) does not burn a core.
constexpr std::chrono::microseconds kSpinTime{200};
constexpr int kLooksPerClock = 64;

// Looks at who else runs before a decode begins.
constexpr int kLooks = 3;
constexpr std::chrono::microseconds kBetweenLooks{150};

// Weight of the last job in the share of time for which a member had no processor.
constexpr double kNewest = 0.25;
// How long a smaller team stays so at least, and at most after attempts that failed within the probation.
constexpr std::chrono::milliseconds kLeastPatience{200}, kMostPatience{6400}, kProbation{400};

// Jobs shorter than this are looked at now and then only.
constexpr std::chrono::milliseconds kLongJob{1};
constexpr uint32_t kShortJobs = 16;

// Nanoseconds for which the calling thread was ready to run but had no processor; 0 where that is not known.
int64_t time_without_processor() {
#if defined(__linux__)
  struct File {
    const pid_t process = getpid();
    const int descriptor = open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
    ~File() {
      if (descriptor >= 0) close(descriptor);
    }
  };
  thread_local const File file;
  char text[96];
  // In a child process the file would still be the parent's.
  if (file.descriptor < 0 || file.process != getpid()) return 0;
  const ssize_t n = pread(file.descriptor, text, sizeof text - 1, 0);
  if (n <= 0) return 0;
  text[n] = 0;
  char* second = nullptr;
  std::strtoll(text, &second, 10);  // the time it did run
  return std::strtoll(second, nullptr, 10);
#else
  return 0;
#endif
}

// Threads of the whole machine that run or are ready to; 0 where that is not known.
int runnable_threads() {
#if defined(__linux__)
  const int descriptor = open("/proc/loadavg", O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return 0;
  char text[96];
  const ssize_t n = read(descriptor, text, sizeof text - 1);
  close(descriptor);
  if (n <= 0) return 0;
  text[n] = 0;
  char* at = text;
  for (int i = 0; i < 3; ++i) std::strtod(at, &at);  // the load averages, of minutes
  return static_cast<int>(std::strtol(at, nullptr, 10));
#else
  return 0;
#endif
}

#if defined(__linux__)
// Processors that the control group's quota (version 2, or else 1) comes to; very many without one.
int quota_processors() {
  std::string quota;
  double period = 0.0;
  if (!(std::ifstream("/sys/fs/cgroup/cpu.max") >> quota >> period)) {
    std::ifstream("/sys/fs/cgroup/cpu/cpu.cfs_quota_us") >> quota;
    std::ifstream("/sys/fs/cgroup/cpu/cpu.cfs_period_us") >> period;
  }
  const double limit = std::atof(quota.c_str());  // "max" is 0, and no limit in version 1 is -1
  return limit > 0.0 && period > 0.0 ? std::max(1, static_cast<int>(std::min(limit / period, 1e6))) : 1 << 30;
}
#endif

}  // namespace

// What belongs to one member, on lines of its own.
struct alignas(64) ThreadPool::Member {
  std::atomic<uint32_t> go{0};  // counts the jobs this member has been called to
  struct {
    const char* at;
    const char* end;
  } ranges[kAheadRanges];
  int count = 0, next = 0;
  int64_t budget = kAheadBytes;
  int64_t lost = 0;  // nanoseconds of the last job without a processor

  void forget() { count = next = 0, budget = kAheadBytes; }
  // Fetches a few lines of what is expected; false when all is fetched.
  bool fetch() {
    if (next == count) return false;
    auto& range = ranges[next];
    for (int i = 0; i < kLinesPerLook && range.at < range.end; ++i, range.at += kLine)
      __builtin_prefetch(range.at, 0, 2);
    if (range.at >= range.end) ++next;
    return true;
  }
};

int available_processors() {
#if defined(__linux__)
  static const int quota = quota_processors();
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::min(CPU_COUNT(&set), quota);
#endif
  const unsigned n = std::thread::hardware_concurrency();
  return n ? static_cast<int>(n) : 1;
}

int checked_threads(int64_t threads) {
  if (threads < 1 || threads > 1024) throw std::invalid_argument("threads must be 1 to 1024");
  return static_cast<int>(threads);
}

ThreadPool::ThreadPool(int threads)
    : size_(threads),
      may_spin_(threads <= available_processors()),
      owner_(getpid()),
      members_(std::make_unique<Member[]>(static_cast<size_t>(threads))),
      team_(threads),
      patience_(kLeastPatience) {
  workers_.reserve(static_cast<size_t>(size_ - 1));
  try {
    for (int i = 1; i < size_; ++i) workers_.emplace_back([this, i] { work(i); });
  } catch (...) {
    end_workers();
    throw;
  }
}

ThreadPool::~ThreadPool() {
  if (usable()) end_workers();
  for (std::thread& worker : workers_)
    if (worker.joinable()) worker.detach();
}

void ThreadPool::end_workers() {
  stop_.store(true, std::memory_order_relaxed);
  for (size_t i = 0; i < workers_.size(); ++i) {
    members_[i + 1].go.fetch_add(1);
    members_[i + 1].go.notify_one();
    workers_[i].join();
  }
}

bool ThreadPool::usable() const { return getpid() == owner_; }

void ThreadPool::expect(int member, const void* data, int64_t bytes) {
  Member& m = members_[member];
  if (m.count == kAheadRanges || m.budget <= 0) return;
  const char* at = static_cast<const char*>(data);
  m.ranges[m.count++] = {at, at + std::min(bytes, m.budget)};
  m.budget -= bytes;
}

void ThreadPool::wait_change(Member& member, std::atomic<uint32_t>& value, uint32_t old, bool spin) {
  if (spin && may_spin_) {
    Clock::time_point until{};
    for (;;) {
      for (int i = 0; i < kLooksPerClock; ++i) {
        if (value.load(std::memory_order_acquire) != old) return;
        if (!member.fetch()) relax();
      }
      const Clock::time_point now = Clock::now();
      if (until == Clock::time_point{}) until = now + kSpinTime;
      if (now >= until) break;
    }
  }
  if (value.load(std::memory_order_acquire) != old) return;
  awake_.fetch_sub(1, std::memory_order_relaxed);
  do value.wait(old, std::memory_order_acquire);
  while (value.load(std::memory_order_acquire) == old);
  awake_.fetch_add(1, std::memory_order_relaxed);
}

void ThreadPool::work(int index) {
  Member& member = members_[index];
  uint32_t seen = 0;
  awake_.fetch_add(1, std::memory_order_relaxed);
  for (;;) {
    wait_change(member, member.go, seen, busy_.load(std::memory_order_relaxed) > 0);
    // One step at a time: every job ends with a barrier, so a call can not be skipped.
    ++seen;
    if (stop_.load(std::memory_order_relaxed)) return;
    work_on_job(index);
  }
}

void ThreadPool::work_on_job(int index) {
  Member& member = members_[index];
  member.forget();
  const int64_t before = watched_ ? time_without_processor() : 0;
  (*job_)(index);
  if (watched_) member.lost = time_without_processor() - before;
  meet(index);  // what is expected now is fetched until the next job begins
}

void ThreadPool::run(const std::function<void(int)>& job) {
  if (size_ == 1) {
    job(0);
    return;
  }
  const Busy busy(*this);
  const Clock::time_point began = Clock::now();
  watched_ = may_spin_ && (long_jobs_ || ++jobs_ % kShortJobs == 0);
  call(job);
  if (watched_) adapt(began);
}

void ThreadPool::run_whole(const std::function<void(int)>& job) {
  if (size_ == 1) {
    job(0);
    return;
  }
  const Busy busy(*this);
  const int fitted = team_;
  team_ = size_;
  watched_ = false;
  call(job);
  team_ = fitted;
}

void ThreadPool::call(const std::function<void(int)>& job) {
  job_ = &job;
  for (int i = 1; i < team_; ++i) {
    members_[i].go.fetch_add(1);
    members_[i].go.notify_one();
  }
  work_on_job(0);
}

void ThreadPool::barrier(int index) {
  meet(index);
  members_[index].forget();
}

void ThreadPool::meet(int index) {
  // Read before arriving: after the last arrival of a job the caller may change it.
  const auto team = static_cast<uint32_t>(team_);
  if (team == 1) return;
  const uint32_t phase = phase_.load(std::memory_order_relaxed);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == team) {
    arrived_.store(0, std::memory_order_relaxed);
    // Sequentially consistent, as run()'s: notify looks for sleepers only after the new value is visible.
    phase_.fetch_add(1);
    phase_.notify_all();
  } else {
    wait_change(members_[index], phase_, phase, true);
  }
}

// Before a row of jobs: where other programs keep processors busy, a member that has to share one makes all
// others wait, at every barrier, for as long as the system lets the other program run: a decode of
// milliseconds then takes thirty times as long. So the team begins with the processors that are free.
void ThreadPool::look_around() {
  if (size_ == 1 || !may_spin_) return;
  const int machine = static_cast<int>(std::thread::hardware_concurrency());
  if (machine == 0) return;
  // Whoever runs only for a moment, such as the caller's caller that has just handed over, is gone at the
  // next look; a team that is too small costs more than two looks.
  int others = INT_MAX;
  for (int look = 0; look < kLooks && others > 0; ++look) {
    if (look > 0) std::this_thread::sleep_for(kBetweenLooks);
    const int runnable = runnable_threads();
    if (runnable == 0) return;
    // This thread and our own workers are not others.
    others = std::min(others, std::max(0, runnable - 1 - awake_.load(std::memory_order_relaxed)));
  }
  // A process confined to some processors shares but these.
  const int processors = available_processors();
  const int taken = (others * std::min(processors, machine) + machine - 1) / machine;
  const int free = std::clamp(processors - taken, 1, size_);
  if (free < team_ || (crowded_ && free > team_)) {
    crowded_ = free < size_;
    team_ = free;
    lost_ = 0.0;
    grow_at_ = Clock::now() + kLeastPatience;
  }
}

// After a job: is the team as large as the machine lets it be? While a member has no processor all others
// wait for it; once that takes more of the time than a member is worth, the team is better off without it.
void ThreadPool::adapt(Clock::time_point began) {
  int64_t longest = 0;
  for (int i = 0; i < team_; ++i) longest = std::max(longest, members_[i].lost);
  const Clock::time_point now = Clock::now();
  const std::chrono::nanoseconds took = now - began;
  const double lost = std::min(1.0, static_cast<double>(longest) / static_cast<double>(took.count() + 1));
  long_jobs_ = took >= kLongJob;
  lost_ += kNewest * (lost - lost_);
  if (lost_ > 1.0 / team_ && team_ > 1) {
    --team_;
    lost_ = 0.0;
    patience_ = now < probation_ends_ ? std::min(2 * patience_, kMostPatience) : kLeastPatience;
    grow_at_ = now + patience_;
  } else if (team_ < size_ && now >= grow_at_) {
    ++team_;
    lost_ = 0.5 / team_;  // it has to prove itself
    probation_ends_ = now + kProbation;
    grow_at_ = now + kLeastPatience;
  }
}

}  // namespace edge
