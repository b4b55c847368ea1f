// SPDX-License-Identifier: Apache-2.0
// The report: findings, sentence by sentence, with confidence, evidence, provenance and timings; as JSON the
// same contract as the Python package's.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "decoder/decoder.h"
#include "evidence.h"
#include "film.h"
#include "manifest.h"

namespace edge::capi {

struct Sentence {
  std::string text;
  std::optional<double> confidence;  // exp of the mean log-probability of its tokens
  std::optional<Evidence> evidence;
  std::string section;  // empty where the model writes none
};

// How the model runs: part of every report.
struct RunsOn {
  std::string kv_dtype, vision, isa;
  int threads = 1;
};

struct Report {
  std::string findings, stop_reason;
  std::vector<Sentence> sentences;
  std::vector<int32_t> token_ids;
  std::vector<float> logprobs;
  std::vector<std::string> warnings;
  BiasRows bias_rows = BiasRows::none;
  FilmMeta film;
  std::vector<std::pair<std::string, double>> timings_ms;  // in order
  double tokens_per_s = 0.0;
  int64_t passes = 0, drafted = 0, accepted = 0, sketch_passes = 0;
  int64_t image_keys = 0, image_keys_kept = 0, bytes_per_token = 0;
  std::vector<uint8_t> mask;
  int64_t mask_rows = 0, mask_columns = 0;
};

// Splits the findings and gives each sentence the tokens that wrote it; a sentence ends where a section of
// the report begins. `ends`: for each token how many characters are there once it is known, `dropped` of them
// white space before the findings. Evidence [tokens, prefix].
std::vector<Sentence> make_sentences(std::u32string_view findings, const std::vector<size_t>& ends,
                                     size_t dropped, const GenerationResult& result,
                                     const Manifest& manifest);

std::string report_json(const Report& report, const Manifest& manifest, const std::string& sha256,
                        const RunsOn& runs_on);
// About the loaded model, without a report.
std::string info_json(const Manifest& manifest, const std::string& sha256, const RunsOn& runs_on);

}  // namespace edge::capi
