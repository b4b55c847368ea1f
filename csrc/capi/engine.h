// SPDX-License-Identifier: Apache-2.0
// The engine: one film in, one report out. Film -> 8-bit picture -> pixels -> vision graph -> mask check ->
// decoding kernel -> report; one way only.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "bundle.h"
#include "decoder/decoder.h"
#include "edge_report.h"
#include "model_files.h"
#include "report.h"
#include "sentences.h"
#include "tokenizer.h"
#include "vision.h"

namespace edge::capi {

// How a number in an option says that texts are drafted.
edge_draft draft_of(int32_t number);

struct Written {
  Report report;
  std::string json;
};

class Engine {
 public:
  // Throws Failure.
  Engine(const std::string& path, const edge_options& options);

  const Manifest& manifest() const { return bundle_.manifest(); }
  const std::string& info() const { return info_; }
  // [3, height, width]
  std::vector<float> prepare(const edge_film& film) const;
  Written report(const edge_film& film, const edge_report_options& options, const CancelToken* cancel);

 private:
  struct Plan;  // of one report: the options, checked
  struct Prepared;
  class Clock;

  Plan plan(const edge_report_options& options, const CancelToken* cancel) const;
  BiasRows check_rows(const char* rows, BiasRows missing) const;
  Graph graph_of(const std::string& name) const;
  std::unique_ptr<VisionRuntime> open_vision(const edge_options& options) const;
  Prepared prepared(const edge_film& film) const;
  VisionOutput look(const Prepared& film, Plan& plan, std::vector<std::string>& warnings);
  GenerationResult write(const VisionOutput& seen, Plan& plan, Clock& clock);
  void finish(const GenerationResult& result, Plan& plan, Report& report) const;
  void general_warnings(const Plan& plan, const GenerationResult& result, bool was_cut,
                        std::vector<std::string>& warnings) const;

  Bundle bundle_;
  DecoderWeights weights_;
  std::unique_ptr<LoadedDraft> draft_;
  Tokenizer tokenizer_;
  BiasRows rows_;
  edge_draft draft_wanted_;
  RunsOn runs_on_;
  std::optional<Decoder> decoder_;
  std::optional<Vision> vision_;
  std::string info_;
  std::mutex mutex_;                        // held while a report is made
  std::atomic<std::thread::id> reporting_;  // who holds it
};

}  // namespace edge::capi
