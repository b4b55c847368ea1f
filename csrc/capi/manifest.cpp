// SPDX-License-Identifier: Apache-2.0
#include "manifest.h"

#include <algorithm>
#include <set>
#include <type_traits>

#include "failure.h"
#include "section.h"
#include "utf8.h"

namespace edge::capi {
namespace {

constexpr int64_t kFormatVersion = 1;
constexpr int64_t kMaxFileBytes = int64_t{1} << 40, kMaxCacheBytes = int64_t{8} << 30;
const std::vector<std::string> kKv{"fp32", "fp16", "int8"};

bool plain_file_name(std::string_view name) {
  const auto alnum = [](char c) {
    return is_digit(static_cast<unsigned char>(c)) ||
           (static_cast<unsigned char>(c) < 0x80 && is_letter(static_cast<unsigned char>(c)));
  };
  if (name.empty() || name.size() > 128 || !alnum(name[0]) || name.find("..") != std::string_view::npos)
    return false;
  return std::all_of(name.begin(), name.end(),
                     [&](char c) { return alnum(c) || c == '.' || c == '_' || c == '-'; });
}

std::string folded(std::string_view name) {
  std::string out(name);
  for (char& c : out) c = static_cast<char>(to_lower(static_cast<unsigned char>(c)));
  return out;
}

bool is_sha256(const std::string* text) {
  return text && text->size() == 64 && text->find_first_not_of("0123456789abcdef") == std::string::npos;
}

void read_files(Section section, Manifest& out) {
  const JsonObject& members = section.members();
  if (members.empty() || members.size() > 64) throw bundle_failure("files must list 1 to 64 files");
  std::set<std::string> names;
  for (const auto& [name, value] : members) {
    if (!plain_file_name(name) || folded(name) == "manifest.json")
      throw bundle_failure("files: " + in_quotes(name) + " is not a plain file name");
    if (!names.insert(folded(name)).second)
      throw bundle_failure("files: " + in_quotes(name) + " is listed twice in different case");
    Section entry = section.section(name);
    const std::string* digest = entry.take("sha256", "64 hexadecimal digits").get<std::string>();
    if (!is_sha256(digest)) entry.fail("sha256", "64 lower-case hexadecimal digits");
    out.files[name] = {*digest, entry.integer("bytes", 0, kMaxFileBytes)};
    entry.done();
  }
}

std::string reference(Section& section, std::string_view key, const Manifest& manifest) {
  const std::string* name = section.take(key, "the name of a listed file").get<std::string>();
  if (!name || !manifest.files.contains(*name)) section.fail(key, "the name of a file listed in files");
  return *name;
}

ImageSpec read_image(Section section) {
  ImageSpec image;
  Section intensity = section.section("intensity");
  const std::string mode = intensity.choice("mode", {"window", "minmax", "percentile"});
  image.mode = mode == "window"   ? Intensity::window
               : mode == "minmax" ? Intensity::minmax
                                  : Intensity::percentile;
  if (mode == "percentile" || intensity.has("low") || intensity.has("high")) {
    image.low = intensity.number("low", 0.0, 100.0);
    image.high = intensity.number("high", 0.0, 100.0);
    if (image.low >= image.high) throw bundle_failure("image.intensity: low must be below high");
  }
  image.equalize = intensity.boolean("equalize");
  intensity.done();
  image.height = section.integer("height", 16, 4096);
  image.width = section.integer("width", 16, 4096);
  const std::string filter = section.choice("resize", {"bicubic", "bilinear", "lanczos"});
  image.filter = filter == "bicubic"    ? Filter::bicubic
                 : filter == "bilinear" ? Filter::bilinear
                                        : Filter::lanczos;
  if (section.has("crop_from")) {
    image.crop_from = section.integers("crop_from", 2, 16, 4096);
    if (image.crop_from.empty()) section.fail("crop_from", "a shorter edge, or rows and columns");
    if (image.crop_from.front() < image.height || image.crop_from.back() < image.width)
      throw bundle_failure("image: crop_from must not be smaller than height and width");
  }
  const auto mean = section.numbers("mean", 3, -10.0, 10.0), std = section.numbers("std", 3, 1e-6, 100.0);
  std::copy_n(mean.begin(), 3, image.mean.begin());
  std::copy_n(std.begin(), 3, image.std.begin());
  section.done();
  return image;
}

// Checked here for ranges that only a bundle has, then by the kernel's own parser.
DecoderSpec read_decoder(Section section) {
  std::map<std::string, SpecValue> values;
  const auto size = [&](const char* key, int64_t low, int64_t high) {
    const int64_t value = section.integer(key, low, high);
    values[key] = value;
    return value;
  };
  const int64_t layers = size("layers", 1, 256), hidden = size("hidden", 1, 1 << 15);
  const int64_t heads = size("heads", 1, 512), kv_heads = size("kv_heads", 1, 512);
  const int64_t head_dim = size("head_dim", 1, 1024);
  size("mlp", 1, 1 << 17), size("vocab", 1, 1 << 21);
  const int64_t positions = size("max_positions", 1, 1 << 20);
  values["norm"] = section.choice("norm", {"layernorm"});
  values["norm_position"] = section.choice("norm_position", {"pre", "post"});
  values["norm_eps"] = section.number("norm_eps", 1e-12, 1e-1);
  values["activation"] = section.choice("activation", {"gelu_tanh", "gelu_erf"});
  values["positions"] = section.choice("positions", {"learned"});
  size("position_offset", 0, 1024);
  values["tied_head"] = section.boolean("tied_head");
  // Absent: as in a plain decoder behind an image prefix.
  const int64_t cross = section.has("cross_keys") ? size("cross_keys", 1, 1 << 16) : 0;
  if (section.has("embed_scale")) values["embed_scale"] = section.number("embed_scale", 1e-3, 1e3);
  for (const char* part : {"embed_norm", "head_transform", "head_bias"})
    if (section.has(part)) values[part] = section.boolean(part);
  if (section.has("token_types")) {
    size("token_types", 1, 64);
    values["type_after"] = section.integers("type_after", 32, 0, (1 << 21) - 1);
  }
  section.done();
  if (heads * head_dim != hidden) throw bundle_failure("decoder: heads times head_dim must be hidden");
  if (kv_heads != heads) throw bundle_failure("decoder: kv_heads must equal heads");
  if (layers * (positions + cross) * hidden > kMaxCacheBytes / 8)
    throw bundle_failure("decoder: layers, max_positions and hidden ask for an implausibly large cache");
  try {
    return parse_spec(values);
  } catch (const std::invalid_argument& error) {
    throw bundle_failure(printable(error.what()));
  }
}

Failure not_here(const std::string& what) {
  return bundle_failure(what + " are not in libedge_report; the Python package reports with them");
}

void read_prefix(Section section, Manifest& out) {
  out.prefix = section.integer("length", 1, 1 << 16);
  const auto grid = section.integers("grid", 2, 1, 256, true);
  out.grid_rows = grid[0], out.grid_columns = grid[1];
  section.integer("skip_tokens", 0, 1024);
  if (section.has("images") && section.integer("images", 1, 16) > 1)
    throw not_here("prefix: models that look at several films of a study");
  section.done();
  if (out.patches() > out.prefix || out.prefix > out.patches() + 1024)
    throw bundle_failure("prefix: length " + std::to_string(out.prefix) + " does not fit a grid of " +
                         std::to_string(grid[0]) + "x" + std::to_string(grid[1]) + " patches");
}

void read_bias(Section section, Manifest& out) {
  out.bias_kind = section.choice("kind", {"gaussian", "hidden", "layerwise", "gaussian_legacy", "none"});
  const bool spans_text = section.choice("span", {"prefix", "sequence"}) == "sequence";
  section.number("strength", -1e6, 1e6);
  out.bias_rows = *rows_of(section.choice("rows", {"all", "prefill", "none"}));
  if (spans_text) out.bias_sequence = section.integer("sequence_length", 1, 1 << 20);
  section.done();
  if (!out.has_mask() && out.bias_rows != BiasRows::none)
    throw bundle_failure("bias: rows must be none where there is no bias (kind none)");
  if (spans_text && out.bias_kind != "layerwise")
    throw bundle_failure("bias: the span sequence belongs to the kind layerwise");
}

std::vector<int32_t> ids(Section& section, std::string_view key, size_t limit, int64_t last) {
  const auto values = section.integers(key, limit, 0, last);
  return {values.begin(), values.end()};
}

// Options that a model need not have.
void read_rules(Section& section, Manifest& out) {
  const auto whole = [&](const char* key, int64_t low, int64_t high, auto& value) {
    if (section.has(key))
      value = static_cast<std::remove_reference_t<decltype(value)>>(section.integer(key, low, high));
  };
  whole("beams", 1, kMaxBeams, out.beam.beams);
  if (section.has("length_penalty"))
    out.beam.length_penalty = static_cast<float>(section.number("length_penalty", -10.0, 10.0));
  if (section.has("early_stopping")) {
    const std::string early = section.choice("early_stopping", {"no", "yes", "never"});
    out.beam.early = early == "no"    ? EarlyStopping::no
                     : early == "yes" ? EarlyStopping::yes
                                      : EarlyStopping::never;
  }
  whole("no_repeat_ngram", 0, 64, out.rules.no_repeat_ngram);
  whole("min_new_tokens", 0, out.decoder.max_positions, out.rules.min_new_tokens);
  if (section.has("penalise_prompt")) out.rules.penalise_prompt = section.boolean("penalise_prompt");
  whole("forced_end_id", 0, out.decoder.vocab - 1, out.rules.forced_end);
  whole("counted_begin", 0, 64, out.rules.counted_begin);
}

void read_sections(Section& section, Manifest& out) {
  if (!section.has("sections")) return;
  for (const JsonValue& entry : section.array("sections", 16)) {
    Section one(entry, "generation.sections");
    const auto id = static_cast<int32_t>(one.integer("token_id", 0, out.decoder.vocab - 1));
    out.sections.push_back({id, one.text("name", 64, false)});
    one.done();
  }
}

void read_generation(Section section, Manifest& out) {
  const int64_t last = out.decoder.vocab - 1;
  out.max_new_tokens = section.integer("max_new_tokens", 1, out.decoder.max_positions);
  out.repetition_penalty = section.number("repetition_penalty", 0.01, 100.0);
  out.stop_ids = ids(section, "stop_ids", 64, last);
  out.suppressed_ids = ids(section, "suppressed_ids", 4096, last);
  out.begin_ids = ids(section, "begin_ids", 64, last);
  out.cut_at_sentence = section.boolean("cut_at_sentence");
  out.evidence_layers = section.integers("evidence_layers", 256, 0, out.decoder.layers - 1);
  read_rules(section, out);
  read_sections(section, out);
  if (section.has("context")) throw not_here("generation: models that read a context before they write");
  if (section.has("states")) throw not_here("generation: models whose prompt is made of states of findings");
  section.done();
  if (std::ssize(std::set<int32_t>(out.suppressed_ids.begin(), out.suppressed_ids.end())) > last)
    throw bundle_failure("generation: suppressed_ids leave no token to choose");
}

void check_together(const Manifest& m) {
  const int64_t begin = std::ssize(m.begin_ids), used = m.prefix + begin, positions = m.decoder.rows();
  const int64_t rows = m.has_cross() ? begin : used;
  if (rows >= positions)
    throw bundle_failure("decoder: max_positions leaves no room for text after " + std::to_string(rows) +
                         " rows");
  if (m.has_cross() && m.prefix != m.decoder.cross_keys)
    throw bundle_failure("prefix: length " + std::to_string(m.prefix) + " is not the decoder's cross_keys");
  if (m.has_cross() && begin == 0)
    throw bundle_failure("generation: a decoder with cross-attention needs begin_ids");
  if (m.has_cross() && m.bias_sequence)
    throw bundle_failure("bias: a cross-attention has no text keys for the span sequence");
  if (m.bias_sequence && (m.bias_sequence <= used || m.bias_sequence > positions))
    throw bundle_failure("bias: sequence_length must be above " + std::to_string(used) + " and at most " +
                         std::to_string(positions));
  std::vector<std::string> roles{m.vision_file, m.weights_file, m.tokenizer_file};
  for (const auto& file :
       {m.vision_fp16_file, m.vision_static_file, m.vision_tensorrt_file, m.draft_file, m.coding_file})
    if (file) roles.push_back(*file);
  if (std::set<std::string>(roles.begin(), roles.end()).size() != roles.size())
    throw bundle_failure("graphs, weights, tokenizer, draft and coding must be different files");
}

JsonValue load(std::string_view text) {
  if (text.size() > kMaxManifestBytes)
    throw bundle_failure("manifest.json is larger than " + std::to_string(kMaxManifestBytes) +
                         " bytes: this is not a bundle");
  try {
    return parse_json(text);
  } catch (const JsonError& error) {
    throw bundle_failure(error.syntax ? "manifest.json is not JSON (" + std::string(error.what()) + ")"
                                      : "manifest.json cannot be read: " + std::string(error.what()));
  }
}

}  // namespace

int64_t Manifest::text_room() const {
  if (has_cross()) return decoder.rows();
  return std::min(decoder.rows(), bias_sequence ? bias_sequence : decoder.rows()) - prefix;
}

Manifest parse_manifest(std::string_view text) {
  const JsonValue root = load(text);
  Section top(root, "manifest");
  const int64_t version = top.integer("format_version", 0, int64_t{1} << 31);
  if (version != kFormatVersion)
    throw bundle_failure("the bundle has format version " + std::to_string(version) +
                         ", this libedge_report reads " + std::to_string(kFormatVersion) + ": " +
                         (version > kFormatVersion
                              ? "update edge-report"
                              : "export the model again with this version's edge-export"));
  Manifest m;
  read_files(top.section("files"), m);
  m.image = read_image(top.section("image"));
  m.decoder = read_decoder(top.section("decoder"));
  read_prefix(top.section("prefix"), m);
  read_bias(top.section("bias"), m);
  read_generation(top.section("generation"), m);
  Section graphs = top.section("graphs");
  m.name = top.text("name", 128, false);
  m.family = top.text("family", 64, false);
  m.precision = top.choice("precision", {"fp32", "int8", "int4"});
  top.text("producer", 256);
  m.intended_use = top.text("intended_use", 4096);
  if (!top.is_null("notice", "a text or null")) m.notice = top.text("notice", 1024);
  m.synthetic = top.boolean("synthetic");
  m.vision_file = reference(graphs, "vision", m);
  if (graphs.has("vision_fp16")) m.vision_fp16_file = reference(graphs, "vision_fp16", m);
  if (graphs.has("vision_static")) m.vision_static_file = reference(graphs, "vision_static", m);
  if (graphs.has("vision_tensorrt")) m.vision_tensorrt_file = reference(graphs, "vision_tensorrt", m);
  m.weights_file = reference(top, "weights", m);
  m.tokenizer_file = reference(top, "tokenizer", m);
  if (top.has("draft")) m.draft_file = reference(top, "draft", m);
  if (top.has("coding")) m.coding_file = reference(top, "coding", m);
  if (top.has("prefill")) m.kernel_prefill = top.choice("prefill", {"graph", "kernel"}) == "kernel";
  if (m.kernel_prefill && !m.decoder.is_plain())
    throw bundle_failure("prefill: the kernel does not take such a decoder");
  if (top.has("prefill_int8")) m.prefill_int8 = top.strings("prefill_int8", 4096, 64);
  if (!m.prefill_int8.empty() && !m.kernel_prefill)
    throw bundle_failure("prefill_int8: the prefill is not the kernel's");
  if (top.has("kv_dtype")) m.kv_dtype = top.choice("kv_dtype", kKv);
  top.strings("labels", 4096, 128);
  graphs.done();
  top.done();
  check_together(m);
  return m;
}

const char* rows_name(BiasRows rows) {
  return rows == BiasRows::all ? "all" : rows == BiasRows::prefill ? "prefill" : "none";
}

std::optional<BiasRows> rows_of(std::string_view name) {
  if (name == "all") return BiasRows::all;
  if (name == "prefill") return BiasRows::prefill;
  if (name == "none") return BiasRows::none;
  return std::nullopt;
}

}  // namespace edge::capi
