// SPDX-License-Identifier: Apache-2.0
#include "decoder/prefill.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <thread>

#include "cpu/relax.h"
#include "decoder/counts.h"

namespace edge {
namespace {

constexpr float kHidden = std::numeric_limits<float>::lowest();
// Rows of a block at most: its activations fit into a second-level cache, and each panel of weights that
// comes from the third is used for so many rows.
constexpr int64_t kBlockRows = 48;
static_assert(kBlockRows % kKeyGroup == 0 && kBlockRows <= kFlashRowsAtMost);
// Blocks per thread and layer, where the prefix is short.
constexpr int64_t kBlocksPerThread = 5;
// Tasks that lay out the weights of a layer.
constexpr int64_t kPacks = 16;
// Layers whose keys and values are kept: a layer's are written while blocks behind still read the layer
// before the last.
constexpr int64_t kRecent = 3;
constexpr int kLooksPerYield = 2000;

enum { kAttnOut, kMlpIn, kMlpOut, kQkv, kMatrices };

// From one wide row of a block to the next, in floats: a line more than whole ones, or the rows of a block
// would meet in a few sets of the first cache.
int64_t wide_stride(int64_t cols) { return whole(cols, 16) + 16; }

template <class Done>
void wait_until(Done done) {
  for (int looks = 0; !done(); ++looks) {
    relax();
    if (looks >= kLooksPerYield) std::this_thread::yield();
  }
}

}  // namespace

// Working space of one thread.
struct Prefill::Scratch {
  Scratch(const DecoderSpec& spec, int64_t rows, const Kernels& kernels)
      : wide(size_of(rows * wide_stride(std::max(3 * spec.hidden, spec.mlp)))),
        narrow(size_of(rows * spec.hidden)),
        product(rows, std::max(spec.hidden, spec.mlp), kernels),
        flash(rows, spec.head_dim),
        sum(size_of(spec.head_dim)) {}

  std::vector<float> wide, narrow;
  PanelScratch product;
  FlashScratch flash;
  std::vector<double> sum;  // of values
};

Prefill::Prefill(const DecoderSpec& spec, const Weights& weights, const Kernels& kernels, ThreadPool& pool)
    : spec_(spec),
      weights_(weights),
      kernels_(kernels),
      pool_(pool),
      blocks_done_(size_of(spec.layers)),
      packs_done_(size_of(spec.layers)),
      panels_(size_of(spec.layers * kMatrices)) {
  int64_t most = 0;
  for (int64_t stage = 0; stage < spec.layers; ++stage) {
    Panels* panels = panels_.data() + stage * kMatrices;
    int64_t bytes = 0;
    for (int64_t i = stage ? 0 : kQkv; i < kMatrices; ++i) {
      const auto& layer = weights.layers[size_of(i == kQkv ? stage : stage - 1)].prefill;
      const Matrix* all[kMatrices] = {&layer.attn_out, &layer.mlp_in, &layer.mlp_out, &layer.qkv};
      panels[i] = Panels(*all[i], kernels);
      bytes += panels[i].bytes();
    }
    most = std::max(most, bytes);
  }
  for (Pages& memory : panel_memory_) memory = Pages(size_of(most));
  for (int64_t stage = 0; stage < spec.layers; ++stage) {
    std::byte* at = panel_memory_[size_of(stage % 2)].data();
    for (int64_t i = 0; i < kMatrices; ++i) {
      Panels& panels = panels_[size_of(stage * kMatrices + i)];
      panels.place(at);
      at += panels.bytes();
    }
  }
  for (int i = 0; i < pool.size(); ++i)
    scratch_.push_back(std::make_unique<Scratch>(spec, kBlockRows, kernels));
  last_.resize(size_of(spec.hidden));
  query_.resize(last_.size());
  attended_.resize(last_.size());
  mlp_.resize(size_of(spec.mlp));
}

Prefill::~Prefill() = default;

void Prefill::run(const PrefillRows& rows, const KvCache* cache, const Sink& sink, float* logits) {
  rows_ = rows, cache_ = cache, sink_ = &sink;
  const int64_t size = rows.length * spec_.hidden;
  x_.resize(size_of(size));
  queries_.resize(size_of(size));
  DecoderSpec few = spec_;
  few.layers = std::min(kRecent, spec_.layers);
  if (rows.integers && !recent16_)
    recent16_ = std::make_unique<RecentRows>(spec_, few.layers, spec_.max_positions);
  else if (!rows.integers && !cache && !recent_)
    recent_ = std::make_unique<KvCache>(few, KvType::f32, spec_.max_positions);
  set_bias(rows);
  plan_tasks();
  pool_.run_whole([&](int thread) {
    for (;;) {
      const size_t i = next_task_.fetch_add(1, std::memory_order_relaxed);
      if (i >= tasks_.size()) break;
      const Task& task = tasks_[i];
      wait(task);
      if (task.kind == Task::pack)
        pack(task);
      else
        advance(task, *scratch_[size_of(thread)]);
    }
    pool_.barrier(thread);
    finish(thread, logits);
  });
  cache_ = nullptr, sink_ = nullptr;
}

// Short prefixes are cut finer, or some threads would have nothing to do. Blocks are whole groups of keys:
// nobody reads a group that somebody writes.
void Prefill::plan_tasks() {
  const int64_t even =
      (rows_.length + pool_.size() * kBlocksPerThread - 1) / (pool_.size() * kBlocksPerThread);
  block_rows_ = std::min(whole(even, kKeyGroup), kBlockRows);
  blocks_ = (rows_.length + block_rows_ - 1) / block_rows_;
  const size_t flags = size_of(spec_.layers * blocks_);
  if (block_done_.size() != flags) block_done_ = std::vector<std::atomic<bool>>(flags);
  for (auto& done : block_done_) done.store(false, std::memory_order_relaxed);
  for (auto& done : blocks_done_) done.store(0, std::memory_order_relaxed);
  for (auto& done : packs_done_) done.store(0, std::memory_order_relaxed);
  next_task_.store(0, std::memory_order_relaxed);
  tasks_.clear();
  const auto add_packs = [&](int64_t stage) {
    for (int64_t i = 0; stage < spec_.layers && i < kPacks; ++i) tasks_.push_back({Task::pack, stage, i});
  };
  add_packs(0);
  for (int64_t stage = 0; stage < spec_.layers; ++stage)
    for (int64_t b = 0; b < blocks_; ++b) {
      tasks_.push_back({Task::block, stage, b});
      if (b == blocks_ / 2) add_packs(stage + 1);
    }
}

// Everything waited for comes earlier in the list, so somebody is at work on it.
void Prefill::wait(const Task& task) {
  const auto all = [&](int64_t stage) {
    if (stage < 0) return;
    const auto& done = blocks_done_[size_of(stage)];
    wait_until([&] { return done.load(std::memory_order_acquire) == blocks_; });
  };
  if (task.kind == Task::pack) return all(task.stage - 2);  // the same memory's last users
  const auto& packs = packs_done_[size_of(task.stage)];
  wait_until([&] { return packs.load(std::memory_order_acquire) == kPacks; });
  if (task.stage == 0) return;
  all(task.stage - 2);  // readers of the keys that this stage overwrites
  const bool blind = task.index * block_rows_ < first_seen_[size_of(task.stage - 1)];
  if (blind) return all(task.stage - 1);
  for (int64_t b = 0; b <= task.index; ++b) {
    const auto& done = block_done_[size_of((task.stage - 1) * blocks_ + b)];
    wait_until([&] { return done.load(std::memory_order_acquire); });
  }
}

void Prefill::set_bias(const PrefillRows& rows) {
  const int64_t stride = whole(rows.length, kKeyBlock);
  first_seen_.assign(size_of(spec_.layers), 0);
  bias_.assign(rows.key_bias ? size_of(spec_.layers * stride) : 0, 0.0f);
  for (int64_t l = 0; l < spec_.layers && rows.key_bias; ++l) {
    const float* from = rows.key_bias + l * rows.bias_stride;
    std::copy_n(from, rows.length, bias_.data() + l * stride);
    while (first_seen_[size_of(l)] < rows.length && from[first_seen_[size_of(l)]] == kHidden)
      ++first_seen_[size_of(l)];
  }
}

void Prefill::pack(const Task& task) {
  const Panels* stage = panels_.data() + task.stage * kMatrices;
  int64_t count = 0;
  for (int64_t i = 0; i < kMatrices; ++i) count += stage[i].count();
  const auto [begin, end] = share(count, task.index, kPacks);
  for (int64_t i = 0, base = 0; i < kMatrices; base += stage[i++].count())
    stage[i].pack(std::max(begin - base, int64_t{0}), std::min(end - base, stage[i].count()));
  packs_done_[size_of(task.stage)].fetch_add(1, std::memory_order_release);
}

// One block of rows through the rest of layer stage - 1 and to the keys, values and queries of layer `stage`.
void Prefill::advance(const Task& task, Scratch& own) {
  const int64_t hidden = spec_.hidden, mlp = spec_.mlp, stage = task.stage;
  const int64_t first = task.index * block_rows_, n = std::min(block_rows_, rows_.length - first);
  float* x = x_.data() + first * hidden;
  const Panels* panels = panels_.data() + stage * kMatrices;
  const auto normalise = [&](const Norm& norm) {
    for (int64_t r = 0; r < n; ++r)
      kernels_.layer_norm(x + r * hidden, norm.weight, norm.bias, own.narrow.data() + r * hidden, hidden,
                          spec_.norm_eps);
  };
  if (stage == 0) {
    const float* positions = weights_.positions + (spec_.position_offset + first) * hidden;
    const float* from = rows_.embeddings + first * hidden;
    for (int64_t i = 0; i < n * hidden; ++i) x[i] = from[i] + positions[i];
  } else {
    attend(stage - 1, first, n, own);
    panels[kAttnOut].multiply(own.narrow.data(), hidden, n, x, hidden, true, own.product);
    normalise(weights_.layers[size_of(stage - 1)].mlp_norm);
    float* wide = own.wide.data();
    const int64_t stride = wide_stride(mlp);
    panels[kMlpIn].multiply(own.narrow.data(), hidden, n, wide, stride, false, own.product);
    const auto gelu = spec_.activation == Activation::gelu_tanh ? kernels_.gelu_tanh : kernels_.gelu_erf;
    for (int64_t r = 0; r < n; ++r) gelu(wide + r * stride, mlp);
    panels[kMlpOut].multiply(wide, stride, n, x, hidden, true, own.product);
  }
  normalise(weights_.layers[size_of(stage)].attn_norm);
  // The last layer's queries are those of the last row alone, see finish().
  const bool last = stage + 1 == spec_.layers;
  float* qkv = own.wide.data();
  const int64_t stride = wide_stride(3 * hidden);
  panels[kQkv].multiply(own.narrow.data(), hidden, n, qkv, stride, false, own.product, last ? hidden : 0);
  for (int64_t r = 0; r < n && !last; ++r)
    std::copy_n(qkv + r * stride, hidden, queries_.data() + (first + r) * hidden);
  (*sink_)(stage, first, n, qkv + hidden, qkv + 2 * hidden, stride);
  for (int64_t h = 0; h < spec_.heads && (rows_.integers || !cache_); ++h) {
    const int64_t slot = stage % kRecent;
    const float* keys = qkv + hidden + h * spec_.head_dim;
    const float* values = keys + hidden;
    if (rows_.integers) {
      recent16_->store(kernels_, slot, h, first, keys, values, n, stride);
      continue;
    }
    recent_->store_keys(kernels_, slot, h, first, keys, n, stride);
    recent_->store_values(kernels_, slot, h, first, values, n, stride);
  }
  block_done_[size_of(stage * blocks_ + task.index)].store(true, std::memory_order_release);
  blocks_done_[size_of(stage)].fetch_add(1, std::memory_order_release);
}

// Rows [first, first + n) of all heads, to own.narrow.
void Prefill::attend(int64_t layer, int64_t first, int64_t n, Scratch& own) {
  const int64_t hidden = spec_.hidden, head_dim = spec_.head_dim;
  const int64_t blind = std::clamp<int64_t>(first_seen_[size_of(layer)] - first, 0, n);
  for (int64_t h = 0; h < spec_.heads; ++h) {
    float* out = own.narrow.data() + h * head_dim;
    look(layer, h, queries_.data() + first * hidden + h * head_dim, first, n, out, own);
    if (blind > 0) attend_blind(layer, h, first, blind, out, own);
  }
}

// Attention of n rows of one head.
void Prefill::look(int64_t layer, int64_t head, const float* q, int64_t first, int64_t n, float* out,
                   Scratch& own) const {
  const int64_t stride = whole(rows_.length, kKeyBlock);
  const float* bias = bias_.empty() ? nullptr : bias_.data() + layer * stride;
  const float scale = 1.0f / std::sqrt(static_cast<float>(spec_.head_dim));
  if (rows_.integers) {
    recent16_->attend(kernels_, layer % kRecent, head, q, spec_.hidden, first, n, bias, scale, out,
                      spec_.hidden, own.flash);
    return;
  }
  const int64_t slot = cache_ ? layer : layer % kRecent;
  const KvCache& cache = cache_ ? *cache_ : *recent_;
  kernels_.flash({.q = q,
                  .k = static_cast<const float*>(cache.key_block(slot, head, 0)),
                  .v = static_cast<const float*>(cache.value_block(slot, head, 0)),
                  .bias = bias,
                  .out = out,
                  .rows = n,
                  .head_dim = spec_.head_dim,
                  .first_key = first,
                  .block_stride = cache.block_stride() / static_cast<int64_t>(sizeof(float)),
                  .q_stride = spec_.hidden,
                  .out_stride = spec_.hidden,
                  .scale = scale});
}

// A row whose own key and all before it are hidden. In the model that this decoder comes from such a key's
// score is the lowest finite number, and so is the score of a key behind the row that is not hidden: those of
// both kinds count the same, and the model was trained with that.
void Prefill::attend_blind(int64_t layer, int64_t head, int64_t first, int64_t n, float* out,
                           Scratch& own) const {
  const int64_t head_dim = spec_.head_dim;
  const float* bias = bias_.data() + layer * whole(rows_.length, kKeyBlock);
  std::vector<double>& sum = own.sum;
  std::fill(sum.begin(), sum.end(), 0.0);
  int64_t count = 0;
  const auto add = [&](int64_t key) {
    ++count;
    if (rows_.integers) return recent16_->add_value(layer % kRecent, head, key, sum.data());
    const KvCache& cache = cache_ ? *cache_ : *recent_;
    const void* block = cache.value_block(cache_ ? layer : layer % kRecent, head, key / kKeyBlock);
    const float* v = static_cast<const float*>(block) + key % kKeyBlock * head_dim;
    for (int64_t d = 0; d < head_dim; ++d) sum[size_of(d)] += v[d];
  };
  for (int64_t key = first_seen_[size_of(layer)]; key < rows_.length; ++key)
    if (bias[key] != kHidden) add(key);
  for (int64_t key = 0; key < first; ++key) add(key);
  for (int64_t r = 0; r < n; ++r) {
    add(first + r);
    for (int64_t d = 0; d < head_dim; ++d)
      out[r * spec_.hidden + d] = static_cast<float>(sum[size_of(d)] / static_cast<double>(count));
  }
}

// The last row through the last layer, and its logits: one row, so the weights are read as a decode step
// reads them, with activations in full precision.
void Prefill::finish(int thread, float* logits) {
  const int64_t hidden = spec_.hidden, head_dim = spec_.head_dim, mlp = spec_.mlp;
  const int64_t last = spec_.layers - 1, row = rows_.length - 1;
  const Layer& layer = weights_.layers.back();
  float* x = x_.data() + row * hidden;
  Scratch& own = *scratch_[size_of(thread)];
  float* normed = own.narrow.data();
  const auto [h0, h1] = share(spec_.heads, thread, pool_.team());
  const auto [d0, d1] = share(hidden, thread, pool_.team());
  const auto [m0, m1] = share(mlp, thread, pool_.team());
  const auto [v0, v1] = share(spec_.vocab, thread, pool_.team());
  const auto normalise = [&](const Norm& norm) {
    kernels_.layer_norm(x, norm.weight, norm.bias, normed, hidden, spec_.norm_eps);
  };
  normalise(layer.attn_norm);
  layer.prefill.qkv.multiply(kernels_, normed, 1, query_.data(), hidden, h0 * head_dim, h1 * head_dim);
  for (int64_t h = h0; h < h1; ++h)
    look(last, h, query_.data() + h * head_dim, row, 1, attended_.data() + h * head_dim, own);
  pool_.barrier(thread);
  layer.prefill.attn_out.multiply(kernels_, attended_.data(), 1, x, hidden, d0, d1, true);
  pool_.barrier(thread);
  normalise(layer.mlp_norm);
  layer.prefill.mlp_in.multiply(kernels_, normed, 1, mlp_.data(), mlp, m0, m1);
  (spec_.activation == Activation::gelu_tanh ? kernels_.gelu_tanh : kernels_.gelu_erf)(mlp_.data() + m0,
                                                                                       m1 - m0);
  pool_.barrier(thread);
  layer.prefill.mlp_out.multiply(kernels_, mlp_.data(), 1, x, hidden, d0, d1, true);
  pool_.barrier(thread);
  normalise(weights_.final_norm);
  weights_.head.multiply(kernels_, normed, 1, logits, spec_.vocab, v0, v1);
}

}  // namespace edge
