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
  // Guess ids by a sketch of the decoder as well, where it has one.
  bool sketch = false;
  // Drafts to check instead: [i] where i ids have been generated.
  std::vector<std::vector<int32_t>> draft_script;
  // What passes over 1 to kMaxRows rows cost, instead of what is assumed of this decoder; empty: that.
  std::vector<float> draft_costs;
  // What may follow a text. Texts under rules that depend on it are not drafted.
  TextRules rules;
  BeamOptions beam;
};

// The costs that the options tell, else those assumed.
PassCosts pass_costs(const GenerateOptions& options, const PassCosts& assumed);
// Whether the next ids may be guessed, and no script says how.
bool can_be_drafted(const GenerateOptions& options);
// Where drafts come from, or null where none are wanted.
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
  int64_t sketch_passes = 0;  // over the sketch, to draft them
  // With beams: the texts asked for, best first (the first is the one above), and their scores.
  std::vector<std::vector<int32_t>> sequences;
  std::vector<float> scores;
};

// Returns false to end a text as cancelled.
using OnToken = std::function<bool(int32_t id, float logprob)>;

// A text behind the film of a lane. `first_logits` [vocab] or null are those of its last prefix row; without
// them the prompt (begin and forced ids) must not be empty.
struct TextRequest {
  int64_t lane = 0;
  const float* first_logits = nullptr;
  const GenerateOptions* options = nullptr;
  OnToken on_token;
};

// Another call on the same decoder is running.
struct BusyError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

class Decoder {
 public:
  // Throws std::invalid_argument for thread counts, layers or an instruction set that cannot be.
  Decoder(const DecoderSpec& spec, Weights weights, KvType kv, int64_t threads, const std::string& isa,
          std::vector<int64_t> evidence_layers, const Copies& copies = {});

  using OnToken = edge::OnToken;

  // A film for a lane, 0 to kMaxRows - 1. Lanes are made when they are first needed, and stay.
  void set_prefix(const Prefix& prefix, int64_t lane = 0);
  // Computes the prefix from its embeddings instead; logits [vocab] of its last row.
  void prefill(const PrefixEmbeddings& prefix, float* logits, int64_t lane = 0);
  // Appends rows to the text of lane 0; logits [ids.size(), vocab].
  void forward(std::span<const int32_t> ids, bool bias, float* logits);
  void rewind(int64_t text_rows);
  // Drops the text rows after those that `ids`, with this bias, would begin with; how many are left.
  int64_t keep(std::span<const int32_t> ids, bool bias);
  // Drops the text there is in lane 0, but for what it shares with the prompt, and writes a new one.
  GenerationResult generate(const float* first_logits, const GenerateOptions& options,
                            const OnToken& on_token, const CancelToken* cancel);
  // The same for several lanes, whose rows share the passes over the weights: one row (with beams as many) of
  // each text at least, kMaxRows together. Every text is the one that it would be alone.
  std::vector<GenerationResult> generate(std::span<const TextRequest> requests, const CancelToken* cancel);

  const DecoderSpec& spec() const { return network_.spec(); }
  const Transformer& network() const { return network_; }
  // Throws std::invalid_argument for one that has no film.
  const Lane& lane(int64_t index) const;
  int threads() const { return threads_; }

 private:
  class Claim;
  void open_lane(int64_t lane);
  void check_ids(std::span<const int32_t> ids, const char* what) const;
  void check_prefix(int64_t length, const float* key_bias, int64_t bias_length) const;
  void check_request(const TextRequest& request) const;
  void check_rules(const GenerateOptions& options, const Lane& lane) const;
  void require_bias(bool bias, const Lane& lane) const;

  int threads_;
  Transformer network_;
  std::atomic_flag busy_;
  std::vector<bool> has_prefix_;  // [lanes]
};

}  // namespace edge
