// SPDX-License-Identifier: Apache-2.0
// The KV cache: keys and values of every layer and head, the prefix first, then one row per text token.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/kernels.h"
#include "cpu/pages.h"
#include "decoder/spec.h"

namespace edge {

enum class KvType { f32, f16, i8 };

// Blocks of kKeyBlock keys as [groups][head_dim][kKeyGroup] and of values as [kKeyBlock][head_dim]; an int8
// block is followed by its keys' (or values') scales, one per position. The first blocks of all layers and
// heads lie together, then the second ones: memory is reserved for all keys but only touched as rows arrive.
class KvCache {
 public:
  // For so many keys per layer and head.
  KvCache(const DecoderSpec& spec, KvType type, int64_t keys);

  KvType type() const { return type_; }
  // `keys` rounded up to whole key blocks.
  int64_t capacity() const { return capacity_; }
  // Bytes that a decode step with `keys` cached keys reads.
  int64_t bytes(int64_t keys) const { return layers_ * heads_ * keys * 2 * key_bytes(); }

  // Bytes of one block of keys, or of values.
  int64_t block_bytes() const { return kKeyBlock * key_bytes(); }
  // From one block of a layer and head to its next, in bytes.
  int64_t block_stride() const { return layers_ * heads_ * block_bytes(); }
  const void* key_block(int64_t layer, int64_t head, int64_t block) const;
  const void* value_block(int64_t layer, int64_t head, int64_t block) const;

  // Stores n consecutive rows [n, head_dim] with a row stride, from key index `at` on.
  void store_keys(const Kernels& kernels, int64_t layer, int64_t head, int64_t at, const float* rows,
                  int64_t n, int64_t stride);
  void store_values(const Kernels& kernels, int64_t layer, int64_t head, int64_t at, const float* rows,
                    int64_t n, int64_t stride);

  // Stores the keys and values [begin, end) of a float32 cache.
  void store_from(const Kernels& kernels, const KvCache& other, int64_t layer, int64_t head, int64_t begin,
                  int64_t end);

  void attend(const Kernels& kernels, const AttendArgs& args) const {
    (type_ == KvType::f32   ? kernels.attend_f32
     : type_ == KvType::f16 ? kernels.attend_f16
                            : kernels.attend_i8)(args);
  }

 private:
  // Of one key or value, with its scale.
  int64_t key_bytes() const {
    return head_dim_ * element_ + (type_ == KvType::i8 ? static_cast<int64_t>(sizeof(float)) : 0);
  }
  // A whole group of keys; `scales` of theirs only in int8.
  void store_group(const Kernels& kernels, const float* rows, int64_t stride, std::byte* group,
                   float* scales) const;
  std::byte* block(std::byte* base, int64_t layer, int64_t head, int64_t index) const;
  float& scale(std::byte* base, int64_t layer, int64_t head, int64_t key) const;

  KvType type_;
  int64_t layers_, heads_, head_dim_, capacity_, element_;
  Pages storage_;
  std::byte* keys_ = nullptr;
  std::byte* values_ = nullptr;
};

}  // namespace edge
