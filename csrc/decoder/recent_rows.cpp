// SPDX-License-Identifier: Apache-2.0
#include "decoder/recent_rows.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>

#include "decoder/counts.h"

namespace edge {
namespace {

constexpr int64_t kMostDims = 4096;                     // the spec's bound on head_dim
constexpr int64_t kMostTurned = kMostDims / kKeyGroup;  // longer keys go into their group one by one

// The largest sum of products of two rows stays inside 32 bits.
float levels_of(int64_t head_dim) {
  constexpr int64_t kSums = std::numeric_limits<int32_t>::max(), kMost = std::numeric_limits<int16_t>::max();
  const auto root = static_cast<int64_t>(std::sqrt(static_cast<double>(kSums / head_dim)));
  return static_cast<float>(std::min(root, kMost));
}

}  // namespace

FlashScratch::FlashScratch(int64_t rows, int64_t head_dim)
    : q(size_of(rows * 2 * flash_pairs(head_dim))),
      q_scale(size_of(rows)),
      sums(size_of(rows * flash_dims(head_dim))) {}

RecentRows::RecentRows(const DecoderSpec& spec, int64_t layers, int64_t keys)
    : heads_(spec.heads),
      head_dim_(spec.head_dim),
      blocks_((keys + kKeyBlock - 1) / kKeyBlock),
      bytes_(Flash16Block::bytes(spec.head_dim)),
      levels_(levels_of(spec.head_dim)),
      storage_(size_of(layers * spec.heads * blocks_ * bytes_)) {}

void RecentRows::store(const Kernels& kernels, int64_t layer, int64_t head, int64_t at, const float* keys,
                       const float* values, int64_t n, int64_t stride) {
  const int64_t pairs = flash_pairs(head_dim_), dims = flash_dims(head_dim_);
  alignas(64) std::array<int16_t, kMostDims> k;
  std::array<std::array<int16_t, kMostDims>, 2> v;
  int64_t turned = 0;  // keys of whole groups
  for (int64_t i = 0; i < n; ++i) {
    const int64_t key = at + i, row = key % kKeyBlock, column = row % kKeyGroup;
    const Flash16Block block(blocks(layer, head) + key / kKeyBlock * bytes_, head_dim_);
    int16_t* group = block.k + (row - column) * 2 * pairs;
    const auto round = [&](int64_t ahead, int16_t* to) {
      const float* from = keys + (i + ahead) * stride;
      block.key_scale[row + ahead] = kernels.to_int16(from, to, head_dim_, 2 * pairs, levels_);
    };
    if (column == 0 && n - i >= kKeyGroup && 2 * pairs <= kMostTurned) {
      for (int64_t other = 0; other < kKeyGroup; ++other) round(other, k.data() + other * 2 * pairs);
      kernels.turn_words(reinterpret_cast<const int32_t*>(k.data()), pairs, pairs,
                         reinterpret_cast<int32_t*>(group));
      turned = i + kKeyGroup;
    }
    if (i >= turned) {
      round(0, k.data());
      for (int64_t d = 0; d < pairs; ++d)
        std::memcpy(group + (d * kKeyGroup + column) * 2, k.data() + 2 * d, 2 * sizeof(int16_t));
    }
    auto& value = v[size_of(row % 2)];
    block.value_scale[row] = kernels.to_int16(values + i * stride, value.data(), head_dim_, dims,
                                              static_cast<float>(kValueLevels));
    if (row % 2 == 0 && i + 1 < n) continue;
    if (row % 2 == 0) std::fill_n(v[1].data(), dims, int16_t{0});
    int16_t* to = block.v + row / 2 * 2 * dims;
    for (int64_t d = 0; d < dims; ++d) {
      to[2 * d] = v[0][size_of(d)];
      to[2 * d + 1] = v[1][size_of(d)];
    }
  }
}

void RecentRows::attend(const Kernels& kernels, int64_t layer, int64_t head, const float* q, int64_t q_stride,
                        int64_t first, int64_t n, const float* bias, float scale, float* out,
                        int64_t out_stride, FlashScratch& own) const {
  const int64_t width = 2 * flash_pairs(head_dim_);
  for (int64_t r = 0; r < n; ++r)
    own.q_scale[size_of(r)] =
        scale * kernels.to_int16(q + r * q_stride, own.q.data() + r * width, head_dim_, width, levels_);
  kernels.flash16({.q = own.q.data(),
                   .q_scale = own.q_scale.data(),
                   .blocks = blocks(layer, head),
                   .bias = bias,
                   .sums = own.sums.data(),
                   .out = out,
                   .rows = n,
                   .head_dim = head_dim_,
                   .first_key = first,
                   .block_stride = bytes_,
                   .out_stride = out_stride});
}

void RecentRows::add_value(int64_t layer, int64_t head, int64_t key, double* sum) const {
  const int64_t row = key % kKeyBlock;
  const Flash16Block block(blocks(layer, head) + key / kKeyBlock * bytes_, head_dim_);
  const int16_t* v = block.v + row / 2 * 2 * flash_dims(head_dim_) + row % 2;
  for (int64_t d = 0; d < head_dim_; ++d)
    sum[d] += static_cast<double>(static_cast<float>(v[2 * d]) * block.value_scale[row]);
}

}  // namespace edge
