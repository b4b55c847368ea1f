// SPDX-License-Identifier: Apache-2.0
#include "decoder/lane.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "decoder/counts.h"

namespace edge {

Lane::Lane(const DecoderSpec& spec, KvType kv)
    : cache(spec, kv, spec.max_positions),
      cross_cache(spec, kv, spec.cross_keys),
      spec_(spec),
      cross_(spec.has_cross()),
      kept_(size_of(spec.layers)),
      kept_at_(size_of(spec.layers)) {}

void Lane::begin(int64_t length, const float* key_bias, int64_t bias_length, bool drop_hidden) {
  image_rows_ = length;
  sketched_ = false;
  rewind(0);
  kept_.assign(size_of(spec_.layers), length);
  kept_at_.assign(size_of(spec_.layers), {});
  for (int64_t l = 0; l < spec_.layers && key_bias && drop_hidden && !cross_; ++l) {
    std::vector<int64_t>& kept = kept_at_[size_of(l)];
    for (int64_t j = 0; j < length; ++j)
      if (key_bias[l * bias_length + j] > std::numeric_limits<float>::lowest()) kept.push_back(j);
    kept_[size_of(l)] = std::ssize(kept);
    if (std::ssize(kept) == length) kept.clear();
  }
  biases_text_ = key_bias && bias_length > length;
  const int64_t capacity = image_cache().capacity();
  key_bias_.assign(key_bias ? size_of(spec_.layers * capacity) : 0, 0.0f);
  for (int64_t l = 0; l < spec_.layers && key_bias; ++l) {
    const float* from = key_bias + l * bias_length;
    auto to = key_bias_.begin() + l * capacity;
    if (kept_[size_of(l)] == length)
      to = std::copy_n(from, length, to);
    else
      for (const int64_t at : kept_at_[size_of(l)]) *to++ = from[at];
    std::copy(from + length, from + bias_length, to);
  }
}

void Lane::store(const Kernels& kernels, int64_t layer, int64_t head, int64_t at, const float* keys,
                 const float* values, int64_t n, int64_t stride) {
  KvCache& to = image_cache();
  if (kept_[size_of(layer)] == image_rows_) {
    to.store_keys(kernels, layer, head, at, keys, n, stride);
    to.store_values(kernels, layer, head, at, values, n, stride);
    return;
  }
  const std::vector<int64_t>& kept = kept_at_[size_of(layer)];
  for (auto i = std::lower_bound(kept.begin(), kept.end(), at); i != kept.end() && *i < at + n; ++i) {
    to.store_keys(kernels, layer, head, i - kept.begin(), keys + (*i - at) * stride, 1, stride);
    to.store_values(kernels, layer, head, i - kept.begin(), values + (*i - at) * stride, 1, stride);
  }
}

void Lane::rewind(int64_t n) { text_.resize(size_of(n)); }

int64_t Lane::matching_rows(std::span<const int32_t> ids, bool bias) const {
  size_t n = 0;
  while (n < ids.size() && n < text_.size() && text_[n].id == ids[n] && text_[n].bias == bias) ++n;
  return static_cast<int64_t>(n);
}

void Lane::add_text(std::span<const int32_t> ids, bool bias) {
  for (const int32_t id : ids) text_.push_back({id, bias});
}

std::vector<int32_t> Lane::text_ids() const {
  std::vector<int32_t> ids;
  for (const TextRow& row : text_) ids.push_back(row.id);
  return ids;
}

void Lane::reserve_branches(int64_t slots) {
  if (branch_cache && branch_cache->capacity() >= slots) return;
  branch_cache = std::make_unique<KvCache>(spec_, cache.type(), slots);
}

void Lane::open_sketch() {
  if (!sketch_cache_ && cache.type() == KvType::f32) {
    auto own = std::make_unique<KvCache>(spec_, KvType::i8, spec_.max_positions);
    sketch_cross_cache_ = std::make_unique<KvCache>(spec_, KvType::i8, spec_.cross_keys);
    sketch_cache_ = std::move(own);
  }
  sketched_ = true;
}

void Lane::round_for_sketch(const Kernels& kernels, int64_t layer, int64_t head) {
  if (!sketch_cache_) return;
  if (cross_) sketch_cross_cache_->store_from(kernels, cross_cache, layer, head, 0, kept(layer));
  sketch_cache_->store_from(kernels, cache, layer, head, 0, own_keys(layer));
}

int64_t Lane::kept_keys() const { return std::accumulate(kept_.begin(), kept_.end(), int64_t{0}); }

const int64_t* Lane::kept_at(int64_t layer) const {
  return kept(layer) == image_rows_ ? nullptr : kept_at_[size_of(layer)].data();
}

bool Lane::needs_bias() const { return kept_keys() < spec_.layers * image_rows_; }

const float* Lane::key_bias(int64_t layer) const {
  return key_bias_.empty() ? nullptr : key_bias_.data() + layer * image_cache().capacity();
}

int64_t Lane::most_blocks() const {
  const int64_t own = cache.capacity() + (branch_cache ? branch_cache->capacity() : 0);
  return std::max(own, cross_cache.capacity()) / kKeyBlock;
}

}  // namespace edge
