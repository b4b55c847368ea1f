// SPDX-License-Identifier: Apache-2.0
#include "cpu/isa.h"

#include <cstdlib>
#include <stdexcept>

#if EDGE_X86_KERNELS
#include <cpuid.h>
#elif EDGE_ARM_KERNELS && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace edge {
namespace {

struct Level {
  const char* name;
  const char* needs;
  bool available;
  const Kernels& (*kernels)();
};

#if EDGE_X86_KERNELS

struct Features {
  bool avx2 = false, avx512 = false, vnni = false;
};

Features detect() {
  Features found;
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return found;
  const bool osxsave = c & (1u << 27), avx = c & (1u << 28), fma = c & (1u << 12), f16c = c & (1u << 29);
  if (!osxsave || !avx) return found;
  // The operating system must save the wide registers too: XCR0 says which.
  unsigned xcr0 = 0, high = 0;
  __asm__ volatile("xgetbv" : "=a"(xcr0), "=d"(high) : "c"(0));
  const bool os_ymm = (xcr0 & 0x6) == 0x6, os_zmm = (xcr0 & 0xe6) == 0xe6;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return found;
  const bool avx2 = b & (1u << 5);
  const bool f = b & (1u << 16), dq = b & (1u << 17), bw = b & (1u << 30), vl = b & (1u << 31);
  const bool vnni = c & (1u << 11);
  const unsigned max_subleaf = a;
  unsigned a1 = 0, b1 = 0, c1 = 0, d1 = 0;
  const bool bf16 = max_subleaf >= 1 && __get_cpuid_count(7, 1, &a1, &b1, &c1, &d1) && (a1 & (1u << 5));
  found.avx2 = os_ymm && avx2 && fma && f16c;
  found.avx512 = found.avx2 && os_zmm && f && dq && bw && vl;
  found.vnni = found.avx512 && vnni && bf16;
  return found;
}

void add_x86(std::vector<Level>& levels) {
  const Features f = detect();
  levels.insert(levels.end(),
                {{"avx2", "AVX2, FMA and F16C", f.avx2, kernels_avx2},
                 {"avx512", "AVX-512 F, BW, VL and DQ", f.avx512, kernels_avx512},
                 {"avx512vnni", "AVX-512 F, BW, VL, DQ, VNNI and BF16", f.vnni, kernels_avx512vnni}});
}

#else

void add_x86(std::vector<Level>& levels) {
  for (const char* name : {"avx2", "avx512", "avx512vnni"})
    levels.push_back({name, "an x86-64 processor", false, nullptr});
}

#endif

#if EDGE_ARM_KERNELS

bool has_dot_products() {
#if defined(__linux__)
  return getauxval(AT_HWCAP) & HWCAP_ASIMDDP;
#else
#ifdef __ARM_FEATURE_DOTPROD  // the build's baseline: all of Apple's have them
  return true;
#else
  return false;
#endif
#endif
}

void add_arm(std::vector<Level>& levels) {
  levels.push_back({"neon", "a 64-bit Arm processor", true, kernels_neon});
  levels.push_back(
      {"neondot", "a 64-bit Arm processor with dot products", has_dot_products(), kernels_neondot});
}

#else

void add_arm(std::vector<Level>& levels) {
  for (const char* name : {"neon", "neondot"})
    levels.push_back({name, "a 64-bit Arm processor", false, nullptr});
}

#endif

std::vector<Level> levels() {
  std::vector<Level> all{{"generic", "nothing", true, kernels_generic}};
  add_x86(all);
  add_arm(all);
  return all;
}

const std::vector<Level>& all_levels() {
  static const std::vector<Level> found = levels();
  return found;
}

std::string choices() {
  std::string text;
  for (const Level& level : all_levels())
    if (level.available) text += (text.empty() ? "" : ", ") + std::string(level.name);
  return text;
}

const Level& find(std::string_view name, std::string_view source) {
  for (const Level& level : all_levels()) {
    if (name != level.name) continue;
    if (level.available) return level;
    throw std::invalid_argument(std::string(source) + ": instruction set '" + std::string(name) +
                                "' cannot run on this machine (it needs " + level.needs +
                                "); choices here: " + choices());
  }
  throw std::invalid_argument(std::string(source) + ": unknown instruction set '" + std::string(name) +
                              "'; choices here: " + choices());
}

}  // namespace

std::vector<std::string> isa_supported() {
  std::vector<std::string> names;
  for (const Level& level : all_levels())
    if (level.available) names.emplace_back(level.name);
  return names;
}

std::string isa_select(std::string_view name) {
  if (!name.empty()) return find(name, "isa").name;
  if (const char* forced = std::getenv("EDGE_ISA"); forced && *forced) return find(forced, "EDGE_ISA").name;
  return isa_supported().back();
}

const Kernels& kernels_for(std::string_view name) { return find(name, "isa").kernels(); }

}  // namespace edge
