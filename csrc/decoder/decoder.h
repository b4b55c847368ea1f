// SPDX-License-Identifier: Apache-2.0
// The decode loop: prompt, token by token, stop.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "decoder/beams.h"
#include "decoder/draft.h"
#include "decoder/sampling.h"
#include "decoder/transformer.h"

namespace edge {

enum class BiasRows { all, prefill, none };
enum class StopReason { stop, length, cancelled };

// Set from any thread; looked at before every token.
class CancelToken {
 public:
  void cancel() { cancelled_.store(true, std::memory_order_relaxed); }
  bool cancelled() const { return cancelled_.load(std::memory_order_relaxed); }

 private:
  std::atomic<bool> cancelled_{false};
};

struct GenerateOptions {
  std::vector<int32_t> begin_ids;
  std::vector<int32_t> forced_ids;
  BiasRows bias_rows = BiasRows::all;
  int64_t max_new_tokens = 100;
  std::vector<int32_t> stop_ids;
  SamplingOptions sampling;
  // Greedy texts only: guess ids from the text itself and, where there is one, from the table, and check
  // several in one pass. The text, its log-probabilities and its evidence are the same bit by bit.
  bool draft = false;
  const DraftTable* draft_table = nullptr;
  // Drafts to check instead: [i] where i ids have been generated.
  std::vector<std::vector<int32_t>> draft_script;
  // What passes over 1 to kMaxRows rows cost, instead of what is assumed of this decoder; empty: that.
  std::vector<float> draft_costs;
  // What may follow a text. Texts under rules that depend on it are not drafted.
  TextRules rules;
  BeamOptions beam;
};

// Where drafts come from, or null where none are wanted. `costs` are assumed where the options tell none.
std::unique_ptr<Drafter> make_drafter(const GenerateOptions& options, const PassCosts& costs);
// Throws std::invalid_argument for what is no draft script, table or cost.
void check_drafting(const GenerateOptions& options, int64_t vocab);

struct GenerationResult {
  std::vector<int32_t> token_ids;
  std::vector<float> logprobs;
  std::vector<float> evidence;  // [tokens, prefix length], empty without evidence layers
  std::vector<int32_t> forced_ids;
  StopReason stop_reason = StopReason::length;
  double decode_seconds = 0.0;
  // Passes over the weights after the prompt; ids drafted for them, and how many of those were right.
  int64_t passes = 0;
  int64_t drafted = 0;
  int64_t accepted = 0;
  // With beams: the texts asked for, best first (the first is the one above), and their scores.
  std::vector<std::vector<int32_t>> sequences;
  std::vector<float> scores;
};

// Another call on the same decoder is running.
struct BusyError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

class Decoder {
 public:
  // Throws std::invalid_argument for thread counts, layers or an instruction set that cannot be.
  Decoder(const DecoderSpec& spec, Weights weights, KvType kv, int64_t threads, const std::string& isa,
          std::vector<int64_t> evidence_layers);

  // Returns false to end the generation as cancelled.
  using OnToken = std::function<bool(int32_t id, float logprob)>;

  void set_prefix(const Prefix& prefix);
  // Computes the prefix from its embeddings instead; logits [vocab] of its last row.
  void prefill(const PrefixEmbeddings& prefix, float* logits);
  // Appends rows to the text; logits [ids.size(), vocab].
  void forward(std::span<const int32_t> ids, bool bias, float* logits);
  void rewind(int64_t text_rows);
  // Drops the text rows after those that `ids`, with this bias, would begin with; how many are left.
  int64_t keep(std::span<const int32_t> ids, bool bias);
  // Drops the text there is, but for what it shares with the prompt, and writes a new one after the prefix.
  // `first_logits` [vocab] or null are those of the last prefix row; without them the prompt (begin and
  // forced ids) must not be empty.
  GenerationResult generate(const float* first_logits, const GenerateOptions& options,
                            const OnToken& on_token, const CancelToken* cancel);

  const DecoderSpec& spec() const { return network_.spec(); }
  const Transformer& network() const { return network_; }
  int threads() const { return threads_; }

 private:
  class Claim;
  void check_ids(std::span<const int32_t> ids, const char* what) const;
  void check_prefix(int64_t length, const float* key_bias, int64_t bias_length) const;
  void check_rules(const GenerateOptions& options) const;
  void require_bias(bool bias) const;
  // Behind a prompt that has been appended: from the last row's logits and evidence.
  GenerationResult search_beams(const float* first_logits, const float* first_evidence,
                                std::span<const int32_t> prompt, const GenerateOptions& options,
                                const OnToken& on_token, const CancelToken* cancel);

  int threads_;
  Transformer network_;
  std::atomic_flag busy_;
  bool has_prefix_ = false;
};

}  // namespace edge
