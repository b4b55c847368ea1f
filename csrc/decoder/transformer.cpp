// SPDX-License-Identifier: Apache-2.0
#include "decoder/transformer.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "decoder/sampling.h"

namespace edge {
namespace {

// Weight rows are shared out in units of one cache line of outputs.
constexpr int64_t kRowUnit = 16;

// The part of `count` items that thread `i` of `n` takes: contiguous, sizes differing by one at most.
std::pair<int64_t, int64_t> share(int64_t count, int i, int n) {
  return {count * i / n, count * (i + 1) / n};
}

int64_t units_of(const Matrix& matrix, int64_t unit) { return (matrix.rows + unit - 1) / unit; }

size_t size_of(int64_t n) { return static_cast<size_t>(n); }

}  // namespace

Transformer::Transformer(const DecoderSpec& spec, Weights weights, KvType kv, int threads,
                         const Kernels& kernels, std::vector<int64_t> evidence_layers)
    : spec_(spec),
      weights_(std::move(weights)),
      kernels_(kernels),
      pool_(threads),
      cache_(spec, kv, spec.max_positions),
      cross_cache_(spec, kv, spec.cross_keys),
      evidence_layers_(std::move(evidence_layers)),
      is_evidence_layer_(size_of(spec.layers), false),
      max_blocks_(std::max(cache_.capacity(), cross_cache_.capacity()) / kKeyBlock),
      blocks_left_(size_of(spec.heads)) {
  for (const int64_t layer : evidence_layers_) is_evidence_layer_[size_of(layer)] = true;
  x_.resize(size_of(kMaxRows * spec.hidden));
  qkv_.resize(size_of(kMaxRows * 3 * spec.hidden));
  mlp_.resize(size_of(kMaxRows * spec.mlp));
  max_.resize(size_of(kMaxRows * spec.heads * max_blocks_));
  sum_.resize(max_.size());
  partial_.resize(max_.size() * size_of(spec.head_dim));
  factors_.resize(max_.size());
  attended_.resize(size_of(kMaxRows * spec.hidden));
  if (spec.head_transform) transformed_.resize(attended_.size());
  own_.assign(size_of(threads), std::vector<float>(size_of(kMaxRows * spec.hidden)));
}

int64_t Transformer::weight_bytes() const {
  int64_t bytes = weights_.head.bytes() + weights_.transform.bytes();
  for (const Layer& l : weights_.layers)
    for (const Matrix* m : {&l.qkv, &l.attn_out, &l.cross_q, &l.cross_out, &l.mlp_in, &l.mlp_out})
      bytes += m->bytes();
  return bytes;
}

int64_t Transformer::kept_keys() const { return std::accumulate(kept_.begin(), kept_.end(), int64_t{0}); }

void Transformer::set_prefix(const Prefix& prefix) {
  begin_prefix(prefix.length, prefix.key_bias, prefix.bias_length, prefix.drop_hidden);
  pool_.run([&](int thread) {
    const auto [begin, end] = share(spec_.layers * spec_.heads, thread, pool_.team());
    for (int64_t i = begin; i < end; ++i) store_prefix(prefix, i / spec_.heads, i % spec_.heads);
  });
}

void Transformer::prefill(const PrefixEmbeddings& prefix, float* logits) {
  begin_prefix(prefix.length, prefix.key_bias, prefix.bias_length, prefix.drop_hidden);
  if (!prefill_) prefill_ = std::make_unique<Prefill>(spec_, weights_, kernels_, pool_);
  const int64_t head_dim = spec_.head_dim;
  const auto store = [&](int64_t layer, int64_t at, int64_t n, const float* keys, const float* values,
                         int64_t stride) {
    for (int64_t h = 0; h < spec_.heads; ++h) {
      const float* k = keys + h * head_dim;
      const float* v = values + h * head_dim;
      for (int64_t r = 0; r < n && prefix.keys; ++r) {
        const int64_t to = ((layer * spec_.heads + h) * prefix.length + at + r) * head_dim;
        std::copy_n(k + r * stride, head_dim, prefix.keys + to);
        std::copy_n(v + r * stride, head_dim, prefix.values + to);
      }
      if (kept_[size_of(layer)] == prefix.length) {
        cache_.store_keys(kernels_, layer, h, at, k, n, stride);
        cache_.store_values(kernels_, layer, h, at, v, n, stride);
        continue;
      }
      const std::vector<int64_t>& kept = kept_at_[size_of(layer)];
      for (auto i = std::lower_bound(kept.begin(), kept.end(), at); i != kept.end() && *i < at + n; ++i) {
        cache_.store_keys(kernels_, layer, h, i - kept.begin(), k + (*i - at) * stride, 1, stride);
        cache_.store_values(kernels_, layer, h, i - kept.begin(), v + (*i - at) * stride, 1, stride);
      }
    }
  };
  const bool whole = cache_.type() == KvType::f32 && !needs_bias();
  prefill_->run({.embeddings = prefix.embeddings,
                 .length = prefix.length,
                 .key_bias = prefix.bias ? prefix.key_bias : nullptr,
                 .bias_stride = prefix.bias_length},
                whole ? &cache_ : nullptr, store, logits);
}

void Transformer::begin_prefix(int64_t length, const float* key_bias, int64_t bias_length, bool drop_hidden) {
  const bool cross = spec_.has_cross();
  prefix_rows_ = cross ? 0 : length;
  cross_rows_ = cross ? length : 0;
  rewind(0);
  kept_.assign(size_of(spec_.layers), length);
  kept_at_.assign(size_of(spec_.layers), {});
  for (int64_t l = 0; l < spec_.layers && key_bias && drop_hidden && !cross; ++l) {
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
  if (has_evidence()) {
    const int64_t blocks = (image_rows() + kKeyBlock - 1) / kKeyBlock;
    mass_.resize(size_of(kMaxRows * spec_.heads * blocks * kKeyBlock));
  }
}

void Transformer::store_prefix(const Prefix& prefix, int64_t layer, int64_t head) {
  const int64_t head_dim = spec_.head_dim, from = (layer * spec_.heads + head) * prefix.length * head_dim;
  KvCache& cache = spec_.has_cross() ? cross_cache_ : cache_;
  const auto store = [&](int64_t to, int64_t at, int64_t n) {
    cache.store_keys(kernels_, layer, head, to, prefix.keys + from + at * head_dim, n, head_dim);
    cache.store_values(kernels_, layer, head, to, prefix.values + from + at * head_dim, n, head_dim);
  };
  if (kept_[size_of(layer)] == prefix.length) return store(0, 0, prefix.length);
  const std::vector<int64_t>& kept = kept_at_[size_of(layer)];
  for (size_t i = 0; i < kept.size(); ++i) store(static_cast<int64_t>(i), kept[i], 1);
}

void Transformer::append(const Step& step) {
  embed(step);
  if (step.evidence) {
    const int64_t n = (static_cast<int64_t>(step.ids.size()) - step.logits_from) * image_rows();
    std::fill_n(step.evidence, n, 0.0f);
  }
  next_[kHead].store(0, std::memory_order_relaxed);
  branches_ = step.branches;
  pool_.run([&](int thread) { work(thread, step); });
  branches_ = nullptr;
  if (step.branches) return;
  for (const int32_t id : step.ids) text_.push_back({id, step.bias});
  text_rows_ = std::ssize(text_);
}

int64_t Transformer::matching_rows(std::span<const int32_t> ids, bool bias) const {
  size_t n = 0;
  while (n < ids.size() && n < text_.size() && text_[n].id == ids[n] && text_[n].bias == bias) ++n;
  return static_cast<int64_t>(n);
}

void Transformer::embed(const Step& step) {
  for (size_t r = 0; r < step.ids.size(); ++r) {
    float* x = x_.data() + static_cast<int64_t>(r) * spec_.hidden;
    const int64_t row = step.branches ? step.branches->position : static_cast<int64_t>(r);
    const int64_t position = prefix_rows_ + text_rows_ + row + spec_.position_offset;
    const float* placed = weights_.positions + position * spec_.hidden;
    if (spec_.embed_scale == 1.0f) {
      std::copy_n(placed, spec_.hidden, x);
      weights_.embed.add_row(kernels_, step.ids[r], x);
    } else {
      std::fill_n(x, spec_.hidden, 0.0f);
      weights_.embed.add_row(kernels_, step.ids[r], x);
      for (int64_t i = 0; i < spec_.hidden; ++i) x[i] = x[i] * spec_.embed_scale + placed[i];
    }
    if (spec_.token_types > 0)
      kernels_.axpy(weights_.types + type_of(step, r) * spec_.hidden, 1.0f, x, spec_.hidden);
    if (spec_.embed_norm) normalise(weights_.embed_norm, x, x, 1);
  }
}

int32_t Transformer::type_of(const Step& step, size_t row) const {
  if (step.branches) return step.branches->types.empty() ? 0 : step.branches->types[row];
  std::vector<int32_t> before;
  for (const TextRow& one : text_) before.push_back(one.id);
  before.insert(before.end(), step.ids.begin(), step.ids.begin() + static_cast<std::ptrdiff_t>(row));
  return spec_.type_behind(before);
}

// Five barriers per layer (eight with cross-attention), and each member reads ahead of what it computes,
// across its units and stages. Before a barrier it says what it reads next, so that waiting costs no
// bandwidth. Norms are computed by every thread for itself.
void Transformer::work(int thread, const Step& step) {
  const int64_t rows = static_cast<int64_t>(step.ids.size()), mlp = spec_.mlp;
  float* own = own_[size_of(thread)].data();
  const auto activate = activation();
  for (int64_t i = 0; i < spec_.layers; ++i) {
    const Layer& layer = weights_.layers[size_of(i)];
    normalise(attn_input(i), x_.data(), own, rows);
    if (thread == 0)
      for (auto& left : blocks_left_) left.store(key_blocks(false, i, rows - 1), std::memory_order_relaxed);
    const int64_t tasks = spec_.heads * key_blocks(false, i, rows - 1);
    const NextRead keys{keys_of(false, i, own_units(thread, tasks).first, rows)};
    spread(thread, kQkv, 3 * spec_.heads, [&](int64_t begin, int64_t end, int64_t after) {
      project_qkv(thread, i, begin, end, rows, after < 0 ? keys : layer.qkv.from_row(after * spec_.head_dim));
    });
    expect_cache(thread, false, i, rows);
    pool_.barrier(thread);
    const NextRead projection = first_rows(thread, layer.attn_out, kRowUnit);
    spread(thread, kAttend, tasks, [&](int64_t begin, int64_t end, int64_t after) {
      attend(false, i, begin, end, after < 0 ? projection.data : keys_of(false, i, after, rows), rows, step);
    });
    expect_rows(thread, layer.attn_out, kRowUnit);
    pool_.barrier(thread);
    const Matrix& behind = spec_.has_cross() ? layer.cross_q : layer.mlp_in;
    spread_rows(thread, kAttnOut, layer.attn_out, first_rows(thread, behind, kRowUnit),
                [&](int64_t begin, int64_t end, const NextRead& next) {
                  add_back(thread, layer.attn_out, attended_.data(), begin, end, rows, next);
                });
    if (spec_.has_cross())
      cross_attend(thread, i, rows, step);
    else if (gathers_evidence(i, step))
      gather_evidence(thread, i, rows, step);
    expect_rows(thread, layer.mlp_in, kRowUnit);
    pool_.barrier(thread);
    normalise(mlp_input(layer), x_.data(), own, rows);
    spread_rows(thread, kMlpIn, layer.mlp_in, first_rows(thread, layer.mlp_out, kRowUnit),
                [&](int64_t begin, int64_t end, const NextRead& next) {
                  layer.mlp_in.multiply(kernels_, own, rows, mlp_.data(), mlp, begin, end, false, next);
                  for (int64_t r = 0; r < rows; ++r) activate(mlp_.data() + r * mlp + begin, end - begin);
                });
    expect_rows(thread, layer.mlp_out, kRowUnit);
    pool_.barrier(thread);
    const bool last = i + 1 == spec_.layers;
    const Matrix& following = last ? first_of_head() : weights_.layers[size_of(i + 1)].qkv;
    const int64_t unit = !last ? spec_.head_dim : spec_.head_transform ? kRowUnit : kVocabBlock;
    spread_rows(thread, kMlpOut, layer.mlp_out, first_rows(thread, following, unit),
                [&](int64_t begin, int64_t end, const NextRead& next) {
                  add_back(thread, layer.mlp_out, mlp_.data(), begin, end, rows, next);
                });
    if (!last || step.logits_from < rows) expect_rows(thread, following, unit);
    pool_.barrier(thread);
  }
  project_logits(thread, rows, step);
  expect_rows(thread, weights_.layers.front().qkv, spec_.head_dim);  // of the next step
}

// Ends, as it begins, between two barriers.
void Transformer::cross_attend(int thread, int64_t index, int64_t rows, const Step& step) {
  const Layer& layer = weights_.layers[size_of(index)];
  const int64_t hidden = spec_.hidden, blocks = key_blocks(true, index, 0);
  expect_rows(thread, layer.cross_q, kRowUnit);
  pool_.barrier(thread);
  float* own = own_[size_of(thread)].data();
  normalise(post() ? layer.attn_norm : layer.cross_norm, x_.data(), own, rows);
  if (thread == 0)
    for (auto& left : blocks_left_) left.store(blocks, std::memory_order_relaxed);
  // In the place of the self-attention's queries.
  const int64_t tasks = spec_.heads * blocks;
  const NextRead keys{keys_of(true, index, own_units(thread, tasks).first, rows)};
  spread_rows(thread, kCrossQ, layer.cross_q, keys, [&](int64_t begin, int64_t end, const NextRead& next) {
    layer.cross_q.multiply(kernels_, own, rows, qkv_.data(), 3 * hidden, begin, end, false, next);
  });
  expect_cache(thread, true, index, rows);
  pool_.barrier(thread);
  const NextRead projection = first_rows(thread, layer.cross_out, kRowUnit);
  spread(thread, kCrossAttend, tasks, [&](int64_t begin, int64_t end, int64_t after) {
    attend(true, index, begin, end, after < 0 ? projection.data : keys_of(true, index, after, rows), rows,
           step);
  });
  expect_rows(thread, layer.cross_out, kRowUnit);
  pool_.barrier(thread);
  spread_rows(thread, kCrossOut, layer.cross_out, first_rows(thread, layer.mlp_in, kRowUnit),
              [&](int64_t begin, int64_t end, const NextRead& next) {
                add_back(thread, layer.cross_out, attended_.data(), begin, end, rows, next);
              });
  if (gathers_evidence(index, step)) gather_evidence(thread, index, rows, step);
}

// Behind a norm after the sublayer the stream goes on from what the sublayer read, which every thread has.
void Transformer::add_back(int thread, const Matrix& matrix, const float* from, int64_t begin, int64_t end,
                           int64_t rows, const NextRead& next) {
  const float* own = own_[size_of(thread)].data();
  for (int64_t r = 0; r < rows && post(); ++r)
    std::copy(own + r * spec_.hidden + begin, own + r * spec_.hidden + end,
              x_.data() + r * spec_.hidden + begin);
  matrix.multiply(kernels_, from, rows, x_.data(), spec_.hidden, begin, end, true, next);
}

const Norm& Transformer::attn_input(int64_t layer) const {
  static constexpr Norm kNone{};
  if (!post()) return weights_.layers[size_of(layer)].attn_norm;
  return layer == 0 ? kNone : weights_.layers[size_of(layer - 1)].mlp_norm;
}

const Norm& Transformer::mlp_input(const Layer& layer) const {
  if (!post()) return layer.mlp_norm;
  return spec_.has_cross() ? layer.cross_norm : layer.attn_norm;
}

const Norm& Transformer::head_input() const {
  return post() ? weights_.layers.back().mlp_norm : weights_.final_norm;
}

Transformer::Stage Transformer::stage_before(Stage stage) const {
  switch (stage) {
    case kQkv:
    case kTransform:
      return kMlpOut;
    case kMlpIn:
      return spec_.has_cross() ? kCrossOut : kAttnOut;
    case kHead:
      return spec_.head_transform ? kTransform : kMlpOut;
    default:
      return static_cast<Stage>(stage - 1);
  }
}

// Three quarters of the units are shared out beforehand, one run for each member, so that it knows what to
// fetch while it waits; the rest goes to whoever is free, because members are never equally fast.
std::pair<int64_t, int64_t> Transformer::own_units(int thread, int64_t units) const {
  return share(units * 3 / 4, thread, pool_.team());
}

// Calls work(begin, end, after) for this member's units, and for further ones while there are any. Each is
// taken before the one before it is worked on, which so can fetch it: `after`, or -1 with the last.
template <class Work>
void Transformer::spread(int thread, Stage stage, int64_t units, Work work) {
  // Nobody counts the stage before any more.
  if (thread == 0) next_[stage_before(stage)].store(0, std::memory_order_relaxed);
  const int64_t first = units * 3 / 4;
  const auto take = [&] {
    const int64_t unit = first + next_[stage].fetch_add(1, std::memory_order_relaxed);
    return unit < units ? unit : -1;
  };
  auto [begin, end] = own_units(thread, units);
  if (begin == end) begin = take(), end = begin + 1;
  while (begin >= 0) {
    const int64_t after = take();
    work(begin, end, after);
    begin = after, end = after + 1;
  }
}

// The same for the rows of a matrix; `behind` is read after the last of them.
template <class Work>
void Transformer::spread_rows(int thread, Stage stage, const Matrix& matrix, const NextRead& behind,
                              Work work) {
  spread(thread, stage, units_of(matrix, kRowUnit), [&](int64_t begin, int64_t end, int64_t after) {
    work(begin * kRowUnit, std::min(end * kRowUnit, matrix.rows),
         after < 0 ? behind : matrix.from_row(after * kRowUnit));
  });
}

NextRead Transformer::first_rows(int thread, const Matrix& matrix, int64_t unit) const {
  return matrix.from_row(own_units(thread, units_of(matrix, unit)).first * unit);
}

const void* Transformer::keys_of(bool cross, int64_t layer, int64_t task, int64_t rows) const {
  const int64_t blocks = key_blocks(cross, layer, rows - 1);
  const auto [cache, at] = block_at(cross, layer, task % blocks);
  return cache->key_block(layer, task / blocks, at);
}

void Transformer::expect_rows(int thread, const Matrix& matrix, int64_t unit) {
  const auto [begin, end] = own_units(thread, (matrix.rows + unit - 1) / unit);
  const int64_t rows = std::min(end * unit, matrix.rows) - begin * unit;
  if (rows > 0) pool_.expect(thread, matrix.row(begin * unit), rows * matrix.row_bytes());
}

// Blocks that hold earlier keys only change in the lines that this step writes.
void Transformer::expect_cache(int thread, bool cross, int64_t layer, int64_t rows) {
  const int64_t blocks = key_blocks(cross, layer, rows - 1);
  const auto [begin, end] = own_units(thread, spec_.heads * blocks);
  for (int64_t task = begin; task < end; ++task) {
    const auto [cache, at] = block_at(cross, layer, task % blocks);
    pool_.expect(thread, cache->key_block(layer, task / blocks, at), cache->block_bytes());
    pool_.expect(thread, cache->value_block(layer, task / blocks, at), cache->block_bytes());
  }
}

void Transformer::normalise(const Norm& norm, const float* x, float* y, int64_t rows) const {
  if (!norm.weight) {
    std::copy_n(x, rows * spec_.hidden, y);
    return;
  }
  for (int64_t r = 0; r < rows; ++r)
    kernels_.layer_norm(x + r * spec_.hidden, norm.weight, norm.bias, y + r * spec_.hidden, spec_.hidden,
                        spec_.norm_eps);
}

// Units are whole heads, so that the thread that computes a head's key or value also stores it.
void Transformer::project_qkv(int thread, int64_t index, int64_t begin, int64_t end, int64_t rows,
                              const NextRead& next) {
  const int64_t heads = spec_.heads, head_dim = spec_.head_dim, stride = 3 * spec_.hidden;
  weights_.layers[size_of(index)].qkv.multiply(kernels_, own_[size_of(thread)].data(), rows, qkv_.data(),
                                               stride, begin * head_dim, end * head_dim, false, next);
  const int64_t at = own_keys(index);
  for (int64_t unit = std::max(begin, heads); unit < end; ++unit) {
    const float* from = qkv_.data() + unit * head_dim;
    for (int64_t r = 0; branches_ && r < rows; ++r) {
      const int64_t slot = branches_->slots[size_of(r)];
      if (unit < 2 * heads)
        branch_cache_->store_keys(kernels_, index, unit - heads, slot, from + r * stride, 1, stride);
      else
        branch_cache_->store_values(kernels_, index, unit - 2 * heads, slot, from + r * stride, 1, stride);
    }
    if (branches_) continue;
    if (unit < 2 * heads)
      cache_.store_keys(kernels_, index, unit - heads, at, from, rows, stride);
    else
      cache_.store_values(kernels_, index, unit - 2 * heads, at, from, rows, stride);
  }
}

int64_t Transformer::own_keys(int64_t layer) const {
  return (spec_.has_cross() ? 0 : kept_[size_of(layer)]) + text_rows_;
}

int64_t Transformer::key_blocks(bool cross, int64_t layer, int64_t row) const {
  if (cross) return image_blocks(layer);
  if (branches_) return shared_blocks(layer) + (branches_->used + kKeyBlock - 1) / kKeyBlock;
  return (own_keys(layer) + row + kKeyBlock) / kKeyBlock;
}

std::pair<const KvCache*, int64_t> Transformer::block_at(bool cross, int64_t layer, int64_t block) const {
  if (cross) return {&cross_cache_, block};
  if (!branches_ || block < shared_blocks(layer)) return {&cache_, block};
  return {branch_cache_.get(), block - shared_blocks(layer)};
}

void Transformer::reserve_branches(int64_t slots) {
  if (branch_cache_ && branch_cache_->capacity() >= slots) return;
  branch_cache_ = std::make_unique<KvCache>(spec_, cache_.type(), slots);
  max_blocks_ = std::max(cache_.capacity() + branch_cache_->capacity(), cross_cache_.capacity()) / kKeyBlock;
  max_.resize(size_of(kMaxRows * spec_.heads * max_blocks_));
  sum_.resize(max_.size());
  partial_.resize(max_.size() * size_of(spec_.head_dim));
  factors_.resize(max_.size());
}

int64_t Transformer::image_blocks(int64_t layer) const {
  return (kept_[size_of(layer)] + kKeyBlock - 1) / kKeyBlock;
}

int64_t Transformer::vocab_blocks() const { return (spec_.vocab + kVocabBlock - 1) / kVocabBlock; }

bool Transformer::gathers_evidence(int64_t layer, const Step& step) const {
  return step.evidence && is_evidence_layer_[size_of(layer)];
}

// Units are the key blocks of one head after the other.
void Transformer::attend(bool cross, int64_t layer, int64_t begin, int64_t end, const void* after,
                         int64_t rows, const Step& step) {
  const int64_t heads = spec_.heads, head_dim = spec_.head_dim;
  const int64_t blocks = key_blocks(cross, layer, rows - 1), keys = own_keys(layer);
  const int64_t image_blocks = this->image_blocks(layer);
  const bool image = cross == spec_.has_cross();  // the image is among the keys
  const float* bias[kMaxRows] = {};
  int64_t counts[kMaxRows];
  int64_t finished = 0;  // blocks of the head at work
  for (int64_t task = begin; task < end; ++task) {
    const int64_t head = task / blocks, block = task % blocks;
    const auto [cache, place] = block_at(cross, layer, block);
    const bool branch = cache == branch_cache_.get();
    const int64_t first = place * kKeyBlock;
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t seen = cross ? cross_rows_ : branch ? branches_->used : branches_ ? keys : keys + r + 1;
      counts[r] = std::clamp<int64_t>(seen - first, 0, kKeyBlock);
      bias[r] = nullptr;
      if (branch)
        bias[r] = branches_->mask + r * branches_->mask_stride + first;
      else if (image && step.bias && !key_bias_.empty())
        bias[r] = key_bias_.data() + layer * cache->capacity() + first;
    }
    const int64_t at = head * max_blocks_ + block;
    const bool mass = image && block < image_blocks && gathers_evidence(layer, step);
    cache->attend(kernels_, {.q = qkv_.data() + head * head_dim,
                             .k = cache->key_block(layer, head, place),
                             .v = cache->value_block(layer, head, place),
                             .bias = bias,
                             .counts = counts,
                             .m = max_.data() + at,
                             .l = sum_.data() + at,
                             .acc = partial_.data() + at * head_dim,
                             .p = mass ? mass_.data() + (head * image_blocks + block) * kKeyBlock : nullptr,
                             .rows = rows,
                             .head_dim = head_dim,
                             .q_stride = 3 * spec_.hidden,
                             .stat_stride = heads * max_blocks_,
                             .acc_stride = heads * max_blocks_ * head_dim,
                             .p_stride = heads * image_blocks * kKeyBlock,
                             .scale = 1.0f / std::sqrt(static_cast<float>(head_dim)),
                             .next = task + 1 < end ? keys_of(cross, layer, task + 1, rows) : after});
    // Whoever finishes the last block of a head joins them.
    ++finished;
    if (task + 1 < end && block + 1 < blocks) continue;
    if (blocks_left_[size_of(head)].fetch_sub(finished, std::memory_order_acq_rel) == finished)
      join(cross, layer, head, rows);
    finished = 0;
  }
}

void Transformer::join(bool cross, int64_t layer, int64_t head, int64_t rows) {
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t at = (r * spec_.heads + head) * max_blocks_;
    kernels_.attend_join(max_.data() + at, sum_.data() + at, partial_.data() + at * spec_.head_dim,
                         key_blocks(cross, layer, r), spec_.head_dim, factors_.data() + at,
                         attended_.data() + r * spec_.hidden + head * spec_.head_dim);
  }
}

// Each thread sums its own blocks of prefix keys over the heads, in head order.
void Transformer::gather_evidence(int thread, int64_t layer, int64_t rows, const Step& step) {
  const int64_t heads = spec_.heads, blocks = image_blocks(layer), kept = kept_[size_of(layer)];
  const auto [begin, end] = share(blocks, thread, pool_.team());
  const float mean = 1.0f / static_cast<float>(heads * static_cast<int64_t>(evidence_layers_.size()));
  for (int64_t r = step.logits_from; r < rows; ++r)
    for (int64_t b = begin; b < end; ++b) {
      float* row = step.evidence + (r - step.logits_from) * image_rows();
      const int64_t n = std::min(kKeyBlock, kept - b * kKeyBlock);
      // Keys that are left out lie between the others: then the block is gathered apart.
      float block[kKeyBlock];
      float* out = kept == image_rows() ? row + b * kKeyBlock : block;
      const int64_t* at = kept == image_rows() ? nullptr : kept_at_[size_of(layer)].data() + b * kKeyBlock;
      for (int64_t i = 0; at && i < n; ++i) block[i] = row[at[i]];
      for (int64_t h = 0; h < heads; ++h)
        kernels_.axpy(mass_.data() + ((r * heads + h) * blocks + b) * kKeyBlock,
                      factors_[size_of((r * heads + h) * max_blocks_ + b)] * mean, out, n);
      for (int64_t i = 0; at && i < n; ++i) row[at[i]] = block[i];
    }
}

void Transformer::project_logits(int thread, int64_t rows, const Step& step) {
  const int64_t n = rows - step.logits_from;
  if (n <= 0) return;
  float* own = own_[size_of(thread)].data();
  normalise(head_input(), x_.data() + step.logits_from * spec_.hidden, own, n);
  if (spec_.head_transform) {
    spread_rows(thread, kTransform, weights_.transform, first_rows(thread, weights_.head, kVocabBlock),
                [&](int64_t begin, int64_t end, const NextRead& next) {
                  weights_.transform.multiply(kernels_, own, n, transformed_.data(), spec_.hidden, begin, end,
                                              false, next);
                  for (int64_t r = 0; r < n; ++r)
                    activation()(transformed_.data() + r * spec_.hidden + begin, end - begin);
                });
    expect_rows(thread, weights_.head, kVocabBlock);
    pool_.barrier(thread);
    normalise(weights_.transform_norm, transformed_.data(), own, n);
  }
  const Matrix& head = weights_.head;
  const NextRead behind =
      first_rows(thread, weights_.layers.front().qkv, spec_.head_dim);  // of the next step
  spread(thread, kHead, vocab_blocks(), [&](int64_t begin, int64_t end, int64_t after) {
    for (int64_t b = begin; b < end; ++b) {
      const int64_t next = b + 1 < end ? b + 1 : after;
      head.multiply(kernels_, own, n, step.logits, spec_.vocab, b * kVocabBlock,
                    std::min((b + 1) * kVocabBlock, spec_.vocab), false,
                    next < 0 ? behind : head.from_row(next * kVocabBlock));
      if (step.on_block)
        for (int64_t r = 0; r < n; ++r) (*step.on_block)(r, b);
    }
  });
}

}  // namespace edge
