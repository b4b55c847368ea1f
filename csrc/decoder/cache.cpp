// SPDX-License-Identifier: Apache-2.0
#include "decoder/cache.h"

#include <cstring>
#include <new>
#include <vector>

namespace edge {
namespace {

constexpr int64_t kAlign = 64;

// Keys go into their group column by column.
template <class T>
void scatter(const T* row, T* group, int64_t column, int64_t head_dim) {
  for (int64_t d = 0; d < head_dim; ++d) group[d * kKeyGroup + column] = row[d];
}

}  // namespace

KvCache::KvCache(const DecoderSpec& spec, KvType type)
    : type_(type),
      layers_(spec.layers),
      heads_(spec.heads),
      head_dim_(spec.head_dim),
      capacity_((spec.max_positions + kKeyBlock - 1) / kKeyBlock * kKeyBlock),
      element_(type == KvType::f32 ? 4 : 2) {
  const int64_t half = layers_ * heads_ * capacity_ * head_dim_ * element_;
  // calloc: fresh zero pages, so rows never written cost no memory.
  storage_.reset(std::calloc(static_cast<size_t>(2 * half + kAlign), 1));
  if (!storage_) throw std::bad_alloc();
  const auto address = reinterpret_cast<uintptr_t>(storage_.get());
  keys_ = static_cast<std::byte*>(storage_.get()) + (kAlign - address % kAlign) % kAlign;
  values_ = keys_ + half;
}

std::byte* KvCache::at(std::byte* base, int64_t layer, int64_t head, int64_t key) const {
  return base + ((layer * heads_ + head) * capacity_ + key) * head_dim_ * element_;
}

const void* KvCache::key_block(int64_t layer, int64_t head, int64_t block) const {
  return at(keys_, layer, head, block * kKeyBlock);
}

const void* KvCache::value_block(int64_t layer, int64_t head, int64_t block) const {
  return at(values_, layer, head, block * kKeyBlock);
}

void KvCache::store_keys(const Kernels& kernels, int64_t layer, int64_t head, int64_t first,
                         const float* rows, int64_t n, int64_t stride) {
  uint16_t half[4096];  // head_dim's upper bound in the spec
  for (int64_t i = 0; i < n; ++i) {
    const int64_t key = first + i;
    std::byte* group = at(keys_, layer, head, key / kKeyGroup * kKeyGroup);
    if (type_ == KvType::f32) {
      scatter(rows + i * stride, reinterpret_cast<float*>(group), key % kKeyGroup, head_dim_);
    } else {
      kernels.to_half(rows + i * stride, half, head_dim_);
      scatter(half, reinterpret_cast<uint16_t*>(group), key % kKeyGroup, head_dim_);
    }
  }
}

void KvCache::store_values(const Kernels& kernels, int64_t layer, int64_t head, int64_t first,
                           const float* rows, int64_t n, int64_t stride) {
  for (int64_t i = 0; i < n; ++i) {
    std::byte* to = at(values_, layer, head, first + i);
    if (type_ == KvType::f32)
      std::memcpy(to, rows + i * stride, static_cast<size_t>(head_dim_) * sizeof(float));
    else
      kernels.to_half(rows + i * stride, reinterpret_cast<uint16_t*>(to), head_dim_);
  }
}

}  // namespace edge
