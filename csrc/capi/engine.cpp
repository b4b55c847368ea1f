// SPDX-License-Identifier: Apache-2.0
#include "engine.h"

#include <limits>

#include "cpu/isa.h"
#include "cpu/processor.h"
#include "failure.h"
#include "onnx_file.h"
#include "threads.h"
#include "utf8.h"

namespace edge::capi {
namespace {

KvType kv_type(const std::string& name) {
  if (name == "fp32") return KvType::f32;
  if (name == "fp16") return KvType::f16;
  if (name == "int8") return KvType::i8;
  throw Failure(EDGE_USAGE, "kv_dtype " + in_quotes(name) + " is not one of fp32, fp16, int8");
}

int checked_threads(int32_t threads) {
  if (threads == 0) return default_threads();
  if (threads < 1 || threads > kMaxThreads)
    throw Failure(EDGE_USAGE, "threads must be 0 (as many as pay) or 1 to " + std::to_string(kMaxThreads));
  return threads;
}

std::string checked_isa(const char* name) {
  try {
    return isa_select(name ? name : "");
  } catch (const std::invalid_argument& error) {
    throw Failure(EDGE_DEVICE, printable(error.what()));
  }
}

std::string text_of(const char* value, const std::string& missing) {
  return value && *value ? value : missing;
}

RunsOn runs_on(const Manifest& manifest, const edge_options& options) {
  const std::string fitting = manifest.precision == "fp32" ? "fp32" : "fp16";
  RunsOn on;
  on.kv_dtype = text_of(options.kv_dtype, manifest.kv_dtype.value_or(fitting));
  kv_type(on.kv_dtype);
  on.isa = checked_isa(options.isa);
  on.threads = checked_threads(options.threads);
  return on;
}

}  // namespace

edge_draft draft_of(int32_t number) {
  if (number == EDGE_DRAFT_OFF || number == EDGE_DRAFT_SKETCH) return static_cast<edge_draft>(number);
  return EDGE_DRAFT_ALL;
}

Engine::Engine(const std::string& path, const edge_options& options)
    : bundle_(path),
      weights_(load_weights(bundle_)),
      draft_(draft_of(options.draft) == EDGE_DRAFT_ALL ? load_draft(bundle_) : nullptr),
      tokenizer_(bundle_.file(manifest().tokenizer_file).text(), manifest().tokenizer_file,
                 manifest().decoder.vocab),
      rows_(check_rows(options.bias_rows, manifest().bias_rows)),
      draft_wanted_(draft_of(options.draft)),
      runs_on_(runs_on(manifest(), options)) {
  vision_.emplace(manifest(), open_vision(options));
  runs_on_.vision = vision_->runtime();
  decoder_.emplace(
      manifest().decoder, weights_.weights, kv_type(runs_on_.kv_dtype),
      decode_threads(runs_on_.threads, weights_.bytes, draft_ != nullptr), runs_on_.isa,
      manifest().evidence_layers,
      Copies{.sketch_from =
                 draft_wanted_ != EDGE_DRAFT_OFF ? kSketchFrom : std::numeric_limits<int64_t>::max()});
  // What has been read is not needed any more.
  for (const auto& [name, entry] : manifest().files)
    if (name != manifest().weights_file && name != manifest().draft_file) bundle_.drop(name);
  info_ = info_json(manifest(), bundle_.sha256(), runs_on_);
}

Graph Engine::graph_of(const std::string& name) const {
  Graph graph;
  graph.bytes = bundle_.file(name).bytes(), graph.name = name;
  graph.threads = runs_on_.threads, graph.sha256 = manifest().files.at(name).sha256;
  check_self_contained(graph.bytes, name);
  return graph;
}

std::unique_ptr<VisionRuntime> Engine::open_vision(const edge_options& options) const {
  const Manifest& m = manifest();
  const X86Features processor = x86_features();
  const Graph graph = graph_of(m.vision_file);
  OpenVinoGraph theirs{graph, m.precision == "fp32" && m.has_cross() && !m.has_mask() && processor.avx512};
  if (m.vision_static_file && processor.vnni) {
    theirs = {graph_of(*m.vision_static_file), true};
    theirs.graph.bf16 = true;
  }
  return open_runtime(graph, theirs, text_of(options.runtime, "auto"), text_of(options.runtime_library, ""));
}

BiasRows Engine::check_rows(const char* name, BiasRows missing) const {
  if (!name || !*name) return missing;
  const std::optional<BiasRows> rows = rows_of(name);
  if (!rows) throw Failure(EDGE_USAGE, "bias rows must be one of all, prefill, none, not " + in_quotes(name));
  if (*rows != BiasRows::none && !manifest().has_mask())
    throw Failure(EDGE_USAGE,
                  "bias rows " + std::string(name) + " ask for a bias, but this bundle holds no segmenter");
  return *rows;
}

}  // namespace edge::capi
