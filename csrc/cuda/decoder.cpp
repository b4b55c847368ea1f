// SPDX-License-Identifier: Apache-2.0
#include "cuda/decoder.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <exception>

#include "cpu/isa.h"

namespace edge {
namespace {

// Not measured: rows in one pass share its barriers, and on a device of much bandwidth barriers are the most
// of it. Five rows and more take the code for sixteen. edge-bench --device cuda prints what passes cost.
constexpr PassCosts kOnDevice{0.0f, 1.0f, 1.1f, 1.1f, 1.1f, 1.4f, 1.4f, 1.4f, 1.4f,
                              1.5f, 1.5f, 1.5f, 1.5f, 1.6f, 1.6f, 1.6f, 1.6f};

EdgeCudaMatrix matrix(const Matrix& m) {
  if (m.dtype == DType::i4) return {m.data, m.group_scale, m.bias, m.rows, m.cols, EDGE_CUDA_I4};
  return {m.data, m.scale, m.bias, m.rows, m.cols, m.dtype == DType::i8 ? EDGE_CUDA_I8 : EDGE_CUDA_F32};
}

EdgeCudaNorm norm(const Norm& n) { return {n.weight, n.bias}; }

int64_t read_bytes(const Matrix& m, EdgeCudaType float_type) {
  return m.dtype == DType::f32 && float_type != EDGE_CUDA_F32 ? m.rows * m.cols * 2 : m.bytes();
}

}  // namespace

// Holds the decoder for one call, as the CPU's does.
class CudaDecoder::Claim {
 public:
  explicit Claim(CudaDecoder& decoder) : decoder_(decoder) {
    if (decoder_.owner_ != ::getpid())
      throw std::runtime_error("a decoder cannot be used in a child process after fork(); create it there");
    if (decoder_.busy_.test_and_set(std::memory_order_acquire))
      throw BusyError("this decoder is already running; use one decoder per concurrent generation");
  }
  ~Claim() { decoder_.busy_.clear(std::memory_order_release); }
  Claim(const Claim&) = delete;
  Claim& operator=(const Claim&) = delete;

 private:
  CudaDecoder& decoder_;
};

// A text on its way, what stops it, and the drafts of the running pass.
struct CudaDecoder::Text {
  GenerationResult result;
  const Decoder::OnToken& on_token;
  const CancelToken* cancel;
  std::unique_ptr<Drafter> drafter;
  std::exception_ptr raised;
  std::vector<int32_t> pass;  // its ids: the last token before it, then drafts
  size_t row = 0, spare = 0;  // the row that the next token comes from; rows after it
  bool unsettled = false;     // whether the last token has been compared with its draft

  // The last token was not the end of the text: it confirms its draft, or the rest of the pass is void.
  void settle() {
    if (unsettled && spare > 0 && pass[row + 1] == result.token_ids.back()) {
      ++row;
      --spare;
      ++result.accepted;
    }
    unsettled = false;
  }
  std::span<const int32_t> next_draft(int64_t limit) {
    settle();
    if (!pass.empty()) drafter->verified(static_cast<int64_t>(row), spare > 0);
    std::vector<int32_t> text(result.forced_ids);
    text.insert(text.end(), result.token_ids.begin(), result.token_ids.end());
    const std::span<const int32_t> draft = drafter->draft(text, limit);
    pass.assign(1, result.token_ids.back());
    pass.insert(pass.end(), draft.begin(), draft.end());
    row = 0;
    spare = draft.size();
    ++result.passes;
    result.drafted += static_cast<int64_t>(spare);
    return std::span<const int32_t>(pass).subspan(1);
  }

  bool take(int32_t id, float logprob) {
    settle();
    unsettled = true;
    result.token_ids.push_back(id);
    result.logprobs.push_back(logprob);
    return !on_token || on_token(id, logprob);
  }
  bool cancelled() const { return cancel && cancel->cancelled(); }
};

CudaDecoder::CudaDecoder(const CudaLibrary& library, const DecoderSpec& spec, const Weights& weights,
                         const CudaOptions& options, std::vector<int64_t> evidence_layers)
    : api_(library.api()),
      spec_(spec),
      cache_type_(options.cache_type),
      has_evidence_(!evidence_layers.empty()),
      owner_(::getpid()),
      decoder_(nullptr, api_.destroy) {
  for (const int64_t layer : evidence_layers)
    if (layer < 0 || layer >= spec.layers)
      throw std::invalid_argument("evidence layer " + std::to_string(layer) + " is not one of the " +
                                  std::to_string(spec.layers) + " layers");
  if (!spec.is_plain())
    throw ModelUnsupported("cross-attention and norms behind the sublayers are not built for CUDA devices");
  const EdgeCudaDevice device = library.probe();
  device_ = device.name;
  std::vector<EdgeCudaLayer> layers;
  for (int64_t i = 0; i < spec.layers; ++i) {
    const Layer& from = weights.layers[static_cast<size_t>(i)];
    layers.push_back({norm(from.attn_norm), norm(from.mlp_norm), matrix(from.qkv), matrix(from.attn_out),
                      matrix(from.mlp_in), matrix(from.mlp_out),
                      std::find(evidence_layers.begin(), evidence_layers.end(), i) != evidence_layers.end()});
    for (const Matrix* m : {&from.qkv, &from.attn_out, &from.mlp_in, &from.mlp_out})
      weight_bytes_ += read_bytes(*m, options.float_type);
  }
  weight_bytes_ += read_bytes(weights.head, options.float_type);
  EdgeCudaModel model{};
  model.layers = spec.layers;
  model.hidden = spec.hidden;
  model.heads = spec.heads;
  model.head_dim = spec.head_dim;
  model.mlp = spec.mlp;
  model.vocab = spec.vocab;
  model.max_positions = spec.max_positions;
  model.position_offset = spec.position_offset;
  model.norm_eps = spec.norm_eps;
  model.gelu_erf = spec.activation == Activation::gelu_erf;
  model.positions = weights.positions;
  model.embed = matrix(weights.embed);
  if (!spec.tied_head) model.head = matrix(weights.head);
  model.final_norm = norm(weights.final_norm);
  model.layer = layers.data();
  model.float_type = options.float_type;
  model.cache_type = options.cache_type;
  model.persistent = static_cast<int32_t>(options.persistent);
  EdgeCudaReason reason{};
  void* decoder = nullptr;
  const int status = api_.create(&model, &decoder, &reason);
  if (status == EDGE_CUDA_UNSUPPORTED) throw ModelUnsupported(reason.text);
  if (status == EDGE_CUDA_NO_DEVICE || status == EDGE_CUDA_NO_MEMORY) throw DeviceUnusable(reason.text);
  check(status, reason);
  decoder_.reset(decoder);
  persistent_ = options.persistent == CudaOptions::Persistent::yes;
}

void CudaDecoder::use_persistent(bool use) {
  const Claim claim(*this);
  if (use && !has_persistent()) throw std::invalid_argument("this decoder has no persistent kernel");
  persistent_ = use;
}

int64_t CudaDecoder::cache_bytes() const {
  const int64_t element = cache_type_ == EDGE_CUDA_F32 ? 4 : cache_type_ == EDGE_CUDA_F16 ? 2 : 1;
  return spec_.layers * spec_.hidden * (prefix_ + text_) * 2 * element;
}

void CudaDecoder::check(int status, const EdgeCudaReason& reason) const {
  if (status != EDGE_CUDA_OK) throw std::runtime_error(reason.text);
}

void CudaDecoder::check_ids(std::span<const int32_t> ids, const char* what) const {
  for (const int32_t id : ids)
    if (id < 0 || id >= spec_.vocab)
      throw std::invalid_argument(std::string(what) + " holds " + std::to_string(id) +
                                  ", outside the vocabulary of " + std::to_string(spec_.vocab));
}

void CudaDecoder::set_prefix(const Prefix& prefix, bool on_device) {
  if (prefix.length < 1 || prefix.length > spec_.rows())
    throw std::invalid_argument("the prefix has " + std::to_string(prefix.length) +
                                " rows, the decoder takes 1 to " + std::to_string(spec_.rows()));
  if (prefix.key_bias && (prefix.bias_length < prefix.length || prefix.bias_length > spec_.rows()))
    throw std::invalid_argument("key_bias has " + std::to_string(prefix.bias_length) +
                                " keys per layer, not " + std::to_string(prefix.length) +
                                " (the prefix) to " + std::to_string(spec_.rows()));
  const Claim claim(*this);
  EdgeCudaReason reason{};
  prefix_ = text_ = 0;  // until it has worked
  check(api_.set_prefix(decoder_.get(), prefix.keys, prefix.values, prefix.length, prefix.key_bias,
                        prefix.bias_length, on_device, &reason),
        reason);
  prefix_ = prefix.length;
}

void CudaDecoder::append(std::span<const int32_t> ids, bool bias, int64_t from, float* logits,
                         float* evidence) {
  EdgeCudaReason reason{};
  const auto n = static_cast<int64_t>(ids.size());
  check(api_.append(decoder_.get(), ids.data(), n, text_, bias, from, logits, evidence, &reason), reason);
  text_ += n;
}

void CudaDecoder::forward(std::span<const int32_t> ids, bool bias, float* logits) {
  const Claim claim(*this);
  if (prefix_ == 0) throw std::invalid_argument("set_prefix must be called first");
  check_ids(ids, "ids");
  if (static_cast<int64_t>(ids.size()) > rows_left())
    throw std::invalid_argument(std::to_string(ids.size()) +
                                " rows do not fit: " + std::to_string(rows_left()) + " positions are left");
  for (size_t at = 0; at < ids.size(); at += kMaxRows)
    append(ids.subspan(at, std::min<size_t>(kMaxRows, ids.size() - at)), bias, 0,
           logits + static_cast<int64_t>(at) * spec_.vocab, nullptr);
}

void CudaDecoder::rewind(int64_t text_rows) {
  const Claim claim(*this);
  if (text_rows < 0 || text_rows > text_)
    throw std::invalid_argument("cannot rewind to " + std::to_string(text_rows) + " text rows: there are " +
                                std::to_string(text_));
  text_ = text_rows;
}

GenerationResult CudaDecoder::generate(const float* first_logits, const GenerateOptions& options,
                                       const Decoder::OnToken& on_token, const CancelToken* cancel) {
  if (options.beam.beams > 1 || options.rules.ban_anything() || options.rules.penalise_prompt ||
      options.rules.forced_end >= 0)
    throw std::invalid_argument("beams and rules on a text are not built for CUDA devices");
  const Claim claim(*this);
  if (prefix_ == 0) throw std::invalid_argument("set_prefix must be called first");
  check_ids(options.begin_ids, "begin_ids");
  check_ids(options.forced_ids, "forced_ids");
  check_ids(options.stop_ids, "stop_ids");
  check_drafting(options, spec_.vocab);
  if (options.max_new_tokens < 0) throw std::invalid_argument("max_new_tokens must not be negative");
  // Checks the options of both ways.
  const TokenChooser checked(kernels_for("generic"), spec_.vocab, options.sampling);
  std::vector<int32_t> prompt(options.begin_ids);
  prompt.insert(prompt.end(), options.forced_ids.begin(), options.forced_ids.end());
  if (!first_logits && prompt.empty())
    throw std::invalid_argument("without first_logits a prompt (begin_ids or forced_ids) is needed");
  text_ = 0;
  if (static_cast<int64_t>(prompt.size()) > rows_left())
    throw std::invalid_argument("a prompt of " + std::to_string(prompt.size()) +
                                " ids does not fit: " + std::to_string(rows_left()) + " positions are left");

  const auto start = std::chrono::steady_clock::now();
  Text text{.result = {},
            .on_token = on_token,
            .cancel = cancel,
            .drafter = make_drafter(options, pass_costs(options, kOnDevice)),
            .raised = nullptr,
            .pass = {}};
  text.result.forced_ids = options.forced_ids;
  const std::span<const int32_t> ids(prompt);
  bool go = options.max_new_tokens > 0;
  for (size_t at = 0; go && at < ids.size(); at += kMaxRows) {
    if (text.cancelled()) {
      text.result.stop_reason = StopReason::cancelled;
      go = false;
      break;
    }
    const auto part = ids.subspan(at, std::min<size_t>(kMaxRows, ids.size() - at));
    const auto n = static_cast<int64_t>(part.size());
    // The last row's logits and evidence stay on the device, where the choice of the first token finds them.
    append(part, options.bias_rows != BiasRows::none, at + kMaxRows >= ids.size() ? n - 1 : n, nullptr,
           nullptr);
  }
  if (go && options.sampling.temperature > 0.0f)
    write_sampled(ids.empty() ? first_logits : nullptr, options, text);
  else if (go)
    write_greedy(ids.empty() ? first_logits : nullptr, options, text);
  if (text.raised) std::rethrow_exception(text.raised);
  text.result.decode_seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return std::move(text.result);
}

void CudaDecoder::write_greedy(const float* first_logits, const GenerateOptions& options, Text& text) {
  EdgeCudaGreedy greedy{};
  greedy.first_logits = first_logits;
  greedy.persistent = persistent_;
  greedy.bias = options.bias_rows == BiasRows::all;
  greedy.max_new = static_cast<int32_t>(std::min<int64_t>(options.max_new_tokens, rows_left() + 1));
  greedy.penalty = options.sampling.repetition_penalty;
  greedy.stop = options.stop_ids.data();
  greedy.stops = static_cast<int64_t>(options.stop_ids.size());
  greedy.suppressed = options.sampling.suppressed.data();
  greedy.suppresseds = static_cast<int64_t>(options.sampling.suppressed.size());
  greedy.user = &text;
  // An exception must not cross the border: it is kept, ends the text, and is raised afterwards.
  greedy.on_token = [](void* user, int32_t id, float logprob) -> int {
    Text& own = *static_cast<Text*>(user);
    try {
      return own.take(id, logprob) && !own.raised;
    } catch (...) {
      own.raised = std::current_exception();
      return 0;
    }
  };
  greedy.cancelled = [](void* user) -> int { return static_cast<Text*>(user)->cancelled(); };
  if (text.drafter)
    greedy.draft = [](void* user, int32_t* ids, int64_t limit) -> int64_t {
      Text& own = *static_cast<Text*>(user);
      try {
        const auto draft = own.next_draft(limit);
        std::copy(draft.begin(), draft.end(), ids);
        return std::ssize(draft);
      } catch (...) {  // out of memory: the text goes on without drafts, and ends at the next token
        own.raised = std::current_exception();
        return 0;
      }
    };
  std::vector<float> evidence(has_evidence_ ? static_cast<size_t>(greedy.max_new * prefix_) : 0);
  int32_t end = EDGE_CUDA_RUNNING;
  EdgeCudaReason reason{};
  check(api_.generate(decoder_.get(), &greedy, text_, &end, evidence.empty() ? nullptr : evidence.data(),
                      &reason),
        reason);
  if (end == EDGE_CUDA_NOT_FINITE) throw std::runtime_error("the logits are not finite");
  const auto n = static_cast<int64_t>(text.result.token_ids.size());
  if (has_evidence_) {
    evidence.resize(static_cast<size_t>(n * prefix_));
    text.result.evidence = std::move(evidence);
  }
  const int64_t rows = end == EDGE_CUDA_STOP ? n : std::max<int64_t>(n - 1, 0);
  if (end == EDGE_CUDA_STOP) text.settle();
  if (!text.drafter) text.result.passes = rows;
  text_ += rows;
  text.result.stop_reason = end == EDGE_CUDA_STOP     ? StopReason::stop
                            : end == EDGE_CUDA_LENGTH ? StopReason::length
                                                      : StopReason::cancelled;
}

void CudaDecoder::write_sampled(const float* first_logits, const GenerateOptions& options, Text& text) {
  std::vector<float> logits(static_cast<size_t>(spec_.vocab));
  std::vector<float> evidence(has_evidence_ ? static_cast<size_t>(prefix_) : 0);
  float* const gathered = evidence.empty() ? nullptr : evidence.data();
  if (first_logits) {
    std::copy_n(first_logits, spec_.vocab, logits.begin());
  } else {
    // The prompt's last row once more, this time with its logits.
    text_ -= 1;
    const int32_t last = options.forced_ids.empty() ? options.begin_ids.back() : options.forced_ids.back();
    append({&last, 1}, options.bias_rows != BiasRows::none, 0, logits.data(), gathered);
  }
  TokenChooser chooser(kernels_for("generic"), spec_.vocab, options.sampling);
  GenerationResult& result = text.result;
  for (;;) {
    const Choice choice = chooser.choose(logits.data());
    if (std::find(options.stop_ids.begin(), options.stop_ids.end(), choice.id) != options.stop_ids.end()) {
      result.stop_reason = StopReason::stop;
      return;
    }
    result.evidence.insert(result.evidence.end(), evidence.begin(), evidence.end());
    chooser.generated(choice.id);
    result.stop_reason = StopReason::cancelled;
    if (!text.take(choice.id, choice.logprob)) return;
    if (static_cast<int64_t>(result.token_ids.size()) >= options.max_new_tokens || rows_left() == 0) {
      result.stop_reason = StopReason::length;
      return;
    }
    if (text.cancelled()) return;
    append({&choice.id, 1}, options.bias_rows == BiasRows::all, 0, logits.data(), gathered);
    ++result.passes;
  }
}

}  // namespace edge
