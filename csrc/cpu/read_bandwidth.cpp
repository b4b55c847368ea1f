// SPDX-License-Identifier: Apache-2.0
#include "cpu/read_bandwidth.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <stdexcept>
#include <utility>

namespace edge {
namespace {

constexpr int64_t kLine = 64;  // bytes
constexpr int64_t kWords = kLine / static_cast<int64_t>(sizeof(uint64_t));
constexpr size_t kLeastPasses = 3;

// One accumulator per word of a line: independent additions, which the compiler vectorises.
uint64_t sum_lines(const uint64_t* data, int64_t lines) {
  uint64_t sums[kWords] = {};
  for (int64_t i = 0; i < lines; ++i)
    for (int64_t w = 0; w < kWords; ++w) sums[w] += data[i * kWords + w];
  uint64_t total = 0;
  for (const uint64_t sum : sums) total += sum;
  return total;
}

int64_t checked_lines(int64_t bytes, int threads) {
  if (bytes < kLine * threads || bytes > int64_t{1} << 40)
    throw std::invalid_argument("bytes must be one cache line per thread or more, and 1 TiB or less");
  return bytes / kLine;
}

}  // namespace

ReadMeter::ReadMeter(int64_t bytes, int64_t threads)
    : lines_(checked_lines(bytes, checked_threads(threads))),
      pool_(static_cast<int>(threads)),
      sums_(static_cast<size_t>(threads)),
      memory_(static_cast<size_t>(lines_ * kLine)),
      data_(reinterpret_cast<uint64_t*>(memory_.data())) {
  // Each thread touches its own share first: pages come from the memory near it.
  pool_.run([&](int t) { std::fill(data_ + begin(t) * kWords, data_ + begin(t + 1) * kWords, uint64_t{1}); });
}

std::vector<double> ReadMeter::passes(double seconds) {
  if (!(seconds >= 0.0 && seconds <= 600.0)) throw std::invalid_argument("seconds must be 0 to 600");
  const std::function<void(int)> read = [&](int t) {
    sums_[static_cast<size_t>(t)].value = sum_lines(data_ + begin(t) * kWords, begin(t + 1) - begin(t));
  };
  const ThreadPool::Busy busy(pool_);
  using Clock = std::chrono::steady_clock;
  const Clock::time_point start = Clock::now();
  std::vector<double> speeds;
  for (;;) {
    const Clock::time_point before = Clock::now();
    if (speeds.size() >= kLeastPasses && std::chrono::duration<double>(before - start).count() >= seconds)
      return speeds;
    pool_.run(read);
    const double took = std::max(1e-9, std::chrono::duration<double>(Clock::now() - before).count());
    speeds.push_back(static_cast<double>(lines_ * kLine) / took / 1e9);
    uint64_t total = 0;
    for (Sum& sum : sums_) total += std::exchange(sum.value, 0);
    if (total != static_cast<uint64_t>(lines_ * kWords))
      throw std::logic_error("memory was not read as written");
  }
}

}  // namespace edge
