// SPDX-License-Identifier: Apache-2.0
#include "decoder/transformer.h"

#include <algorithm>
#include <utility>

#include "decoder/transformer_team.h"

namespace edge {
namespace {

bool pays(const Kernels& kernels, int64_t bytes, int64_t from) {
  return from == 0 ? bytes > 0 : kernels.quick_bytes && bytes >= from;
}

bool can_be_screened(const Kernels& kernels, DType head) {
  return head == DType::f32 || kernels.matmul_digits;
}

int64_t screened_bytes(const Matrix& head) {
  return head.dtype == DType::f32 ? head.bytes() : head.rows * head.cols;
}

}  // namespace

Transformer::Transformer(const DecoderSpec& spec, Weights weights, KvType kv, int threads,
                         const Kernels& kernels, std::vector<int64_t> evidence_layers, const Copies& copies)
    : spec_(spec),
      weights_(std::move(weights)),
      kernels_(kernels),
      pool_(threads),
      screen_(can_be_screened(kernels_, weights_.head.dtype) &&
                      pays(kernels_, screened_bytes(weights_.head), copies.screen_from)
                  ? HeadScreen(weights_.head, kernels_, pool_)
                  : HeadScreen()),
      sketches_(pays(kernels_, Sketch::worth(weights_), copies.sketch_from) &&
                (copies.sketch_from == 0 || reads_floats())),
      kv_(kv),
      evidence_layers_(std::move(evidence_layers)),
      is_evidence_layer_(size_of(spec.layers), false),
      blocks_left_(size_of(kMaxRows * spec.heads)) {
  for (const int64_t layer : evidence_layers_) is_evidence_layer_[size_of(layer)] = true;
  x_.resize(size_of(kMaxRows * spec.hidden));
  qkv_.resize(size_of(kMaxRows * 3 * spec.hidden));
  mlp_.resize(size_of(kMaxRows * spec.mlp));
  attended_.resize(size_of(kMaxRows * spec.hidden));
  if (spec.head_transform) transformed_.resize(attended_.size());
  own_.assign(size_of(threads), std::vector<float>(size_of(kMaxRows * spec.hidden)));
  digits_.reserve(size_of(threads));
  for (int i = 0; i < threads; ++i) digits_.emplace_back(kernels, kMaxRows, std::max(spec.hidden, spec.mlp));
  const auto rounds = [](const Matrix& m) { return m.data && m.dtype != DType::f32; };
  rounds_ = rounds(weights_.head) || rounds(weights_.transform);
  for (const Layer& layer : weights_.layers)
    for (const Matrix* matrix : matrices_of(layer)) rounds_ |= rounds(*matrix);
  parts_.reserve(kMaxRows);
  wanted_.reserve(kMaxRows);
  open_lanes(1);
}

void Transformer::open_lanes(int64_t count) {
  while (lanes() < count) lanes_.push_back(std::make_unique<Lane>(spec_, kv_));
  make_room();
}

// For what attention keeps between its parts.
void Transformer::make_room() {
  int64_t image_blocks = 0;
  for (const auto& lane : lanes_) {
    max_blocks_ = std::max(max_blocks_, lane->most_blocks());
    image_blocks = std::max(image_blocks, (lane->image_rows() + kKeyBlock - 1) / kKeyBlock);
  }
  const size_t blocks = size_of(kMaxRows * spec_.heads * max_blocks_);
  if (max_.size() < blocks) {
    max_.resize(blocks);
    sum_.resize(blocks);
    partial_.resize(blocks * size_of(spec_.head_dim));
    factors_.resize(blocks);
  }
  if (has_evidence() && image_blocks > mass_blocks_) {
    mass_blocks_ = image_blocks;
    mass_.resize(size_of(kMaxRows * spec_.heads * mass_blocks_ * kKeyBlock));
  }
}

int64_t Transformer::rows_left(int64_t index) const {
  return spec_.rows() - lane(index).prefix_rows() - lane(index).text_rows();
}

int64_t Transformer::cache_bytes(int64_t index) const {
  const Lane& one = lane(index);
  return one.cache.bytes(one.kept_keys() + spec_.layers * one.text_rows()) / spec_.layers;
}

int64_t Transformer::weight_bytes() const {
  int64_t bytes = (screen_ ? screen_.matrix() : weights_.head).bytes() + weights_.transform.bytes();
  for (const Layer& layer : weights_.layers)
    for (const Matrix* matrix : matrices_of(layer)) bytes += matrix->bytes();
  return bytes;
}

float Transformer::sketch_share(int64_t index) const {
  const int64_t head = (screen_ ? screen_.matrix() : weights_.head).bytes();
  const int64_t cache = cache_bytes(index) / (lane(index).cache.type() == KvType::f32 ? 4 : 1);
  return static_cast<float>(Sketch::bytes(weights_) + head + cache) / step_bytes(index);
}

void Transformer::set_prefix(const Prefix& prefix, int64_t index) {
  Lane& to = lane(index);
  to.begin(prefix.length, prefix.key_bias, prefix.bias_length, prefix.drop_hidden);
  make_room();
  const int64_t heads = spec_.heads, size = prefix.length * spec_.head_dim;
  pool_.run([&](int thread) {
    const auto [begin, end] = share(spec_.layers * heads, thread, pool_.team());
    for (int64_t i = begin; i < end; ++i)
      to.store(kernels_, i / heads, i % heads, 0, prefix.keys + i * size, prefix.values + i * size,
               prefix.length, spec_.head_dim);
  });
}

void Transformer::prefill(const PrefixEmbeddings& prefix, float* logits, int64_t index) {
  Lane& to = lane(index);
  to.begin(prefix.length, prefix.key_bias, prefix.bias_length, prefix.drop_hidden);
  make_room();
  if (!prefill_) prefill_ = std::make_unique<Prefill>(spec_, weights_, kernels_, pool_);
  const int64_t head_dim = spec_.head_dim;
  const auto store = [&](int64_t layer, int64_t at, int64_t n, const float* keys, const float* values,
                         int64_t stride) {
    for (int64_t h = 0; h < spec_.heads; ++h) {
      const float* k = keys + h * head_dim;
      const float* v = values + h * head_dim;
      for (int64_t r = 0; r < n && prefix.keys; ++r) {
        const int64_t copy = ((layer * spec_.heads + h) * prefix.length + at + r) * head_dim;
        std::copy_n(k + r * stride, head_dim, prefix.keys + copy);
        std::copy_n(v + r * stride, head_dim, prefix.values + copy);
      }
      to.store(kernels_, layer, h, at, k, v, n, stride);
    }
  };
  const bool whole = to.cache.type() == KvType::f32 && !to.needs_bias();
  prefill_->run({.embeddings = prefix.embeddings,
                 .length = prefix.length,
                 .key_bias = prefix.bias ? prefix.key_bias : nullptr,
                 .bias_stride = prefix.bias_length,
                 .integers = to.cache.type() != KvType::f32},
                whole ? &to.cache : nullptr, store, logits);
}

void Transformer::reserve_branches(int64_t slots, int64_t index) {
  lane(index).reserve_branches(slots);
  make_room();
}

void Transformer::ready_sketch(int64_t index) {
  if (!sketch_) sketch_ = Sketch(weights_, kernels_, pool_);
  Lane& to = lane(index);
  if (to.sketched()) return;
  to.open_sketch();
  pool_.run_whole([&](int thread) {
    const auto [begin, end] = share(spec_.layers * spec_.heads, thread, pool_.team());
    for (int64_t i = begin; i < end; ++i) to.round_for_sketch(kernels_, i / spec_.heads, i % spec_.heads);
  });
}

void Transformer::append(std::span<const Step* const> steps) {
  parts_.clear();
  wanted_.clear();
  rows_ = 0;
  sketching_ = steps.front()->sketch;
  screened_ = sketching_ && screen_;
  for (const Step* step : steps) {
    const auto rows = std::ssize(step->ids);
    Lane& to = lane(step->lane);
    parts_.push_back({step, &to, rows_, rows});
    for (int64_t r = step->logits_from; r < rows; ++r)
      wanted_.push_back({rows_ + r, step, r - step->logits_from});
    screened_ |= step->on_screened && step->logits_from < rows;
    if (step->evidence) std::fill_n(step->evidence, (rows - step->logits_from) * to.image_rows(), 0.0f);
    embed(parts_.back());
    rows_ += rows;
  }
  if (rounds_ || screened_ || sketching_)
    for (Digits& digits : digits_) digits.make_room();
  next_[kHead].store(0, std::memory_order_relaxed);
  pool_.run([&](int thread) { work(thread); });
  for (const Part& part : parts_)
    if (!part.step->branches) part.lane->add_text(part.step->ids, part.step->bias);
}

void Transformer::embed(const Part& part) {
  const Step& step = *part.step;
  for (int64_t r = 0; r < part.rows; ++r) {
    float* x = x_.data() + (part.first + r) * spec_.hidden;
    const int32_t id = step.ids[size_of(r)];
    const int64_t row = step.branches ? step.branches->position : r;
    const int64_t position = part.lane->prefix_rows() + part.lane->text_rows() + row + spec_.position_offset;
    const float* placed = weights_.positions + position * spec_.hidden;
    if (spec_.embed_scale == 1.0f) {
      std::copy_n(placed, spec_.hidden, x);
      weights_.embed.add_row(kernels_, id, x);
    } else {
      std::fill_n(x, spec_.hidden, 0.0f);
      weights_.embed.add_row(kernels_, id, x);
      for (int64_t i = 0; i < spec_.hidden; ++i) x[i] = x[i] * spec_.embed_scale + placed[i];
    }
    if (spec_.token_types > 0)
      kernels_.axpy(weights_.types + type_of(part, r) * spec_.hidden, 1.0f, x, spec_.hidden);
    if (spec_.embed_norm) normalise(weights_.embed_norm, x, x, 1);
  }
}

int32_t Transformer::type_of(const Part& part, int64_t row) const {
  const Step& step = *part.step;
  if (step.branches) return step.branches->types.empty() ? 0 : step.branches->types[size_of(row)];
  std::vector<int32_t> before = part.lane->text_ids();
  before.insert(before.end(), step.ids.begin(), step.ids.begin() + static_cast<std::ptrdiff_t>(row));
  return spec_.type_behind(before);
}

// Five barriers per layer (eight with cross-attention), and each member reads ahead of what it computes,
// across its units and stages. Before a barrier it says what it reads next, so that waiting costs no
// bandwidth. Norms are computed by every thread for itself.
void Transformer::work(int thread) {
  const int64_t rows = rows_, mlp = spec_.mlp;
  float* own = own_[size_of(thread)].data();
  Digits& digits = digits_[size_of(thread)];
  const auto activate = activation();
  for (int64_t i = 0; i < spec_.layers; ++i) {
    const Layer& layer = layers()[size_of(i)];
    normalise(attn_input(i), x_.data(), own, rows);
    digits.round(layer.qkv, own, rows);
    if (thread == 0) count_blocks(false, i);
    const int64_t blocks = tasks(false, i);
    const NextRead keys{keys_of(false, i, own_units(thread, blocks).first)};
    spread(thread, kQkv, 3 * spec_.heads, [&](int64_t begin, int64_t end, int64_t after) {
      project_qkv(thread, i, begin, end, after < 0 ? keys : layer.qkv.from_row(after * spec_.head_dim));
    });
    expect_cache(thread, false, i);
    pool_.barrier(thread);
    const NextRead projection = first_rows(thread, layer.attn_out, kRowUnit);
    spread(thread, kAttend, blocks, [&](int64_t begin, int64_t end, int64_t after) {
      attend(false, i, begin, end, after < 0 ? projection.data : keys_of(false, i, after));
    });
    expect_rows(thread, layer.attn_out, kRowUnit);
    pool_.barrier(thread);
    const Matrix& behind = spec_.has_cross() ? layer.cross_q : layer.mlp_in;
    digits.round(layer.attn_out, attended_.data(), rows);
    spread_rows(thread, kAttnOut, layer.attn_out, first_rows(thread, behind, kRowUnit),
                [&](int64_t begin, int64_t end, const NextRead& next) {
                  add_back(thread, layer.attn_out, attended_.data(), begin, end, next);
                });
    if (spec_.has_cross())
      cross_attend(thread, i);
    else
      gather_evidence(thread, i);
    expect_rows(thread, layer.mlp_in, kRowUnit);
    pool_.barrier(thread);
    normalise(mlp_input(layer), x_.data(), own, rows);
    const DigitRows* input = digits.round(layer.mlp_in, own, rows);
    spread_rows(thread, kMlpIn, layer.mlp_in, first_rows(thread, layer.mlp_out, kRowUnit),
                [&](int64_t begin, int64_t end, const NextRead& next) {
                  layer.mlp_in.multiply(kernels_, own, rows, mlp_.data(), mlp, begin, end, false, next,
                                        input);
                  for (int64_t r = 0; r < rows; ++r) activate(mlp_.data() + r * mlp + begin, end - begin);
                });
    expect_rows(thread, layer.mlp_out, kRowUnit);
    pool_.barrier(thread);
    const bool last = i + 1 == spec_.layers;
    const Matrix& following = last ? first_of_head() : layers()[size_of(i + 1)].qkv;
    const int64_t unit = !last ? spec_.head_dim : spec_.head_transform ? kRowUnit : kVocabBlock;
    digits.round(layer.mlp_out, mlp_.data(), rows);
    spread_rows(thread, kMlpOut, layer.mlp_out, first_rows(thread, following, unit),
                [&](int64_t begin, int64_t end, const NextRead& next) {
                  add_back(thread, layer.mlp_out, mlp_.data(), begin, end, next);
                });
    if (!last || !wanted_.empty()) expect_rows(thread, following, unit);
    pool_.barrier(thread);
  }
  project_logits(thread);
  expect_rows(thread, layers().front().qkv, spec_.head_dim);  // of the next step
}

// Ends, as it begins, between two barriers.
void Transformer::cross_attend(int thread, int64_t index) {
  const Layer& layer = layers()[size_of(index)];
  const int64_t hidden = spec_.hidden, rows = rows_;
  expect_rows(thread, layer.cross_q, kRowUnit);
  pool_.barrier(thread);
  float* own = own_[size_of(thread)].data();
  normalise(post() ? layer.attn_norm : layer.cross_norm, x_.data(), own, rows);
  if (thread == 0) count_blocks(true, index);
  const DigitRows* input = digits_[size_of(thread)].round(layer.cross_q, own, rows);
  // In the place of the self-attention's queries.
  const int64_t blocks = tasks(true, index);
  const NextRead keys{keys_of(true, index, own_units(thread, blocks).first)};
  spread_rows(thread, kCrossQ, layer.cross_q, keys, [&](int64_t begin, int64_t end, const NextRead& next) {
    layer.cross_q.multiply(kernels_, own, rows, qkv_.data(), 3 * hidden, begin, end, false, next, input);
  });
  expect_cache(thread, true, index);
  pool_.barrier(thread);
  const NextRead projection = first_rows(thread, layer.cross_out, kRowUnit);
  spread(thread, kCrossAttend, blocks, [&](int64_t begin, int64_t end, int64_t after) {
    attend(true, index, begin, end, after < 0 ? projection.data : keys_of(true, index, after));
  });
  expect_rows(thread, layer.cross_out, kRowUnit);
  pool_.barrier(thread);
  digits_[size_of(thread)].round(layer.cross_out, attended_.data(), rows);
  spread_rows(thread, kCrossOut, layer.cross_out, first_rows(thread, layer.mlp_in, kRowUnit),
              [&](int64_t begin, int64_t end, const NextRead& next) {
                add_back(thread, layer.cross_out, attended_.data(), begin, end, next);
              });
  gather_evidence(thread, index);
}

// Behind a norm after the sublayer the stream goes on from what the sublayer read, which every thread has.
void Transformer::add_back(int thread, const Matrix& matrix, const float* from, int64_t begin, int64_t end,
                           const NextRead& next) {
  const float* own = own_[size_of(thread)].data();
  for (int64_t r = 0; r < rows_ && post(); ++r)
    std::copy(own + r * spec_.hidden + begin, own + r * spec_.hidden + end,
              x_.data() + r * spec_.hidden + begin);
  matrix.multiply(kernels_, from, rows_, x_.data(), spec_.hidden, begin, end, true, next,
                  digits_[size_of(thread)].rows());
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

NextRead Transformer::first_rows(int thread, const Matrix& matrix, int64_t unit) const {
  return matrix.from_row(own_units(thread, units_of(matrix, unit)).first * unit);
}

void Transformer::expect_rows(int thread, const Matrix& matrix, int64_t unit) {
  const auto [begin, end] = own_units(thread, (matrix.rows + unit - 1) / unit);
  const int64_t rows = std::min(end * unit, matrix.rows) - begin * unit;
  if (rows > 0) pool_.expect(thread, matrix.row(begin * unit), rows * matrix.row_bytes());
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
void Transformer::project_qkv(int thread, int64_t index, int64_t begin, int64_t end, const NextRead& next) {
  const int64_t heads = spec_.heads, head_dim = spec_.head_dim, stride = 3 * spec_.hidden;
  layers()[size_of(index)].qkv.multiply(kernels_, own_[size_of(thread)].data(), rows_, qkv_.data(), stride,
                                        begin * head_dim, end * head_dim, false, next,
                                        digits_[size_of(thread)].rows());
  for (const Part& part : parts_) {
    const Branches* branches = part.step->branches;
    const int64_t at = part.lane->own_keys(index);
    for (int64_t unit = std::max(begin, heads); unit < end; ++unit) {
      const float* from = qkv_.data() + part.first * stride + unit * head_dim;
      const auto store = [&](KvCache& cache, int64_t key, const float* rows, int64_t n) {
        if (unit < 2 * heads)
          cache.store_keys(kernels_, index, unit - heads, key, rows, n, stride);
        else
          cache.store_values(kernels_, index, unit - 2 * heads, key, rows, n, stride);
      };
      if (!branches && !sketching_) store(part.lane->cache, at, from, part.rows);
      if (!branches && (sketching_ || part.lane->has_own_sketch()))
        store(part.lane->sketch_cache(), at, from, part.rows);
      for (int64_t r = 0; branches && r < part.rows; ++r)
        store(*part.lane->branch_cache, branches->slots[size_of(r)], from + r * stride, 1);
    }
  }
}

}  // namespace edge
