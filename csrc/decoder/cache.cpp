// SPDX-License-Identifier: Apache-2.0
#include "decoder/cache.h"

#include <cstring>
#include <vector>

namespace edge {
namespace {

// Longer keys than this go into their group one by one.
constexpr int64_t kMostTurned = 256;

template <class T>
void scatter(const T* row, T* group, int64_t column, int64_t head_dim) {
  for (int64_t d = 0; d < head_dim; ++d) group[d * kKeyGroup + column] = row[d];
}

}  // namespace

KvCache::KvCache(const DecoderSpec& spec, KvType type, int64_t keys)
    : type_(type),
      layers_(spec.layers),
      heads_(spec.heads),
      head_dim_(spec.head_dim),
      capacity_((keys + kKeyBlock - 1) / kKeyBlock * kKeyBlock),
      element_(type == KvType::f32   ? 4
               : type == KvType::f16 ? 2
                                     : 1) {
  const int64_t half = layers_ * heads_ * capacity_ * key_bytes();
  storage_ = Pages(static_cast<size_t>(2 * half));
  keys_ = storage_.data();
  values_ = keys_ + half;
}

std::byte* KvCache::block(std::byte* base, int64_t layer, int64_t head, int64_t index) const {
  return base + index * block_stride() + (layer * heads_ + head) * block_bytes();
}

float& KvCache::scale(std::byte* base, int64_t layer, int64_t head, int64_t key) const {
  std::byte* scales = block(base, layer, head, key / kKeyBlock) + kKeyBlock * head_dim_ * element_;
  return reinterpret_cast<float*>(scales)[key % kKeyBlock];
}

const void* KvCache::key_block(int64_t layer, int64_t head, int64_t index) const {
  return block(keys_, layer, head, index);
}

const void* KvCache::value_block(int64_t layer, int64_t head, int64_t index) const {
  return block(values_, layer, head, index);
}

void KvCache::store_keys(const Kernels& kernels, int64_t layer, int64_t head, int64_t first,
                         const float* rows, int64_t n, int64_t stride) {
  uint16_t half[4096];  // head_dim's upper bound in the spec
  int8_t small[4096];
  for (int64_t i = 0; i < n; ++i) {
    const int64_t key = first + i, column = key % kKeyGroup;
    const float* row = rows + i * stride;
    std::byte* group = block(keys_, layer, head, key / kKeyBlock) +
                       key % kKeyBlock / kKeyGroup * kKeyGroup * head_dim_ * element_;
    if (column == 0 && n - i >= kKeyGroup && head_dim_ <= kMostTurned) {
      float* scales = type_ == KvType::i8 ? &scale(keys_, layer, head, key) : nullptr;
      store_group(kernels, row, stride, group, scales);
      i += kKeyGroup - 1;
      continue;
    }
    switch (type_) {
      case KvType::f32:
        scatter(row, reinterpret_cast<float*>(group), column, head_dim_);
        break;
      case KvType::f16:
        kernels.to_half(row, half, head_dim_);
        scatter(half, reinterpret_cast<uint16_t*>(group), column, head_dim_);
        break;
      case KvType::i8:
        scale(keys_, layer, head, key) = kernels.to_int8(row, small, head_dim_);
        scatter(small, reinterpret_cast<int8_t*>(group), column, head_dim_);
        break;
    }
  }
}

void KvCache::store_group(const Kernels& kernels, const float* rows, int64_t stride, std::byte* group,
                          float* scales) const {
  static_assert(kKeyGroup * kMostTurned == 4096);
  alignas(64) uint16_t half[4096];
  alignas(64) int8_t small[4096];
  switch (type_) {
    case KvType::f32:
      return kernels.turn_words(reinterpret_cast<const int32_t*>(rows), stride, head_dim_,
                                reinterpret_cast<int32_t*>(group));
    case KvType::f16:
      for (int64_t i = 0; i < kKeyGroup; ++i)
        kernels.to_half(rows + i * stride, half + i * head_dim_, head_dim_);
      return kernels.turn_halves(half, head_dim_, head_dim_, reinterpret_cast<uint16_t*>(group));
    case KvType::i8:
      for (int64_t i = 0; i < kKeyGroup; ++i)
        scales[i] = kernels.to_int8(rows + i * stride, small + i * head_dim_, head_dim_);
      return kernels.turn_bytes(small, head_dim_, head_dim_, reinterpret_cast<int8_t*>(group));
  }
}

void KvCache::store_values(const Kernels& kernels, int64_t layer, int64_t head, int64_t first,
                           const float* rows, int64_t n, int64_t stride) {
  for (int64_t i = 0; i < n; ++i) {
    const int64_t key = first + i;
    const float* row = rows + i * stride;
    std::byte* to = block(values_, layer, head, key / kKeyBlock) + key % kKeyBlock * head_dim_ * element_;
    switch (type_) {
      case KvType::f32:
        std::memcpy(to, row, static_cast<size_t>(head_dim_) * sizeof(float));
        break;
      case KvType::f16:
        kernels.to_half(row, reinterpret_cast<uint16_t*>(to), head_dim_);
        break;
      case KvType::i8:
        scale(values_, layer, head, key) = kernels.to_int8(row, reinterpret_cast<int8_t*>(to), head_dim_);
        break;
    }
  }
}

void KvCache::store_from(const Kernels& kernels, const KvCache& other, int64_t layer, int64_t head,
                         int64_t begin, int64_t end) {
  float row[4096];
  for (int64_t key = begin; key < end; ++key) {
    const int64_t within = key % kKeyBlock, column = key % kKeyGroup;
    const auto* group = static_cast<const float*>(other.key_block(layer, head, key / kKeyBlock)) +
                        within / kKeyGroup * kKeyGroup * head_dim_;
    for (int64_t d = 0; d < head_dim_; ++d) row[d] = group[d * kKeyGroup + column];
    store_keys(kernels, layer, head, key, row, 1, head_dim_);
    const auto* values = static_cast<const float*>(other.value_block(layer, head, key / kKeyBlock));
    store_values(kernels, layer, head, key, values + within * head_dim_, 1, head_dim_);
  }
}

}  // namespace edge
