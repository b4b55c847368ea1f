// SPDX-License-Identifier: Apache-2.0
// manifest.json of a bundle, parsed strictly; the twin of edge/manifest.py.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "decoder/decoder.h"
#include "decoder/spec.h"

namespace edge::capi {

enum class Intensity { window, minmax, percentile };
enum class Filter { bicubic, bilinear, lanczos };

struct ImageSpec {
  int64_t height = 0, width = 0;
  std::array<double, 3> mean{}, std{};
  Intensity mode = Intensity::percentile;
  double low = 0.5, high = 99.5;  // percentiles
  bool equalize = false;
  Filter filter = Filter::bicubic;
  // Resize to that first and take the middle: rows and columns, or one number for the shorter edge; empty: no
  // crop.
  std::vector<int64_t> crop_from;
};

// A section of the report: the token that begins it, and what it is.
struct ReportSection {
  int32_t token_id = 0;
  std::string name;
};

struct FileEntry {
  std::string sha256;
  int64_t bytes = 0;
};

struct Manifest {
  std::string name, family, precision, intended_use;
  std::optional<std::string> notice, kv_dtype;
  bool synthetic = false;
  ImageSpec image;
  int64_t prefix = 0, grid_rows = 0, grid_columns = 0;
  std::string bias_kind;
  BiasRows bias_rows = BiasRows::none;
  int64_t bias_sequence = 0;  // 0: the bias covers the prefix only
  DecoderSpec decoder;
  int64_t max_new_tokens = 0;
  double repetition_penalty = 1.0;
  std::vector<int32_t> stop_ids, suppressed_ids, begin_ids;
  bool cut_at_sentence = false;
  std::vector<int64_t> evidence_layers;
  // Beams and rules on a text, where the model has any.
  BeamOptions beam;
  TextRules rules;
  std::vector<ReportSection> sections;
  std::string vision_file, weights_file, tokenizer_file;
  // Checked, not used here: for GPUs; for OpenVINO with bfloat16; for coded SR.
  std::optional<std::string> vision_fp16_file, vision_static_file, vision_tensorrt_file, coding_file;
  std::optional<std::string> draft_file;
  std::map<std::string, FileEntry> files;

  // The decoder reads the image by cross-attention, not as a prefix of the text.
  bool kernel_prefill = false;  // the graph ends at the prefix embeddings
  std::vector<std::string> prefill_int8;
  bool has_cross() const { return decoder.has_cross(); }
  bool has_mask() const { return bias_kind != "none"; }
  int64_t patches() const { return grid_rows * grid_columns; }
  // Rows that fit behind the image: prompt and text.
  int64_t text_room() const;
};

inline constexpr int64_t kMaxBeams = 16;
inline constexpr size_t kMaxManifestBytes = size_t{1} << 20;

// Throws Failure (EDGE_BUNDLE) naming the first value that is missing, unknown, of a wrong type or out of
// range.
Manifest parse_manifest(std::string_view text);

const char* rows_name(BiasRows rows);
// Empty where the name is none of all, prefill, none.
std::optional<BiasRows> rows_of(std::string_view name);

}  // namespace edge::capi
