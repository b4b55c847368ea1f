// SPDX-License-Identifier: Apache-2.0
#include "cpu/multiply_rate.h"

#include <algorithm>
#include <chrono>
#include <stdexcept>

namespace edge {
namespace {

constexpr size_t kLeastPasses = 3;
constexpr int64_t kRounds = int64_t{1} << 20;  // milliseconds

}  // namespace

MultiplyMeter::MultiplyMeter(const Kernels& kernels, int64_t threads)
    : kernels_(kernels), pool_(checked_threads(threads)), counts_(static_cast<size_t>(threads)) {}

std::vector<double> MultiplyMeter::passes(double seconds) {
  if (!(seconds >= 0.0 && seconds <= 600.0)) throw std::invalid_argument("seconds must be 0 to 600");
  using Clock = std::chrono::steady_clock;
  const Clock::time_point start = Clock::now();
  std::vector<double> rates;
  for (;;) {
    const Clock::time_point before = Clock::now();
    if (rates.size() >= kLeastPasses && std::chrono::duration<double>(before - start).count() >= seconds)
      return rates;
    for (Count& count : counts_) count.value = 0;
    pool_.run_whole([&](int t) { counts_[static_cast<size_t>(t)].value = kernels_.multiply_only(kRounds); });
    const double took = std::max(1e-9, std::chrono::duration<double>(Clock::now() - before).count());
    int64_t products = 0;
    for (const Count& count : counts_) products += count.value;
    rates.push_back(static_cast<double>(products) / took / 1e9);
  }
}

}  // namespace edge
