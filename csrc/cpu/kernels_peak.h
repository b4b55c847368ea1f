// SPDX-License-Identifier: Apache-2.0
// The products of a quantized prefill with nothing around them: the bound for what it can reach.
#pragma once

#include <stdint.h>

#include "cpu/kernels_gemm.h"

namespace edge {
namespace {

// Independent sums: more than an instruction's latency has room for, and few enough for the registers.
constexpr int kPeakSums = 12;

// `rounds` times a product into every sum; returns how many numbers were multiplied.
int64_t multiply_only(int64_t rounds) {
  alignas(64) int16_t numbers[2 * kLanes];
  for (int16_t& number : numbers) number = 1;
  Ints sum[kPeakSums];
#pragma GCC unroll 16
  for (int i = 0; i < kPeakSums; ++i) sum[i] = zero_ints();
  for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 16
    for (int i = 0; i < kPeakSums; ++i) {
      // As far as the compiler knows other numbers each time: no product can be taken twice, no two sums be
      // one.
      __asm__ volatile("" ::"r"(numbers) : "memory");
      const Ints a = load_pairs(numbers);
#ifdef EDGE_BYTE_PRODUCTS
      sum[i] = add_byte_products(sum[i], a, a);
#else
      sum[i] = add_products(sum[i], a, a);
#endif
    }
  }
  alignas(64) int32_t total[kLanes];
#pragma GCC unroll 16
  for (int i = 0; i < kPeakSums; ++i) {
    store_ints(total, sum[i]);
    __asm__ volatile("" ::"r"(total) : "memory");
  }
#ifdef EDGE_BYTE_PRODUCTS
  return rounds * kPeakSums * 4 * kLanes;
#else
  return rounds * kPeakSums * 2 * kLanes;
#endif
}

}  // namespace
}  // namespace edge
