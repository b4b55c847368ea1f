// SPDX-License-Identifier: Apache-2.0
#include "decoder/decoder.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>

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

// Measured in passes over one row. Where weights and cache come from memory, further rows cost little until
// the arithmetic takes longer than the reading; a decoder that stays in the processor's cache pays for the
// arithmetic of every row. Rows are computed in tiles of four.
constexpr PassCosts kFromMemory{0.0f, 1.0f,  1.02f, 1.05f, 1.2f, 1.5f,  1.53f, 1.56f, 1.75f,
                                2.1f, 2.15f, 2.3f,  2.5f,  2.7f, 2.85f, 3.0f,  3.1f};
constexpr PassCosts kFromCache{0.0f, 1.0f, 1.4f, 1.95f, 2.4f, 3.4f, 3.75f, 4.2f, 4.4f,
                               5.3f, 5.6f, 6.0f, 6.3f,  7.0f, 7.3f, 7.6f,  7.9f};
constexpr int64_t kCacheBytes = int64_t{32} << 20;

// The rows of a pass whose ids turned out wrong, or were never looked at, leave the cache again.
class SpareRows {
 public:
  explicit SpareRows(Transformer& network) : network_(network) {}
  ~SpareRows() { drop(); }
  SpareRows(const SpareRows&) = delete;
  SpareRows& operator=(const SpareRows&) = delete;

  int64_t count = 0;
  void drop() {
    network_.rewind(network_.text_rows() - count);
    count = 0;
  }

 private:
  Transformer& network_;
};

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
  check_prefix(prefix.length, prefix.key_bias, prefix.bias_length);
  const Claim claim(*this);
  network_.set_prefix(prefix);
  has_prefix_ = true;
}

void Decoder::prefill(const PrefixEmbeddings& prefix, float* logits) {
  if (!network_.spec().is_plain())
    throw std::invalid_argument(
        "the prefill of this decoder is not implemented: only that of a plain pre-norm one behind a prefix "
        "is");
  check_prefix(prefix.length, prefix.key_bias, prefix.bias_length);
  const Claim claim(*this);
  has_prefix_ = false;
  network_.prefill(prefix, logits);
  has_prefix_ = true;
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

void Decoder::require_bias(bool bias) const {
  if (!bias && network_.needs_bias())
    throw std::invalid_argument(
        "hidden keys were left out of the prefix: rows without the bias would see them");
}

void Decoder::forward(std::span<const int32_t> ids, bool bias, float* logits) {
  const Claim claim(*this);
  if (!has_prefix_) throw std::invalid_argument("set_prefix must be called first");
  check_ids(ids, "ids");
  if (static_cast<int64_t>(ids.size()) > network_.rows_left())
    throw std::invalid_argument(std::to_string(ids.size()) + " rows do not fit: " +
                                std::to_string(network_.rows_left()) + " positions are left");
  require_bias(bias);
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

int64_t Decoder::keep(std::span<const int32_t> ids, bool bias) {
  const Claim claim(*this);
  network_.rewind(network_.matching_rows(ids, bias));
  return network_.text_rows();
}

std::unique_ptr<Drafter> make_drafter(const GenerateOptions& options, const PassCosts& assumed) {
  if (!options.draft_script.empty())
    return std::make_unique<ScriptedDrafter>(options.draft_script, std::ssize(options.forced_ids));
  // A sampled id depends on the state of the random numbers, so there is nothing to check a draft against.
  if (!options.draft || options.sampling.temperature > 0.0f || options.rules.ban_anything()) return nullptr;
  std::vector<int32_t> ends(options.stop_ids);
  ends.insert(ends.end(), options.sampling.suppressed.begin(), options.sampling.suppressed.end());
  PassCosts costs = assumed;
  if (!options.draft_costs.empty()) std::copy_n(options.draft_costs.begin(), kMaxRows, costs.begin() + 1);
  return std::make_unique<TextDrafter>(options.draft_table, std::move(ends), costs);
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
  const Claim claim(*this);
  const DecoderSpec& spec = network_.spec();
  if (!has_prefix_) throw std::invalid_argument("set_prefix must be called first");
  check_ids(options.begin_ids, "begin_ids");
  check_ids(options.forced_ids, "forced_ids");
  check_ids(options.stop_ids, "stop_ids");
  check_drafting(options, spec.vocab);
  check_rules(options);
  require_bias(options.bias_rows == BiasRows::all);
  if (options.max_new_tokens < 0) throw std::invalid_argument("max_new_tokens must not be negative");
  TokenChooser chooser(network_.kernels(), spec.vocab, options.sampling);
  std::vector<int32_t> prompt(options.begin_ids);
  prompt.insert(prompt.end(), options.forced_ids.begin(), options.forced_ids.end());
  if (!first_logits && prompt.empty())
    throw std::invalid_argument("without first_logits a prompt (begin_ids or forced_ids) is needed");
  // What the prompt shares with the text that is there need not be computed again, but for the row it is
  // chosen from.
  const bool prompt_bias = options.bias_rows != BiasRows::none;
  const int64_t shared =
      prompt.empty() ? 0 : std::min(network_.matching_rows(prompt, prompt_bias), std::ssize(prompt) - 1);
  network_.rewind(shared);
  if (std::ssize(prompt) - shared > network_.rows_left())
    throw std::invalid_argument("a prompt of " + std::to_string(prompt.size()) + " ids does not fit: " +
                                std::to_string(network_.rows_left()) + " positions are left");

  const auto start = std::chrono::steady_clock::now();
  const ThreadPool::Busy busy(network_.pool());
  const bool large = network_.weight_bytes() + network_.cache_bytes() > kCacheBytes;
  const std::unique_ptr<Drafter> drafter = make_drafter(options, large ? kFromMemory : kFromCache);
  const size_t widest = drafter ? kMaxRows : 1, vocab = static_cast<size_t>(spec.vocab);
  const size_t blocks = static_cast<size_t>(chooser.blocks());
  const size_t keys = network_.has_evidence() ? static_cast<size_t>(network_.image_rows()) : 0;
  const auto logits = std::make_unique_for_overwrite<float[]>(widest * vocab);
  std::vector<BlockStats> stats(widest * blocks);
  std::vector<float> evidence(widest * keys);
  // Row r is chosen from as if the drafted ids before it were generated: `changed` are those of them whose
  // score that changes, each once; the first changed_before[r] belong to row r.
  std::vector<int32_t> changed;
  std::array<size_t, kMaxRows> changed_before{};
  const BlockHook measure = [&](int64_t row, int64_t block) {
    const auto r = static_cast<size_t>(row);
    stats[r * blocks + static_cast<size_t>(block)] =
        chooser.measure(logits.get() + r * vocab, block, std::span(changed).first(changed_before[r]));
  };
  const auto choose = [&](size_t row) {
    return chooser.choose(logits.get() + row * vocab, std::span(stats).subspan(row * blocks, blocks));
  };
  const auto cancelled = [&] { return cancel && cancel->cancelled(); };
  GenerationResult result;
  result.forced_ids = options.forced_ids;
  const auto finish = [&](StopReason reason) {
    result.stop_reason = reason;
    result.decode_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return std::move(result);
  };

  if (options.rules.penalise_prompt)
    for (const int32_t id : prompt) chooser.generated(id);
  // All ids before the next one, where rules look at them.
  std::vector<int32_t> before(prompt);
  const auto set_bans = [&] {
    if (!options.rules.ban_anything()) return;
    before.resize(prompt.size());
    before.insert(before.end(), result.token_ids.begin(), result.token_ids.end());
    chooser.ban(banned_after(options.rules, options.stop_ids, before, std::ssize(result.token_ids)));
  };
  const bool beams = options.beam.beams > 1;
  if (!beams) set_bans();
  Step step;
  step.logits = logits.get();
  step.evidence = evidence.empty() ? nullptr : evidence.data();
  step.on_block = &measure;
  Choice choice{};
  if (options.max_new_tokens == 0) return finish(StopReason::length);
  if (prompt.empty()) {
    if (!beams) choice = chooser.choose(first_logits);
  } else {
    step.bias = prompt_bias;
    const auto ids = std::span<const int32_t>(prompt).subspan(static_cast<size_t>(shared));
    for (size_t at = 0; at < ids.size(); at += kMaxRows) {
      if (cancelled()) return finish(StopReason::cancelled);
      step.ids = ids.subspan(at, std::min<size_t>(kMaxRows, ids.size() - at));
      const bool last = at + kMaxRows >= ids.size();
      step.logits_from = std::ssize(step.ids) - (last ? 1 : 0);
      network_.append(step);
    }
    if (!beams) choice = choose(0);
  }
  if (beams) {
    GenerationResult found =
        search_beams(prompt.empty() ? first_logits : logits.get(), prompt.empty() ? nullptr : step.evidence,
                     prompt, options, on_token, cancel);
    found.forced_ids = options.forced_ids;
    result = std::move(found);
    return finish(result.stop_reason);
  }
  const int64_t cap = options.max_new_tokens - (options.rules.forced_end >= 0 ? 1 : 0);
  if (cap <= 0) return finish(StopReason::length);
  step.bias = options.bias_rows == BiasRows::all;
  step.logits_from = 0;
  std::vector<int32_t> text(options.forced_ids), pass;  // what a draft follows; the ids of the running pass
  size_t row = 0;                                       // of the pass, that `choice` comes from
  SpareRows spare(network_);
  for (;;) {
    if (std::find(options.stop_ids.begin(), options.stop_ids.end(), choice.id) != options.stop_ids.end())
      return finish(StopReason::stop);
    result.token_ids.push_back(choice.id);
    result.logprobs.push_back(choice.logprob);
    const auto mass = evidence.begin() + static_cast<std::ptrdiff_t>(row * keys);
    result.evidence.insert(result.evidence.end(), mass, mass + static_cast<std::ptrdiff_t>(keys));
    chooser.generated(choice.id);
    text.push_back(choice.id);
    if (on_token && !on_token(choice.id, choice.logprob)) return finish(StopReason::cancelled);
    const int64_t tokens_left = cap - std::ssize(result.token_ids);
    const int64_t rows_left = network_.rows_left() + spare.count;
    if (tokens_left <= 0 || rows_left == 0) return finish(StopReason::length);
    if (cancelled()) return finish(StopReason::cancelled);
    if (spare.count > 0 && pass[row + 1] == choice.id) {
      // The draft was right: the row that follows this id has been computed.
      ++row;
      --spare.count;
      ++result.accepted;
    } else {
      if (drafter && !pass.empty()) drafter->verified(static_cast<int64_t>(row), spare.count > 0);
      spare.drop();
      pass.assign(1, choice.id);
      if (drafter) {
        const auto draft = drafter->draft(text, std::min({tokens_left, rows_left, kMaxRows}) - 1);
        pass.insert(pass.end(), draft.begin(), draft.end());
      }
      changed.clear();
      for (size_t r = 1; r < pass.size(); ++r) {
        if (chooser.fresh(pass[r]) && std::find(changed.begin(), changed.end(), pass[r]) == changed.end())
          changed.push_back(pass[r]);
        changed_before[r] = changed.size();
      }
      step.ids = pass;
      set_bans();
      network_.append(step);
      row = 0;
      spare.count = std::ssize(pass) - 1;
      ++result.passes;
      result.drafted += spare.count;
    }
    choice = choose(row);
  }
}

void Decoder::check_rules(const GenerateOptions& options) const {
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
  require(!network_.biases_text(), "beams do not go with a bias on text keys");
}

}  // namespace edge
