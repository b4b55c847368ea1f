// SPDX-License-Identifier: Apache-2.0
// The transformer's attention: which blocks of keys there are, and what a member of the team makes of them.
#include <algorithm>
#include <cmath>

#include "decoder/transformer_team.h"

namespace edge {

int64_t Transformer::tasks(bool cross, int64_t layer) const {
  int64_t blocks = 0;
  for (const Part& part : parts_) blocks += key_blocks(cross, layer, part, part.rows - 1);
  return spec_.heads * blocks;
}

Transformer::Task Transformer::task_at(bool cross, int64_t layer, int64_t index) const {
  for (size_t p = 0;; ++p) {
    const int64_t blocks = key_blocks(cross, layer, parts_[p], parts_[p].rows - 1);
    if (index < spec_.heads * blocks || p + 1 == parts_.size())
      return {p, index / blocks, index % blocks, blocks};
    index -= spec_.heads * blocks;
  }
}

Transformer::Task Transformer::following(const Task& task, bool cross, int64_t layer) const {
  if (task.block + 1 < task.blocks) return {task.part, task.head, task.block + 1, task.blocks};
  if (task.head + 1 < spec_.heads) return {task.part, task.head + 1, 0, task.blocks};
  const Part& part = parts_[task.part + 1];
  return {task.part + 1, 0, 0, key_blocks(cross, layer, part, part.rows - 1)};
}

// Before anybody attends: blocks that are still to come of each head of each part.
void Transformer::count_blocks(bool cross, int64_t layer) {
  for (size_t p = 0; p < parts_.size(); ++p)
    for (int64_t h = 0; h < spec_.heads; ++h)
      blocks_left_[p * size_of(spec_.heads) + size_of(h)].store(
          key_blocks(cross, layer, parts_[p], parts_[p].rows - 1), std::memory_order_relaxed);
}

const void* Transformer::keys_at(bool cross, int64_t layer, const Task& task) const {
  const auto [cache, at] = block_at(cross, layer, parts_[task.part], task.block);
  return cache->key_block(layer, task.head, at);
}

const void* Transformer::keys_of(bool cross, int64_t layer, int64_t index) const {
  return keys_at(cross, layer, task_at(cross, layer, index));
}

// Blocks that hold earlier keys only change in the lines that this step writes.
void Transformer::expect_cache(int thread, bool cross, int64_t layer) {
  const auto [begin, end] = own_units(thread, tasks(cross, layer));
  for (int64_t index = begin; index < end; ++index) {
    const Task task = task_at(cross, layer, index);
    const auto [cache, at] = block_at(cross, layer, parts_[task.part], task.block);
    pool_.expect(thread, cache->key_block(layer, task.head, at), cache->block_bytes());
    pool_.expect(thread, cache->value_block(layer, task.head, at), cache->block_bytes());
  }
}

int64_t Transformer::key_blocks(bool cross, int64_t layer, const Part& part, int64_t row) const {
  if (cross) return part.lane->image_blocks(layer);
  if (const Branches* branches = part.step->branches)
    return shared_blocks(layer, part) + (branches->used + kKeyBlock - 1) / kKeyBlock;
  return (part.lane->own_keys(layer) + row + kKeyBlock) / kKeyBlock;
}

std::pair<const KvCache*, int64_t> Transformer::block_at(bool cross, int64_t layer, const Part& part,
                                                         int64_t block) const {
  if (sketching_) return {cross ? &part.lane->sketch_cross_cache() : &part.lane->sketch_cache(), block};
  if (cross) return {&part.lane->cross_cache, block};
  if (!part.step->branches || block < shared_blocks(layer, part)) return {&part.lane->cache, block};
  return {part.lane->branch_cache.get(), block - shared_blocks(layer, part)};
}

bool Transformer::gathers_evidence(int64_t layer, const Step& step) const {
  return step.evidence && is_evidence_layer_[size_of(layer)];
}

// Units are the key blocks of one head after the other, part by part.
void Transformer::attend(bool cross, int64_t layer, int64_t begin, int64_t end, const void* after) {
  const int64_t heads = spec_.heads, head_dim = spec_.head_dim;
  const bool image = cross == spec_.has_cross();  // the image is among the keys
  const float* bias[kMaxRows] = {};
  int64_t counts[kMaxRows];
  int64_t finished = 0;  // blocks of the head at work
  Task task = task_at(cross, layer, begin);
  for (int64_t index = begin; index < end; ++index) {
    const Part& part = parts_[task.part];
    const Step& step = *part.step;
    const int64_t keys = part.lane->own_keys(layer);
    const auto [cache, place] = block_at(cross, layer, part, task.block);
    const bool branch = cache == part.lane->branch_cache.get();
    const int64_t first = place * kKeyBlock;
    const float* key_bias = image && step.bias ? part.lane->key_bias(layer) : nullptr;
    for (int64_t r = 0; r < part.rows; ++r) {
      const int64_t seen = cross           ? part.lane->image_rows()
                           : branch        ? step.branches->used
                           : step.branches ? keys
                                           : keys + r + 1;
      counts[r] = std::clamp<int64_t>(seen - first, 0, kKeyBlock);
      bias[r] = branch     ? step.branches->mask + r * step.branches->mask_stride + first
                : key_bias ? key_bias + first
                           : nullptr;
    }
    const int64_t head = part.first * heads + task.head;  // of all rows
    const int64_t at = head * max_blocks_ + task.block;
    const bool mass = image && task.block < part.lane->image_blocks(layer) && gathers_evidence(layer, step);
    const bool last_of_head = task.block + 1 == task.blocks;
    const Task next = index + 1 < end ? following(task, cross, layer) : task;
    cache->attend(kernels_,
                  {.q = qkv_.data() + part.first * 3 * spec_.hidden + task.head * head_dim,
                   .k = cache->key_block(layer, task.head, place),
                   .v = cache->value_block(layer, task.head, place),
                   .bias = bias,
                   .counts = counts,
                   .m = max_.data() + at,
                   .l = sum_.data() + at,
                   .acc = partial_.data() + at * head_dim,
                   .p = mass ? mass_.data() + (head * mass_blocks_ + task.block) * kKeyBlock : nullptr,
                   .rows = part.rows,
                   .head_dim = head_dim,
                   .q_stride = 3 * spec_.hidden,
                   .stat_stride = heads * max_blocks_,
                   .acc_stride = heads * max_blocks_ * head_dim,
                   .p_stride = heads * mass_blocks_ * kKeyBlock,
                   .scale = 1.0f / std::sqrt(static_cast<float>(head_dim)),
                   .next = index + 1 < end ? keys_at(cross, layer, next) : after});
    // Whoever finishes the last block of a head joins them.
    ++finished;
    if (index + 1 == end || last_of_head) {
      auto& left = blocks_left_[task.part * size_of(heads) + size_of(task.head)];
      if (left.fetch_sub(finished, std::memory_order_acq_rel) == finished)
        join(cross, layer, task.part, task.head);
      finished = 0;
    }
    task = next;
  }
}

void Transformer::join(bool cross, int64_t layer, size_t index, int64_t head) {
  const Part& part = parts_[index];
  for (int64_t r = 0; r < part.rows; ++r) {
    const int64_t row = part.first + r, at = (row * spec_.heads + head) * max_blocks_;
    kernels_.attend_join(max_.data() + at, sum_.data() + at, partial_.data() + at * spec_.head_dim,
                         key_blocks(cross, layer, part, r), spec_.head_dim, factors_.data() + at,
                         attended_.data() + row * spec_.hidden + head * spec_.head_dim);
  }
}

void Transformer::gather_evidence(int thread, int64_t layer) {
  for (const Part& part : parts_)
    if (gathers_evidence(layer, *part.step)) gather_evidence(thread, layer, part);
}

// Each thread sums its own blocks of prefix keys over the heads, in head order.
void Transformer::gather_evidence(int thread, int64_t layer, const Part& part) {
  const Step& step = *part.step;
  const int64_t heads = spec_.heads, image_rows = part.lane->image_rows(), kept = part.lane->kept(layer);
  const int64_t blocks = part.lane->image_blocks(layer);
  const int64_t* kept_at = part.lane->kept_at(layer);
  const auto [begin, end] = share(blocks, thread, pool_.team());
  const float mean = 1.0f / static_cast<float>(heads * static_cast<int64_t>(evidence_layers_.size()));
  for (int64_t r = step.logits_from; r < part.rows; ++r)
    for (int64_t b = begin; b < end; ++b) {
      float* row = step.evidence + (r - step.logits_from) * image_rows;
      const int64_t n = std::min(kKeyBlock, kept - b * kKeyBlock);
      // Keys that are left out lie between the others: then the block is gathered apart.
      float block[kKeyBlock];
      float* out = kept_at ? block : row + b * kKeyBlock;
      const int64_t* at = kept_at ? kept_at + b * kKeyBlock : nullptr;
      for (int64_t i = 0; at && i < n; ++i) block[i] = row[at[i]];
      for (int64_t h = 0; h < heads; ++h) {
        const int64_t head = (part.first + r) * heads + h;
        kernels_.axpy(mass_.data() + (head * mass_blocks_ + b) * kKeyBlock,
                      factors_[size_of(head * max_blocks_ + b)] * mean, out, n);
      }
      for (int64_t i = 0; at && i < n; ++i) row[at[i]] = block[i];
    }
}

}  // namespace edge
