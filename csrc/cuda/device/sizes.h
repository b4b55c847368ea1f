// SPDX-License-Identifier: Apache-2.0
// Sizes that kernels and host code share.
#pragma once

#include <stdint.h>

namespace edge::cuda {

inline constexpr int kWarp = 32;
inline constexpr int kMaxRows = 16;      // rows that share one pass over the weights
inline constexpr int kKeyBlock = 128;    // keys of one attention block, as on the CPU
inline constexpr int kVocabBlock = 128;  // logits of one head block, as on the CPU
inline constexpr int kMostHeadDim = 256;
inline constexpr int kPad = 32;     // columns of a matrix on the device are a multiple of it, zeros added
inline constexpr int kGroup4 = 32;  // columns that share a scale in int4

inline constexpr int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

}  // namespace edge::cuda
