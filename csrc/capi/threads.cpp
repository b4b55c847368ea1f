// SPDX-License-Identifier: Apache-2.0
#include "threads.h"

#include <sched.h>

#include <algorithm>
#include <fstream>
#include <set>
#include <string>
#include <utility>

#include "cpu/thread_pool.h"

namespace edge::capi {
namespace {

std::string line_of(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

int physical_cores() {
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  if (::sched_getaffinity(0, sizeof cpus, &cpus) != 0) return kMaxThreads;
  std::set<std::pair<std::string, std::string>> cores;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &cpus)) continue;
    const std::string folder = "/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/";
    const std::string package = line_of(folder + "physical_package_id"), core = line_of(folder + "core_id");
    if (package.empty() || core.empty())
      cores.emplace("cpu", std::to_string(cpu));
    else
      cores.emplace(package, core);
  }
  return static_cast<int>(cores.size());
}

}  // namespace

int default_threads() {
  return std::clamp(std::min(physical_cores(), available_processors()), 1, kMaxThreads);
}

int decode_threads(int threads, int64_t weight_bytes, bool draft) {
  constexpr int64_t kRowsPerPass = 4, kBytesPerThread = 2 << 20;
  const int64_t busy = weight_bytes * (draft ? kRowsPerPass : 1) / kBytesPerThread;
  return static_cast<int>(std::clamp<int64_t>(busy, 1, threads));
}

}  // namespace edge::capi
