// SPDX-License-Identifier: Apache-2.0
#include "decoder/decoder.h"

#include <algorithm>
#include <cmath>

#include "cpu/isa.h"
#include "decoder/writer.h"

namespace edge {
namespace {

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
                 std::vector<int64_t> evidence_layers, const Copies& copies)
    : threads_(checked_threads(threads)),
      network_(spec, std::move(weights), kv, threads_, kernels_for(isa_select(isa)),
               checked_layers(spec, std::move(evidence_layers)), copies),
      has_prefix_(1, false) {}

void Decoder::set_prefix(const Prefix& prefix, int64_t lane) {
  check_prefix(prefix.length, prefix.key_bias, prefix.bias_length);
  const Claim claim(*this);
  open_lane(lane);
  has_prefix_[static_cast<size_t>(lane)] = false;  // nor is there one if memory runs out meanwhile
  network_.set_prefix(prefix, lane);
  has_prefix_[static_cast<size_t>(lane)] = true;
}

void Decoder::prefill(const PrefixEmbeddings& prefix, float* logits, int64_t lane) {
  if (!network_.spec().is_plain())
    throw std::invalid_argument(
        "the prefill of this decoder is not implemented: only that of a plain pre-norm one behind a prefix "
        "is");
  check_prefix(prefix.length, prefix.key_bias, prefix.bias_length);
  const Claim claim(*this);
  open_lane(lane);
  has_prefix_[static_cast<size_t>(lane)] = false;
  network_.prefill(prefix, logits, lane);
  has_prefix_[static_cast<size_t>(lane)] = true;
}

void Decoder::open_lane(int64_t lane) {
  if (lane < 0 || lane >= kMaxRows)
    throw std::invalid_argument("lane " + std::to_string(lane) + " is not one of 0 to " +
                                std::to_string(kMaxRows - 1));
  network_.open_lanes(lane + 1);
  has_prefix_.resize(static_cast<size_t>(network_.lanes()), false);
}

void Decoder::check_prefix(int64_t length, const float* key_bias, int64_t bias_length) const {
  const DecoderSpec& spec = network_.spec();
  const int64_t most = spec.has_cross() ? spec.cross_keys : spec.rows();
  if (length < 1 || length > most)
    throw std::invalid_argument("the prefix has " + std::to_string(length) +
                                " rows, the decoder takes 1 to " + std::to_string(most));
  const int64_t longest = spec.has_cross() ? length : most;  // a cross-attention has no text keys
  if (key_bias && (bias_length < length || bias_length > longest))
    throw std::invalid_argument("key_bias has " + std::to_string(bias_length) + " keys per layer, not " +
                                std::to_string(length) + " (the prefix) to " + std::to_string(longest));
}

void Decoder::check_ids(std::span<const int32_t> ids, const char* what) const {
  for (const int32_t id : ids)
    if (id < 0 || id >= network_.spec().vocab)
      throw std::invalid_argument(std::string(what) + " holds " + std::to_string(id) +
                                  ", outside the vocabulary of " + std::to_string(network_.spec().vocab));
}

void Decoder::require_bias(bool bias, const Lane& lane) const {
  if (!bias && lane.needs_bias())
    throw std::invalid_argument(
        "hidden keys were left out of the prefix: rows without the bias would see them");
}

void Decoder::forward(std::span<const int32_t> ids, bool bias, float* logits) {
  const Claim claim(*this);
  if (!has_prefix_[0]) throw std::invalid_argument("set_prefix must be called first");
  check_ids(ids, "ids");
  if (static_cast<int64_t>(ids.size()) > network_.rows_left())
    throw std::invalid_argument(std::to_string(ids.size()) + " rows do not fit: " +
                                std::to_string(network_.rows_left()) + " positions are left");
  require_bias(bias, network_.lane());
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
  Lane& lane = network_.lane();
  if (text_rows < 0 || text_rows > lane.text_rows())
    throw std::invalid_argument("cannot rewind to " + std::to_string(text_rows) + " text rows: there are " +
                                std::to_string(lane.text_rows()));
  lane.rewind(text_rows);
}

int64_t Decoder::keep(std::span<const int32_t> ids, bool bias) {
  const Claim claim(*this);
  Lane& lane = network_.lane();
  lane.rewind(lane.matching_rows(ids, bias));
  return lane.text_rows();
}

void check_drafting(const GenerateOptions& options, int64_t vocab) {
  for (const auto& draft : options.draft_script)
    for (const int32_t id : draft)
      if (id < 0 || id >= vocab)
        throw std::invalid_argument("draft_script holds " + std::to_string(id) +
                                    ", outside the vocabulary of " + std::to_string(vocab));
  if (options.draft_table && options.draft_table->vocab() != vocab)
    throw std::invalid_argument("the draft table is for another vocabulary");
  if (!options.draft_costs.empty() && std::ssize(options.draft_costs) != kMaxRows)
    throw std::invalid_argument("draft_costs must hold one cost per number of rows, 1 to " +
                                std::to_string(kMaxRows));
  for (const float cost : options.draft_costs)
    if (!std::isfinite(cost) || cost <= 0.0f) throw std::invalid_argument("draft_costs must be positive");
  if (!options.draft_script.empty() && options.sampling.temperature > 0.0f)
    throw std::invalid_argument("a sampled text cannot be drafted");
}

GenerationResult Decoder::generate(const float* first_logits, const GenerateOptions& options,
                                   const OnToken& on_token, const CancelToken* cancel) {
  const TextRequest request{0, first_logits, &options, on_token};
  return std::move(generate({&request, 1}, cancel).front());
}

std::vector<GenerationResult> Decoder::generate(std::span<const TextRequest> requests,
                                                const CancelToken* cancel) {
  const Claim claim(*this);
  const auto texts = std::ssize(requests);
  int64_t rows = 0;
  std::vector<bool> taken(static_cast<size_t>(network_.lanes()), false);
  for (const TextRequest& request : requests) {
    check_request(request);
    const auto lane = static_cast<size_t>(request.lane);
    if (taken[lane]) throw std::invalid_argument("two texts cannot share a lane");
    taken[lane] = true;
    rows += request.options->beam.beams;
  }
  if (rows > kMaxRows)
    throw std::invalid_argument("the texts have " + std::to_string(rows) +
                                " rows together, beams included: at most " + std::to_string(kMaxRows) +
                                " are computed at once");
  const ThreadPool::Busy busy(network_.pool());
  std::vector<std::unique_ptr<Writer>> writers;
  for (const TextRequest& request : requests)
    writers.push_back(request.options->beam.beams > 1 ? make_beam_writer(network_, request, cancel)
                                                      : make_greedy_writer(network_, request, cancel, texts));
  const auto vocab = static_cast<size_t>(network_.spec().vocab);
  const auto logits = std::make_unique_for_overwrite<float[]>(kMaxRows * vocab);
  std::vector<Writer*> active;
  std::vector<const Step*> steps;
  for (;;) {
    // What nobody needs is shared out for drafts and prompts.
    int64_t spare = kMaxRows, going_on = 0;
    for (const auto& writer : writers)
      if (!writer->ended()) spare -= writer->least(), ++going_on;
    float* out = logits.get();
    active.clear();
    steps.clear();
    for (const auto& writer : writers) {
      if (writer->ended()) continue;
      Step* step = writer->next(writer->least() + spare / going_on);
      if (!step) continue;
      step->logits = out;
      out += (step->ids.size() - static_cast<size_t>(step->logits_from)) * vocab;
      active.push_back(writer.get());
      steps.push_back(step);
    }
    if (active.empty()) break;
    network_.append(steps);
    for (Writer* writer : active) writer->took();
  }
  std::vector<GenerationResult> results;
  for (const auto& writer : writers) results.push_back(writer->finish());
  return results;
}

const Lane& Decoder::lane(int64_t index) const {
  if (index < 0 || index >= network_.lanes() || !has_prefix_[static_cast<size_t>(index)])
    throw std::invalid_argument("set_prefix must be called first");
  return network_.lane(index);
}

void Decoder::check_request(const TextRequest& request) const {
  const DecoderSpec& spec = network_.spec();
  const GenerateOptions& options = *request.options;
  const Lane& lane = this->lane(request.lane);
  check_ids(options.begin_ids, "begin_ids");
  check_ids(options.forced_ids, "forced_ids");
  check_ids(options.stop_ids, "stop_ids");
  check_drafting(options, spec.vocab);
  check_rules(options, lane);
  require_bias(options.bias_rows == BiasRows::all, lane);
  if (options.max_new_tokens < 0) throw std::invalid_argument("max_new_tokens must not be negative");
}

void Decoder::check_rules(const GenerateOptions& options, const Lane& lane) const {
  const TextRules& rules = options.rules;
  const auto require = [](bool ok, const char* message) {
    if (!ok) throw std::invalid_argument(message);
  };
  require(rules.no_repeat_ngram >= 0 && rules.min_new_tokens >= 0 && rules.counted_begin >= 0,
          "no_repeat_ngram, min_new_tokens and counted_begin must not be negative");
  require(rules.forced_end < network_.spec().vocab, "forced_end is outside the vocabulary");
  require(!rules.ban_anything() || options.draft_script.empty(),
          "a text under these rules cannot be drafted");
  require(options.beam.beams >= 1 && options.beam.beams <= kMaxRows, "beams must be 1 to 16");
  if (options.beam.beams == 1) return;
  require(options.sampling.temperature == 0.0f, "beams are not sampled");
  require(!lane.biases_text(), "beams do not go with a bias on text keys");
}

}  // namespace edge
