// SPDX-License-Identifier: Apache-2.0
#include "cpu/isa.h"

#include <cstdlib>
#include <stdexcept>

#include "cpu/processor.h"
#if EDGE_ARM_KERNELS && defined(__linux__)
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

void add_x86(std::vector<Level>& levels) {
  const X86Features f = x86_features();
  levels.insert(levels.end(),
                {{"avx2", "AVX2, FMA and F16C", f.avx2, kernels_avx2},
                 {"avx512", "AVX-512 F, BW, VL and DQ", f.avx512, kernels_avx512},
                 {"avx512vnni", "AVX-512 F, BW, VL, DQ, VBMI, VNNI and BF16", f.vnni, kernels_avx512vnni}});
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
