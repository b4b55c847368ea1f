// SPDX-License-Identifier: Apache-2.0
#include "decoder/decoder.h"

#include <algorithm>
#include <chrono>

#include "cpu/isa.h"

namespace edge {
namespace {

int checked_threads(int64_t threads) {
  if (threads < 1 || threads > 1024) throw std::invalid_argument("threads must be 1 to 1024");
  return static_cast<int>(threads);
}

std::vector<int64_t> checked_layers(const DecoderSpec& spec, std::vector<int64_t> layers) {
  for (const int64_t layer : layers)
    if (layer < 0 || layer >= spec.layers)
      throw std::invalid_argument("evidence layer " + std::to_string(layer) + " is not one of the " +
                                  std::to_string(spec.layers) + " layers");
  std::sort(layers.begin(), layers.end());
  layers.erase(std::unique(layers.begin(), layers.end()), layers.end());
  return layers;
}

}  // namespace

// Holds the decoder for one call. Refusing a second caller, rather than making it wait, also covers a
// callback that calls back into its own decoder.
class Decoder::Claim {
 public:
  explicit Claim(Decoder& decoder) : decoder_(decoder) {
    if (decoder_.busy_.test_and_set(std::memory_order_acquire))
      throw BusyError("this decoder is already running; use one decoder per concurrent generation");
    if (!decoder_.network_.pool().usable()) {
      decoder_.busy_.clear(std::memory_order_release);
      throw std::runtime_error("a decoder cannot be used in a child process after fork(); create it there");
    }
  }
  ~Claim() { decoder_.busy_.clear(std::memory_order_release); }
  Claim(const Claim&) = delete;
  Claim& operator=(const Claim&) = delete;

 private:
  Decoder& decoder_;
};

Decoder::Decoder(const DecoderSpec& spec, Weights weights, KvType kv, int64_t threads, const std::string& isa,
                 std::vector<int64_t> evidence_layers)
    : threads_(checked_threads(threads)),
      network_(spec, std::move(weights), kv, threads_, kernels_for(isa_select(isa)),
               checked_layers(spec, std::move(evidence_layers))) {}

void Decoder::set_prefix(const Prefix& prefix) {
  const DecoderSpec& spec = network_.spec();
  if (prefix.length < 1 || prefix.length > spec.rows())
    throw std::invalid_argument("the prefix has " + std::to_string(prefix.length) +
                                " rows, the decoder takes 1 to " + std::to_string(spec.rows()));
  if (prefix.key_bias && (prefix.bias_length < prefix.length || prefix.bias_length > spec.rows()))
    throw std::invalid_argument("key_bias has " + std::to_string(prefix.bias_length) +
                                " keys per layer, not " + std::to_string(prefix.length) + " (the prefix) to " +
                                std::to_string(spec.rows()));
  const Claim claim(*this);
  network_.set_prefix(prefix);
  has_prefix_ = true;
}

void Decoder::check_ids(std::span<const int32_t> ids, const char* what) const {
  for (const int32_t id : ids)
    if (id < 0 || id >= network_.spec().vocab)
      throw std::invalid_argument(std::string(what) + " holds " + std::to_string(id) +
                                  ", outside the vocabulary of " + std::to_string(network_.spec().vocab));
}

void Decoder::forward(std::span<const int32_t> ids, bool bias, float* logits) {
  const Claim claim(*this);
  if (!has_prefix_) throw std::invalid_argument("set_prefix must be called first");
  check_ids(ids, "ids");
  if (static_cast<int64_t>(ids.size()) > network_.rows_left())
    throw std::invalid_argument(std::to_string(ids.size()) + " rows do not fit: " +
                                std::to_string(network_.rows_left()) + " positions are left");
  const ThreadPool::Busy busy(network_.pool());
  for (size_t at = 0; at < ids.size(); at += kMaxRows) {
    const auto part = ids.subspan(at, std::min<size_t>(kMaxRows, ids.size() - at));
    Step step;
    step.ids = part;
    step.bias = bias;
    step.logits = logits + static_cast<int64_t>(at) * network_.spec().vocab;
    network_.append(step);
  }
}

void Decoder::rewind(int64_t text_rows) {
  const Claim claim(*this);
  if (text_rows < 0 || text_rows > network_.text_rows())
    throw std::invalid_argument("cannot rewind to " + std::to_string(text_rows) + " text rows: there are " +
                                std::to_string(network_.text_rows()));
  network_.rewind(text_rows);
}

GenerationResult Decoder::generate(const float* first_logits, const GenerateOptions& options,
                                   const OnToken& on_token, const CancelToken* cancel) {
  const Claim claim(*this);
  const DecoderSpec& spec = network_.spec();
  if (!has_prefix_) throw std::invalid_argument("set_prefix must be called first");
  check_ids(options.begin_ids, "begin_ids");
  check_ids(options.forced_ids, "forced_ids");
  check_ids(options.stop_ids, "stop_ids");
  if (options.max_new_tokens < 0) throw std::invalid_argument("max_new_tokens must not be negative");
  TokenChooser chooser(network_.kernels(), spec.vocab, options.sampling);
  std::vector<int32_t> prompt(options.begin_ids);
  prompt.insert(prompt.end(), options.forced_ids.begin(), options.forced_ids.end());
  if (!first_logits && prompt.empty())
    throw std::invalid_argument("without first_logits a prompt (begin_ids or forced_ids) is needed");
  network_.rewind(0);
  if (static_cast<int64_t>(prompt.size()) > network_.rows_left())
    throw std::invalid_argument("a prompt of " + std::to_string(prompt.size()) + " ids does not fit: " +
                                std::to_string(network_.rows_left()) + " positions are left");

  const auto start = std::chrono::steady_clock::now();
  const ThreadPool::Busy busy(network_.pool());
  GenerationResult result;
  result.forced_ids = options.forced_ids;
  std::vector<float> logits(static_cast<size_t>(spec.vocab));
  std::vector<BlockStats> stats(static_cast<size_t>(chooser.blocks()));
  std::vector<float> evidence(network_.has_evidence() ? static_cast<size_t>(network_.prefix_rows()) : 0);
  const BlockHook measure = [&](int64_t, int64_t block) {
    stats[static_cast<size_t>(block)] = chooser.measure(logits.data(), block);
  };
  const auto cancelled = [&] { return cancel && cancel->cancelled(); };
  const auto finish = [&](StopReason reason) {
    result.stop_reason = reason;
    result.decode_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return std::move(result);
  };

  Step step;
  step.logits = logits.data();
  step.evidence = evidence.empty() ? nullptr : evidence.data();
  step.on_block = &measure;
  Choice choice{};
  if (options.max_new_tokens == 0) return finish(StopReason::length);
  if (prompt.empty()) {
    choice = chooser.choose(first_logits);
  } else {
    step.bias = options.bias_rows != BiasRows::none;
    const std::span<const int32_t> ids(prompt);
    for (size_t at = 0; at < ids.size(); at += kMaxRows) {
      if (cancelled()) return finish(StopReason::cancelled);
      step.ids = ids.subspan(at, std::min<size_t>(kMaxRows, ids.size() - at));
      const bool last = at + kMaxRows >= ids.size();
      step.logits_from = static_cast<int64_t>(step.ids.size()) - (last ? 1 : 0);
      network_.append(step);
    }
    choice = chooser.choose(logits.data(), stats);
  }
  step.bias = options.bias_rows == BiasRows::all;
  step.logits_from = 0;
  for (;;) {
    if (std::find(options.stop_ids.begin(), options.stop_ids.end(), choice.id) != options.stop_ids.end())
      return finish(StopReason::stop);
    result.token_ids.push_back(choice.id);
    result.logprobs.push_back(choice.logprob);
    result.evidence.insert(result.evidence.end(), evidence.begin(), evidence.end());
    chooser.generated(choice.id);
    if (on_token && !on_token(choice.id, choice.logprob)) return finish(StopReason::cancelled);
    if (static_cast<int64_t>(result.token_ids.size()) >= options.max_new_tokens || network_.rows_left() == 0)
      return finish(StopReason::length);
    if (cancelled()) return finish(StopReason::cancelled);
    step.ids = std::span<const int32_t>(&choice.id, 1);
    network_.append(step);
    choice = chooser.choose(logits.data(), stats);
  }
}

}  // namespace edge
