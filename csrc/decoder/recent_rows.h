// SPDX-License-Identifier: Apache-2.0
// Keys and values of the layers that a prefill is at, in 16-bit integers (cpu/kernels_flash16.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "cpu/kernels.h"
#include "cpu/pages.h"
#include "decoder/spec.h"

namespace edge {

// Queries of a block of rows as the attention takes them, and its working space.
struct FlashScratch {
  FlashScratch(int64_t rows, int64_t head_dim);

  std::vector<int16_t> q;      // [rows, whole pairs]
  std::vector<float> q_scale;  // [rows]
  std::vector<float> sums;     // [rows, flash_dims]
};

class RecentRows {
 public:
  // For so many layers and keys.
  RecentRows(const DecoderSpec& spec, int64_t layers, int64_t keys);

  // Stores n consecutive rows [n, head_dim] with a row stride, from key index `at` on, an even one.
  void store(const Kernels& kernels, int64_t layer, int64_t head, int64_t at, const float* keys,
             const float* values, int64_t n, int64_t stride);
  // Attention of n rows of one head, `first` the first one's own key.
  void attend(const Kernels& kernels, int64_t layer, int64_t head, const float* q, int64_t q_stride,
              int64_t first, int64_t n, const float* bias, float scale, float* out, int64_t out_stride,
              FlashScratch& own) const;
  // sum[d] += the value of a key.
  void add_value(int64_t layer, int64_t head, int64_t key, double* sum) const;

 private:
  std::byte* blocks(int64_t layer, int64_t head) const {
    return storage_.data() + (layer * heads_ + head) * blocks_ * bytes_;
  }

  int64_t heads_, head_dim_, blocks_, bytes_;
  float levels_;  // of queries and keys
  Pages storage_;
};

}  // namespace edge
