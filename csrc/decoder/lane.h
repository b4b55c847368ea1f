// SPDX-License-Identifier: Apache-2.0
// One film in the network: keys and values of its image and of its text. Rows of several lanes share a pass
// over the weights.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "decoder/cache.h"
#include "decoder/spec.h"

namespace edge {

class Lane {
 public:
  Lane(const DecoderSpec& spec, KvType kv);

  // Forgets image and text: an image of so many keys is going to be stored. For the bias and `drop_hidden`
  // see Prefix.
  void begin(int64_t length, const float* key_bias, int64_t bias_length, bool drop_hidden);
  // Puts n of the image's rows, from row `at` on, into the cache, but for those that are left out.
  void store(const Kernels& kernels, int64_t layer, int64_t head, int64_t at, const float* keys,
             const float* values, int64_t n, int64_t stride);
  // Drops the text rows after the first n.
  void rewind(int64_t n);
  // How many leading text rows are those of `ids` with this bias: a row does not depend on how it was
  // appended.
  int64_t matching_rows(std::span<const int32_t> ids, bool bias) const;
  void add_text(std::span<const int32_t> ids, bool bias);
  // Makes room for so many slots of branches.
  void reserve_branches(int64_t slots);
  // What a sketch attends to: the caches in int8 where they are float32, else the caches themselves, behind
  // the text. Rounded once for each film; rows that are appended later go into both.
  void open_sketch();
  void round_for_sketch(const Kernels& kernels, int64_t layer, int64_t head);
  bool sketched() const { return sketched_; }
  bool has_own_sketch() const { return sketched_ && sketch_cache_; }

  // Rows of the prefix before the text; 0 where a cross-attention reads the image.
  int64_t prefix_rows() const { return cross_ ? 0 : image_rows_; }
  // Keys of the image: the prefix, or those of the cross-attention.
  int64_t image_rows() const { return image_rows_; }
  int64_t text_rows() const { return std::ssize(text_); }
  std::vector<int32_t> text_ids() const;
  // Image keys in the cache: of a layer, and of all together.
  int64_t kept(int64_t layer) const { return kept_[static_cast<size_t>(layer)]; }
  int64_t kept_keys() const;
  // Their positions, or null where all were kept.
  const int64_t* kept_at(int64_t layer) const;
  // Whether keys were left out that a row without the bias would see.
  bool needs_bias() const;
  // Whether the key bias goes on behind the prefix.
  bool biases_text() const { return biases_text_; }
  // Keys of prefix and text of a layer.
  int64_t own_keys(int64_t layer) const { return (cross_ ? 0 : kept(layer)) + text_rows(); }
  int64_t image_blocks(int64_t layer) const { return (kept(layer) + kKeyBlock - 1) / kKeyBlock; }
  // The bias of the image's keys in a layer [capacity of the image's cache], or null.
  const float* key_bias(int64_t layer) const;
  // Key blocks that a row's scores may have.
  int64_t most_blocks() const;

  KvCache cache;
  KvCache cross_cache;  // empty where the image is a prefix
  std::unique_ptr<KvCache> branch_cache;
  KvCache& image_cache() { return cross_ ? cross_cache : cache; }
  const KvCache& image_cache() const { return cross_ ? cross_cache : cache; }
  KvCache& sketch_cache() { return sketch_cache_ ? *sketch_cache_ : cache; }
  const KvCache& sketch_cross_cache() const {
    return sketch_cross_cache_ ? *sketch_cross_cache_ : cross_cache;
  }

 private:
  struct TextRow {
    int32_t id;
    bool bias;
  };

  const DecoderSpec& spec_;
  bool cross_;
  int64_t image_rows_ = 0;
  std::vector<int64_t> kept_;                  // [layers]
  std::vector<std::vector<int64_t>> kept_at_;  // [layers]
  std::vector<TextRow> text_;
  std::unique_ptr<KvCache> sketch_cache_, sketch_cross_cache_;
  bool sketched_ = false;
  bool biases_text_ = false;
  // [layers, capacity of the image's cache], zero beyond its length; empty: no bias
  std::vector<float> key_bias_;
};

}  // namespace edge
