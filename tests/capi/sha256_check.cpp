// SPDX-License-Identifier: Apache-2.0
// For tests: SHA-256 of lengths of a buffer by both implementations. With a number of megabytes: their
// speeds.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <utility>
#include <vector>

#include "capi/sha256.h"

using namespace edge::capi;

int main(int count, char** arguments) {
  const bool has = sha256_has_instructions();
  if (count > 1) {
    const std::vector<std::byte> data(static_cast<size_t>(std::atoi(arguments[1])) << 20);
    const std::pair<const char*, Sha256Blocks> both[] = {{"plain", sha256_blocks_plain},
                                                         {"best", sha256_blocks()}};
    for (const auto& [name, blocks] : both) {
      const auto begin = std::chrono::steady_clock::now();
      const std::string hex = sha256_hex(data, blocks);
      const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
      std::printf("%s %s %.0f MB/s\n", name, hex.c_str(),
                  static_cast<double>(data.size()) / took.count() / 1e6);
    }
    return 0;
  }
  std::printf("%s\n", has ? "x86" : "plain");
  std::vector<std::byte> data(1000);
  for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<std::byte>(i * 37 + i / 256);
  for (size_t length = 0; length < data.size(); ++length) {
    // From an odd address, too.
    const std::span<const std::byte> part(data.data() + length % 2, length - length % 2);
    std::printf("%zu %zu %s %s\n", length % 2, part.size(), sha256_hex(part, sha256_blocks_plain).c_str(),
                sha256_hex(part).c_str());
  }
}
