// SPDX-License-Identifier: Apache-2.0
// The prefill: all rows of the image prefix through all layers, many rows at a time, and the logits of the
// last one.
//
// Rows are cut into blocks. A block goes through a layer in one piece - attention, output, MLP, and the next
// layer's keys, values and queries - so that what it computes stays in its thread's cache. The only thing a
// block needs from others are the keys and values of the rows before it; so blocks of one layer and the next
// are taken in order by whoever is free, and no thread waits at the end of a layer. Weights are laid out in
// panels (see cpu/kernels_gemm.h) one layer ahead, which is part of the same list of tasks.
//
// Results depend neither on the number of threads nor on the size of a block: sums of integers are exact,
// those of floats take their columns, or their keys, in one fixed order.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "cpu/kernels.h"
#include "cpu/pages.h"
#include "cpu/thread_pool.h"
#include "decoder/cache.h"
#include "decoder/panels.h"
#include "decoder/recent_rows.h"
#include "decoder/spec.h"
#include "decoder/weights.h"

namespace edge {

struct PrefillRows {
  const float* embeddings = nullptr;  // [length, hidden], without positions
  int64_t length = 0;
  // [layers, bias_stride] added to the scores of the keys, or null.
  const float* key_bias = nullptr;
  int64_t bias_stride = 0;
  // Attention in 16-bit integers, not in float32.
  bool integers = false;
};

class Prefill {
 public:
  // Keys and values [n, hidden] (row stride `stride`) of the rows from `at` on, once per layer and block, on
  // the pool's threads.
  using Sink = std::function<void(int64_t layer, int64_t at, int64_t n, const float* keys,
                                  const float* values, int64_t stride)>;

  Prefill(const DecoderSpec& spec, const Weights& weights, const Kernels& kernels, ThreadPool& pool);
  ~Prefill();

  // `cache`, where it is there, is one in float32 that the sink fills with all keys and values, and that
  // attention in float32 reads.
  void run(const PrefillRows& rows, const KvCache* cache, const Sink& sink, float* logits);

 private:
  struct Scratch;
  struct Task {
    enum Kind { pack, block } kind;
    int64_t stage, index;
  };

  void plan_tasks();
  void pack(const Task& task);
  void advance(const Task& task, Scratch& own);
  void attend(int64_t layer, int64_t first, int64_t n, Scratch& own);
  void look(int64_t layer, int64_t head, const float* q, int64_t first, int64_t n, float* out,
            Scratch& own) const;
  void attend_blind(int64_t layer, int64_t head, int64_t first, int64_t n, float* out, Scratch& own) const;
  void finish(int thread, float* logits);
  void set_bias(const PrefillRows& rows);
  void wait(const Task& task);

  const DecoderSpec& spec_;
  const Weights& weights_;
  const Kernels& kernels_;
  ThreadPool& pool_;

  int64_t block_rows_ = 0, blocks_ = 0;
  std::vector<Task> tasks_;
  std::atomic<size_t> next_task_{0};
  std::vector<std::atomic<bool>> block_done_;      // [stages, blocks]
  std::vector<std::atomic<int64_t>> blocks_done_;  // [stages]
  std::vector<std::atomic<int64_t>> packs_done_;   // [stages]

  std::vector<Panels> panels_;         // [stages, matrices of a stage]
  std::array<Pages, 2> panel_memory_;  // of even and odd stages
  // Of a few layers: for attention in float32 where there is no cache to read, and for that in integers.
  std::unique_ptr<KvCache> recent_;
  std::unique_ptr<RecentRows> recent16_;
  std::vector<std::unique_ptr<Scratch>> scratch_;  // [threads]
  std::vector<float> x_, queries_;                 // [length, hidden]
  std::vector<float> bias_;                        // [layers, whole key blocks]
  std::vector<int64_t> first_seen_;  // [layers] first key that is not hidden: rows before it see none

  PrefillRows rows_;
  const KvCache* cache_ = nullptr;
  const Sink* sink_ = nullptr;
  // Of the last row.
  std::vector<float> last_, query_, mlp_, attended_;
};

}  // namespace edge
