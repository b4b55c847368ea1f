// SPDX-License-Identifier: Apache-2.0
#include "cuda/device/network.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <thread>

namespace edge::cuda {
namespace {

// Steps that are queued before their predecessors' tokens have been seen: the device never waits for the
// host, and after the end of a text no more than so many empty steps remain.
constexpr int kAhead = 3;
// Looks for a token between two questions whether the device has failed.
constexpr int kLooks = 64;
// Tokens of one launch of the persistent kernel: a cancelled text goes on for no more than a few of them.
constexpr int kTogether = 8;

size_t bytes(int64_t n) { return static_cast<size_t>(n); }

// Refuses a model that the kernels do not take, or that does not fit, before anything is allocated.
const EdgeCudaModel& checked(const EdgeCudaModel& m) {
  if (m.head_dim > kMostHeadDim)
    throw Failure{EDGE_CUDA_UNSUPPORTED,
                  "the CUDA kernels take a head_dim of at most 256, not " + std::to_string(m.head_dim)};
  if (m.vocab >> kIdBits) throw Failure{EDGE_CUDA_UNSUPPORTED, "the CUDA kernels take no more than 2^28 ids"};
  if (m.cache_type != EDGE_CUDA_F32 && m.cache_type != EDGE_CUDA_F16 && m.cache_type != EDGE_CUDA_I8)
    throw Failure{EDGE_CUDA_UNSUPPORTED, "the CUDA kernels have no such cache type"};
  if (m.float_type != EDGE_CUDA_F32 && m.float_type != EDGE_CUDA_F16 && m.float_type != EDGE_CUDA_BF16)
    throw Failure{EDGE_CUDA_UNSUPPORTED, "the CUDA kernels have no such weight type"};
  const int64_t capacity = round_up(m.max_positions, kKeyBlock), blocks = capacity / kKeyBlock;
  const int64_t row_bytes = bytes_of(m.cache_type, round_up(m.head_dim, 16)) + 4;
  if (blocks > 65535)
    throw Failure{EDGE_CUDA_UNSUPPORTED, "the CUDA kernels take no more than 8 million positions"};
  const int64_t need = DeviceWeights::bytes(m) + 2 * m.layers * m.heads * capacity * row_bytes +
                       kMaxRows * 4 * (6 * m.hidden + m.mlp + m.vocab + m.heads * blocks * (3 + m.head_dim)) +
                       m.layers * capacity * 4;
  size_t free = 0, total = 0;
  check(cudaMemGetInfo(&free, &total), "to tell its memory");
  if (static_cast<int64_t>(free) < need)
    throw Failure{EDGE_CUDA_NO_MEMORY, "not enough GPU memory: the decoder needs " +
                                           std::to_string((need >> 20) + 1) + " MiB, " +
                                           std::to_string(free >> 20) + " MiB are free"};
  check(prepare_matmul(), "to load the kernels");
  check(prepare_attention(), "to load the kernels");
  check(prepare_steps(), "to load the kernels");
  return m;
}

// A pointer from elsewhere, before a kernel would fault on it.
void check_is_here(const void* p) {
  cudaPointerAttributes attributes{};
  const cudaError_t status = cudaPointerGetAttributes(&attributes, p);
  cudaGetLastError();
  if (status != cudaSuccess || attributes.type != cudaMemoryTypeDevice || attributes.device != 0)
    throw Failure{EDGE_CUDA_FAILED, "the prefix does not lie in the memory of the GPU that decodes"};
}

template <class T>
Buffer<T> zeros(int64_t n, cudaStream_t stream) {
  Buffer<T> buffer(n);
  check(cudaMemsetAsync(buffer.get(), 0, bytes(std::max<int64_t>(n, 1)) * sizeof(T), stream),
        "to clear memory");
  return buffer;
}

}  // namespace

Network::Network(const EdgeCudaModel& model)
    : model_(checked(model)),
      capacity_(round_up(model.max_positions, kKeyBlock)),
      stride_(round_up(model.head_dim, 16)),
      max_blocks_(capacity_ / kKeyBlock),
      vocab_blocks_((model.vocab + kVocabBlock - 1) / kVocabBlock),
      weights_(model, stream_),
      sent_(1),
      tokens_(capacity_ + 2),
      proposal_(1),
      trace_(model.layers, kTogether) {
  const EdgeCudaModel& m = model_;
  for (int64_t i = 0; i < m.layers; ++i) {
    evidence_layer_.push_back(m.layer[i].evidence);
    evidence_layers_ += m.layer[i].evidence != 0;
  }
  model_.layer = nullptr;  // the caller's, for the time of this call
  const int64_t rows = m.layers * m.heads * capacity_;
  // Zeros: padding columns stay zero, and rows never written are never NaN.
  keys_ = zeros<unsigned char>(bytes_of(m.cache_type, rows * stride_), stream_);
  values_ = zeros<unsigned char>(bytes_of(m.cache_type, rows * stride_), stream_);
  if (m.cache_type == EDGE_CUDA_I8) {
    key_scales_ = zeros<float>(rows, stream_);
    value_scales_ = zeros<float>(rows, stream_);
  }
  bias_ = zeros<float>(m.layers * capacity_, stream_);
  x_ = Buffer<float>(kMaxRows * m.hidden);
  qkv_ = Buffer<float>(kMaxRows * 3 * m.hidden);
  attended_ = Buffer<float>(kMaxRows * m.hidden);
  mlp_ = Buffer<float>(kMaxRows * m.mlp);
  logits_ = Buffer<float>(kMaxRows * m.vocab);
  stats_ = Buffer<BlockStats>(kMaxRows * vocab_blocks_);
  const int64_t splits = kMaxRows * m.heads * max_blocks_;
  max_ = Buffer<float>(splits);
  sum_ = Buffer<float>(splits);
  factors_ = Buffer<float>(splits);
  partial_ = Buffer<float>(splits * m.head_dim);
  if (evidence_layers_) mass_ = Buffer<float>(kMaxRows * m.heads * capacity_);
  flags_ = zeros<uint8_t>(m.vocab, stream_);
  stop_ = Buffer<int32_t>(m.vocab);
  arrived_ = zeros<uint32_t>(m.heads, stream_);
  state_ = Buffer<State>(1);
  if (m.persistent) {
    try {
      describe_passes();
    } catch (const Failure& failure) {
      if (m.persistent == 1 || failure.status != EDGE_CUDA_UNSUPPORTED) throw;
    }
  }
  check(cudaStreamSynchronize(stream_), "to get ready");
}

void Network::describe_passes() {
  int held = 0, processors = 0, cooperates = 0, cache_bytes = 0;
  check(prepare_text(&held), "to load the kernels");
  check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, 0), "to describe itself");
  check(cudaDeviceGetAttribute(&cooperates, cudaDevAttrCooperativeLaunch, 0), "to describe itself");
  if (!cooperates)
    throw Failure{EDGE_CUDA_UNSUPPORTED,
                  "this GPU does not launch cooperative kernels, which the persistent one is"};
  if (held < 1)
    throw Failure{EDGE_CUDA_UNSUPPORTED, "the persistent kernel does not fit on this GPU's multiprocessors"};
  check(cudaDeviceGetAttribute(&cache_bytes, cudaDevAttrL2CacheSize, 0), "to describe itself");
  // A quarter of the cache between all blocks: what two stages read is there at once, and cards whose cache
  // is of two halves may keep it in both.
  fetched_ = cache_bytes / 4 / processors;
  std::vector<PassLayer> layers;
  for (int64_t i = 0; i < model_.layers; ++i) {
    const DeviceLayer& from = weights_.layers[bytes(i)];
    layers.push_back({from.attn_norm, from.mlp_norm, from.qkv, from.attn_out, from.mlp_in, from.mlp_out,
                      cache(i), bias_.get() + i * capacity_, evidence_layer_[bytes(i)]});
  }
  pass_layers_ = Buffer<PassLayer>(model_.layers);
  barrier_ = zeros<Barrier>(1, stream_);
  check(cudaMemcpyAsync(pass_layers_.get(), layers.data(), layers.size() * sizeof(PassLayer),
                        cudaMemcpyHostToDevice, stream_),
        "to get ready");
  check(cudaStreamSynchronize(stream_), "to get ready");
  // What the device tells need not hold: other processes may have a part of it (MPS). No passes: it launches,
  // or does not.
  for (const int rows : {1, kPersistentRows}) {
    const cudaError_t status = launch_text(pass_args(rows, 0), processors, stream_);
    if (status == cudaErrorCooperativeLaunchTooLarge || status == cudaErrorNotSupported) {
      cudaGetLastError();
      throw Failure{
          EDGE_CUDA_UNSUPPORTED,
          std::string("the persistent kernel does not launch on this GPU: ") + cudaGetErrorString(status)};
    }
    check(status, "to start a text");
  }
  check(cudaStreamSynchronize(stream_), "to start a text");
  together_ = processors;
}

CacheLayer Network::cache(int64_t layer) const {
  const int64_t rows = layer * model_.heads * capacity_, at = bytes_of(model_.cache_type, rows * stride_);
  const bool scaled = model_.cache_type == EDGE_CUDA_I8;
  return {keys_.get() + at, values_.get() + at, scaled ? key_scales_.get() + rows : nullptr,
          scaled ? value_scales_.get() + rows : nullptr};
}

void Network::set_prefix(const float* keys, const float* values, int64_t length, const float* bias,
                         int64_t bias_length, bool on_device) {
  const EdgeCudaModel& m = model_;
  const int64_t n = m.heads * length * m.head_dim;
  if (on_device) {
    check_is_here(keys);
    check_is_here(values);
    if (bias) check_is_here(bias);
    // Whoever wrote them on the default stream need not have waited; our stream does not wait for that one.
    check(cudaStreamSynchronize(nullptr), "to take the prefix");
  } else if (staging_.size() < 2 * n) {
    staging_ = Buffer<float>(2 * n);
  }
  for (int64_t i = 0; i < m.layers; ++i) {
    const float *k = keys + i * n, *v = values + i * n;
    if (!on_device) {
      float* const staged = staging_.get();
      check(cudaMemcpyAsync(staged, k, bytes(n) * 4, cudaMemcpyHostToDevice, stream_), "to take the prefix");
      check(cudaMemcpyAsync(staged + n, v, bytes(n) * 4, cudaMemcpyHostToDevice, stream_),
            "to take the prefix");
      k = staged;
      v = staged + n;
    }
    check(
        launch_prefix(m.cache_type,
                      {k, v, cache(i), static_cast<int>(m.heads), static_cast<int>(length),
                       static_cast<int>(m.head_dim), static_cast<int>(stride_), static_cast<int>(capacity_)},
                      stream_),
        "to store the prefix");
  }
  check(cudaMemsetAsync(bias_.get(), 0, bytes(m.layers * capacity_) * 4, stream_), "to take the key bias");
  if (bias)
    check(cudaMemcpy2DAsync(bias_.get(), bytes(capacity_) * 4, bias, bytes(bias_length) * 4,
                            bytes(bias_length) * 4, bytes(m.layers),
                            on_device ? cudaMemcpyDeviceToDevice : cudaMemcpyHostToDevice, stream_),
          "to take the key bias");
  const int64_t slots = m.max_positions - m.position_offset - length + 1;
  bool changed = length != prefix_;  // what recorded passes hold
  if (evidence_layers_ && evidence_.size() < slots * length) {
    evidence_ = Buffer<float>(slots * length);
    changed = true;
  }
  for (Graph& graph : recorded_)
    if (changed) graph.reset();
  prefix_ = length;
  check(cudaStreamSynchronize(stream_), "to take the prefix");
}

void Network::settle() noexcept {
  cudaStreamSynchronize(stream_);
  cudaGetLastError();
}

void Network::send(const State& state) {
  *sent_.host() = state;
  check(cudaMemcpyAsync(state_.get(), sent_.host(), sizeof(State), cudaMemcpyHostToDevice, stream_),
        "to begin a step");
}

void Network::matmul(const DeviceMatrix& w, const float* x, const DeviceNorm* norm, float* y, int rows,
                     Output output) {
  MatmulArgs a{};
  a.w = w;
  a.x = x;
  a.x_stride = w.cols;
  if (norm) {
    a.norm_weight = norm->weight;
    a.norm_bias = norm->bias;
  }
  a.eps = model_.norm_eps;
  a.y = y;
  a.y_stride = w.rows;
  a.rows = rows;
  a.output = output;
  a.flags = flags_.get();
  a.stats = stats_.get();
  a.state = state_.get();
  check(launch_matmul(a, stream_), "to multiply");
}

AttendArgs Network::attend_args(int rows) const {
  const EdgeCudaModel& m = model_;
  AttendArgs a{};
  a.qkv = qkv_.get();
  a.max = max_.get();
  a.sum = sum_.get();
  a.partial = partial_.get();
  a.factors = factors_.get();
  a.out = attended_.get();
  a.arrived = arrived_.get();
  a.state = state_.get();
  a.rows = rows;
  a.heads = static_cast<int>(m.heads);
  a.head_dim = static_cast<int>(m.head_dim);
  a.stride = static_cast<int>(stride_);
  a.capacity = static_cast<int>(capacity_);
  a.max_blocks = static_cast<int>(max_blocks_);
  a.scale = 1.0f / std::sqrt(static_cast<float>(m.head_dim));
  return a;
}

EvidenceArgs Network::evidence_args(int rows, int from) const {
  EvidenceArgs e{};
  e.mass = mass_.get();
  e.factors = factors_.get();
  e.out = evidence_.get();
  e.state = state_.get();
  e.rows = rows;
  e.from = from;
  e.heads = static_cast<int>(model_.heads);
  e.prefix = static_cast<int>(prefix_);
  e.capacity = static_cast<int>(capacity_);
  e.max_blocks = static_cast<int>(max_blocks_);
  e.mean = evidence_layers_ ? 1.0f / static_cast<float>(model_.heads * evidence_layers_) : 0.0f;
  return e;
}

// Five kernels per layer.
void Network::layers(int rows, int from, int key_blocks) {
  const EdgeCudaModel& m = model_;
  const Output activation = m.gelu_erf ? Output::gelu_erf : Output::gelu_tanh;
  check(launch_embed({weights_.embed, weights_.positions, x_.get(), state_.get(), static_cast<int>(m.hidden),
                      static_cast<int>(m.position_offset)},
                     rows, stream_),
        "to embed");
  AttendArgs attend = attend_args(rows);
  bool first = true;
  for (int64_t i = 0; i < m.layers; ++i) {
    const DeviceLayer& layer = weights_.layers[bytes(i)];
    const bool gathers = from < rows && evidence_layer_[bytes(i)];
    matmul(layer.qkv, x_.get(), &layer.attn_norm, qkv_.get(), rows, Output::store);
    attend.cache = cache(i);
    attend.bias = bias_.get() + i * capacity_;
    attend.mass = gathers ? mass_.get() : nullptr;
    check(launch_attend(m.cache_type, attend, key_blocks, stream_), "to attend");
    if (gathers) {
      EvidenceArgs e = evidence_args(rows, from);
      e.first = first;
      check(launch_evidence(e, stream_), "to gather evidence");
      first = false;
    }
    matmul(layer.attn_out, attended_.get(), nullptr, x_.get(), rows, Output::residual);
    matmul(layer.mlp_in, x_.get(), &layer.mlp_norm, mlp_.get(), rows, activation);
    matmul(layer.mlp_out, mlp_.get(), nullptr, x_.get(), rows, Output::residual);
  }
}

void Network::head(int rows, int from) {
  if (from < rows)
    matmul(weights_.head, x_.get() + from * model_.hidden, &weights_.final_norm, logits_.get(), rows - from,
           Output::logits);
}

void Network::propose(int rows) {
  check(launch_propose({proposal_.device(), flags_.get(), state_.get(), rows}, stream_), "to take drafts");
}

ChooseArgs Network::choose_args(int rows, bool advance) const {
  ChooseArgs a{};
  a.stats = stats_.get();
  a.logits = logits_.get();
  a.flags = flags_.get();
  a.stop = stop_.get();
  a.tokens = tokens_.device();
  a.state = state_.get();
  a.rows = rows;
  a.blocks = static_cast<int>(vocab_blocks_);
  a.vocab = static_cast<int>(model_.vocab);
  a.advance = advance;
  return a;
}

void Network::choose(int rows, bool advance) {
  check(launch_choose(choose_args(rows, advance), stream_), "to choose");
}

void Network::pass(int rows, int key_blocks) {
  if (rows > 1) propose(rows);
  layers(rows, 0, key_blocks);
  head(rows, 0);
  choose(rows, true);
}

PassArgs Network::pass_args(int rows, int passes) const {
  PassArgs p{};
  p.layer = pass_layers_.get();
  p.head = weights_.head;
  p.final_norm = weights_.final_norm;
  p.embed = {weights_.embed,
             weights_.positions,
             x_.get(),
             state_.get(),
             static_cast<int>(model_.hidden),
             static_cast<int>(model_.position_offset)};
  p.attend = attend_args(rows);
  p.evidence = evidence_args(rows, 0);
  p.choose = choose_args(rows, true);
  if (rows > 1) p.proposal = *proposal_.host();
  p.barrier = barrier_.get();
  p.qkv = qkv_.get();
  p.mlp = mlp_.get();
  p.mass = mass_.get();
  p.logits = logits_.get();
  p.stats = stats_.get();
  p.eps = model_.norm_eps;
  p.activation = model_.gelu_erf ? Output::gelu_erf : Output::gelu_tanh;
  p.layers = static_cast<int>(model_.layers);
  p.rows = rows;
  p.cache_type = model_.cache_type;
  p.passes = passes;
  p.fetched = fetched_;
  p.trace = trace_.device();
  return p;
}

void Network::start_text(int rows, int passes) {
  check(launch_text(pass_args(rows, passes), together_, stream_), "to start a text");
}

void Network::start_pass(int rows, int key_blocks, bool persistent) {
  if (persistent && rows <= kPersistentRows) {
    start_text(rows, 1);
    return;
  }
  Graph& graph = recorded_[rows];
  if (!graph.ready() || recorded_blocks_[rows] < key_blocks) {
    graph.record(stream_, [&] { pass(rows, key_blocks); });
    recorded_blocks_[rows] = key_blocks;
  }
  graph.launch(stream_);
}

void Network::append(const int32_t* ids, int64_t n, int64_t text_rows, bool bias, int64_t from, float* logits,
                     float* evidence) {
  State state{};
  state.keys = static_cast<int32_t>(prefix_ + text_rows);
  state.bias = bias;
  state.penalty = 1.0f;
  std::copy(ids, ids + n, state.ids);
  send(state);
  const int rows = static_cast<int>(n), first = static_cast<int>(from);
  layers(rows, first, blocks_for(prefix_ + text_rows + n));
  head(rows, first);
  if (logits)
    check(cudaMemcpyAsync(logits, logits_.get(), bytes((n - from) * model_.vocab) * 4, cudaMemcpyDeviceToHost,
                          stream_),
          "to give the logits");
  if (evidence && evidence_layers_)
    check(cudaMemcpyAsync(evidence, evidence_.get(), bytes((n - from) * prefix_) * 4, cudaMemcpyDeviceToHost,
                          stream_),
          "to give the evidence");
  check(cudaStreamSynchronize(stream_), "in a step");
}

// State, flags and first choice.
void Network::begin_text(const EdgeCudaGreedy& greedy, int64_t text_rows, int64_t most) {
  State state{};
  state.keys = static_cast<int32_t>(prefix_ + text_rows);
  state.limit = static_cast<int32_t>(model_.max_positions - model_.position_offset);
  state.bias = greedy.bias;
  state.max_new = static_cast<int32_t>(most);
  state.penalty = greedy.penalty;
  stop_sent_.assign(greedy.stop, greedy.stop + greedy.stops);
  std::sort(stop_sent_.begin(), stop_sent_.end());
  stop_sent_.erase(std::unique(stop_sent_.begin(), stop_sent_.end()), stop_sent_.end());
  state.stops = static_cast<int32_t>(stop_sent_.size());
  flags_sent_.assign(bytes(model_.vocab), 0);
  for (int64_t i = 0; i < greedy.suppresseds; ++i) flags_sent_[bytes(greedy.suppressed[i])] = kSuppressed;

  send(state);
  if (!stop_sent_.empty())
    check(cudaMemcpyAsync(stop_.get(), stop_sent_.data(), stop_sent_.size() * 4, cudaMemcpyHostToDevice,
                          stream_),
          "to begin a text");
  check(
      cudaMemcpyAsync(flags_.get(), flags_sent_.data(), flags_sent_.size(), cudaMemcpyHostToDevice, stream_),
      "to begin a text");
  if (greedy.first_logits) {
    check(cudaMemcpyAsync(logits_.get(), greedy.first_logits, bytes(model_.vocab) * 4, cudaMemcpyHostToDevice,
                          stream_),
          "to begin a text");
    if (evidence_layers_)
      check(cudaMemsetAsync(evidence_.get(), 0, bytes(prefix_) * 4, stream_), "to begin a text");
  }
  // Nothing is running that could still write there.
  std::fill_n(tokens_.host(), most + 1, Word{0});
  std::atomic_thread_fence(std::memory_order_release);
  check(
      launch_measure(
          {logits_.get(), flags_.get(), stats_.get(), state_.get(), static_cast<int>(model_.vocab)}, stream_),
      "to choose");
  choose(1, false);
}

int Network::generate(const EdgeCudaGreedy& greedy, int64_t text_rows, float* evidence) {
  const int64_t limit = model_.max_positions - model_.position_offset;
  const int64_t most = std::min<int64_t>(greedy.max_new, limit - prefix_ - text_rows + 1);
  const int key_blocks = blocks_for(std::min(prefix_ + text_rows + most, limit));
  const bool persistent = greedy.persistent && together_;
  trace_.begin(stream_);
  begin_text(greedy, text_rows, most);

  int end = EDGE_CUDA_RUNNING;
  int64_t seen = 0, queued = 0;  // tokens; tokens that passes were queued for
  bool idle = false, more = false;
  int looks = 0;  // without anything new since the device was asked
  while (end == EDGE_CUDA_RUNNING) {
    bool active = false;
    while (end == EDGE_CUDA_RUNNING) {
      const Word word = static_cast<const volatile Word*>(tokens_.host())[seen];
      const auto told = static_cast<Told>(word >> kToldShift);
      if (told == Told::nothing) break;
      active = true;
      more = told == Told::more;
      if (told == Told::stop || told == Told::not_finite) {
        end = told == Told::stop ? EDGE_CUDA_STOP : EDGE_CUDA_NOT_FINITE;
        break;
      }
      ++seen;
      const auto id = static_cast<int32_t>(word >> 32 & ((1u << kIdBits) - 1));
      if (!greedy.on_token(greedy.user, id, std::bit_cast<float>(static_cast<uint32_t>(word))) ||
          (seen < most && greedy.cancelled(greedy.user)))
        end = EDGE_CUDA_CANCELLED;
      else if (told == Told::last)
        end = EDGE_CUDA_LENGTH;
    }
    if (end != EDGE_CUDA_RUNNING) break;
    if (greedy.draft) {
      // What a draft follows must have been seen: one pass at a time.
      if (seen > queued && !more) {
        const int64_t room = std::min<int64_t>(most - seen, kMaxRows) - 1;
        const int64_t drafted = greedy.draft(greedy.user, proposal_.host()->ids, room);
        std::atomic_thread_fence(std::memory_order_release);
        start_pass(static_cast<int>(drafted) + 1, key_blocks, persistent);
        queued = seen;
        active = true;
      }
    } else {
      // The persistent kernel writes several tokens before the host has to look again.
      const int64_t step = persistent ? kTogether : 1;
      while (queued < most - 1 && queued < seen + kAhead * step - 1) {
        if (persistent)
          start_text(1, kTogether);
        else
          start_pass(1, key_blocks, false);
        queued += step;
        active = true;
      }
    }
    if (active) {
      idle = false;
      looks = 0;
      continue;
    }
    // To ask takes longer than to look, and keeps a token waiting that comes meanwhile.
    if (++looks % kLooks) {
      std::this_thread::yield();
      continue;
    }
    const cudaError_t status = cudaStreamQuery(stream_);
    if (status == cudaErrorNotReady) {
      std::this_thread::yield();
      continue;
    }
    check(status, "while it wrote");
    if (idle) throw Failure{EDGE_CUDA_FAILED, "the GPU ended its work without a result"};
    idle = true;  // what it wrote last may have come after the look above
  }
  check(cudaStreamSynchronize(stream_), "while it wrote");
  if (persistent) trace_.print(stream_);
  if (evidence && evidence_layers_ && seen > 0) {
    check(cudaMemcpyAsync(evidence, evidence_.get(), bytes(seen * prefix_) * 4, cudaMemcpyDeviceToHost,
                          stream_),
          "to give the evidence");
    check(cudaStreamSynchronize(stream_), "to give the evidence");
  }
  return end;
}

}  // namespace edge::cuda
