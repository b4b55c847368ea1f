// SPDX-License-Identifier: Apache-2.0
#include "cpu/read_bandwidth.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <new>
#include <stdexcept>
#include <utility>
#include <vector>

#include "cpu/thread_pool.h"

namespace edge {
namespace {

constexpr int64_t kLine = 64;  // bytes
constexpr int64_t kWords = kLine / static_cast<int64_t>(sizeof(uint64_t));
constexpr int kLeastPasses = 3;

struct alignas(kLine) Sum {
  uint64_t value = 0;
};

// One accumulator per word of a line: independent additions, which the compiler vectorises.
uint64_t sum_lines(const uint64_t* data, int64_t lines) {
  uint64_t sums[kWords] = {};
  for (int64_t i = 0; i < lines; ++i)
    for (int64_t w = 0; w < kWords; ++w) sums[w] += data[i * kWords + w];
  uint64_t total = 0;
  for (const uint64_t sum : sums) total += sum;
  return total;
}

}  // namespace

double read_bandwidth(int64_t bytes, int64_t threads, double seconds) {
  if (threads < 1 || threads > 1024) throw std::invalid_argument("threads must be 1 to 1024");
  if (bytes < kLine * threads || bytes > int64_t{1} << 40)
    throw std::invalid_argument("bytes must be one cache line per thread or more, and 1 TiB or less");
  if (!(seconds >= 0.0 && seconds <= 600.0)) throw std::invalid_argument("seconds must be 0 to 600");
  const int64_t lines = bytes / kLine;
  const auto size = static_cast<size_t>(lines * kLine);
  const std::unique_ptr<void, decltype(&std::free)> storage(
      std::aligned_alloc(4096, (size + 4095) / 4096 * 4096), &std::free);
  if (!storage) throw std::bad_alloc();
  auto* data = static_cast<uint64_t*>(storage.get());
  ThreadPool pool(static_cast<int>(threads));
  std::vector<Sum> sums(static_cast<size_t>(threads));
  const auto begin = [&](int64_t thread) { return lines * thread / pool.team(); };

  // Each thread touches its own share first: pages come from the memory near it.
  pool.run([&](int t) { std::fill(data + begin(t) * kWords, data + begin(t + 1) * kWords, uint64_t{1}); });
  const std::function<void(int)> read = [&](int t) {
    sums[static_cast<size_t>(t)].value = sum_lines(data + begin(t) * kWords, begin(t + 1) - begin(t));
  };

  const ThreadPool::Busy busy(pool);
  using Clock = std::chrono::steady_clock;
  const Clock::time_point start = Clock::now();
  double best = 0.0;
  for (int pass = 0;; ++pass) {
    const Clock::time_point before = Clock::now();
    if (pass >= kLeastPasses && std::chrono::duration<double>(before - start).count() >= seconds) break;
    pool.run(read);
    const double took = std::chrono::duration<double>(Clock::now() - before).count();
    if (took > 0.0) best = std::max(best, static_cast<double>(size) / took / 1e9);
    uint64_t total = 0;
    for (Sum& sum : sums) total += std::exchange(sum.value, 0);
    if (total != static_cast<uint64_t>(lines * kWords))
      throw std::logic_error("memory was not read as written");
  }
  return best;
}

}  // namespace edge
