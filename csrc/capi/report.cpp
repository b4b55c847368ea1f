// SPDX-License-Identifier: Apache-2.0
#include "report.h"

#include <algorithm>
#include <cmath>

#include "json_writer.h"
#include "sentences.h"
#include "utf8.h"

namespace edge::capi {
namespace {

std::optional<double> confidence(const std::vector<float>& logprobs, const std::vector<size_t>& tokens) {
  if (tokens.empty()) return std::nullopt;
  double sum = 0.0;
  for (const size_t token : tokens) sum += logprobs[token];
  const double mean = sum / static_cast<double>(tokens.size());
  return std::isnan(mean) ? 0.0 : std::min(1.0, std::exp(mean));
}

// Attention of the sentence's tokens over the patches, which end the prefix.
std::optional<Evidence> evidence(const GenerationResult& result, const std::vector<size_t>& tokens,
                                 const Manifest& manifest) {
  if (manifest.evidence_layers.empty() || tokens.empty()) return std::nullopt;
  const auto patches = static_cast<size_t>(manifest.patches()), prefix = static_cast<size_t>(manifest.prefix);
  std::vector<float> mass(patches);
  for (const size_t token : tokens) {
    const float* row = result.evidence.data() + (token + 1) * prefix - patches;
    for (size_t i = 0; i < patches; ++i) mass[i] += row[i];
  }
  return make_evidence(mass, manifest.grid_rows, manifest.grid_columns);
}

// Where a section begins: a character of the findings.
struct Begin {
  size_t at;
  std::string name;
};

const std::string* section_name(const Manifest& manifest, int32_t id) {
  // As in a dictionary: of two sections with one token the later counts.
  const auto found = std::find_if(manifest.sections.rbegin(), manifest.sections.rend(),
                                  [id](const ReportSection& section) { return section.token_id == id; });
  return found == manifest.sections.rend() ? nullptr : &found->name;
}

// A begin token may begin the first section; `end_of` tells how many characters there are with a token.
template <class EndOf>
std::vector<Begin> section_begins(const Manifest& manifest, const std::vector<int32_t>& ids, EndOf end_of) {
  std::vector<Begin> found;
  for (const int32_t id : manifest.begin_ids)
    if (const std::string* name = section_name(manifest, id)) found.assign(1, {0, *name});
  for (size_t token = 0; token < ids.size(); ++token)
    if (const std::string* name = section_name(manifest, ids[token])) found.push_back({end_of(token), *name});
  return found;
}

// The spans cut in two wherever a section begins inside.
std::vector<TextSpan> split(std::u32string_view text, const std::vector<TextSpan>& spans,
                            const std::vector<Begin>& sections) {
  std::vector<TextSpan> parts;
  const auto add = [&](size_t begin, size_t end) {
    const std::u32string_view piece = text.substr(begin, end - begin), stripped = strip(piece);
    if (stripped.empty()) return;
    const size_t inner = static_cast<size_t>(stripped.data() - text.data());
    parts.emplace_back(inner, inner + stripped.size());
  };
  for (const auto& [left, right] : spans) {
    size_t begin = left;
    for (const Begin& section : sections) {
      if (section.at <= left || section.at >= right) continue;
      add(begin, section.at);
      begin = section.at;
    }
    add(begin, right);
  }
  return parts;
}

void write_evidence(JsonWriter& out, const std::optional<Evidence>& evidence) {
  if (!evidence) {
    out.null();
    return;
  }
  out.open('{').key("grid").open('[').number(evidence->rows).number(evidence->columns).close(']');
  out.key("heat").open('[');
  for (int64_t y = 0; y < evidence->rows; ++y) {
    out.open('[');
    for (int64_t x = 0; x < evidence->columns; ++x)
      out.number(evidence->heat[static_cast<size_t>(y * evidence->columns + x)], 6);
    out.close(']');
  }
  out.close(']');
  out.key("peak").open('[').number(evidence->peak_row).number(evidence->peak_column).close(']');
  out.key("box").open('[');
  for (const double side : evidence->box) out.number(side, 4);
  out.close(']').close('}');
}

void write_sentences(JsonWriter& out, const std::vector<Sentence>& sentences) {
  out.key("sentences").open('[');
  for (const Sentence& sentence : sentences) {
    out.open('{').key("text").text(sentence.text).key("confidence");
    sentence.confidence ? out.number(*sentence.confidence, 6) : out.null();
    out.key("evidence");
    write_evidence(out, sentence.evidence);
    if (!sentence.section.empty()) out.key("section").text(sentence.section);
    out.close('}');
  }
  out.close(']');
}

// Sections with their text, where the model writes any.
void write_sections(JsonWriter& out, const std::vector<Sentence>& sentences) {
  std::vector<std::pair<std::string, std::string>> sections;
  for (const Sentence& sentence : sentences) {
    if (sections.empty() || (!sentence.section.empty() && sentence.section != sections.back().first))
      sections.emplace_back(sentence.section, sentence.text);
    else
      sections.back().second += " " + sentence.text;
  }
  if (std::all_of(sections.begin(), sections.end(), [](const auto& one) { return one.first.empty(); }))
    return;
  out.key("sections").open('[');
  for (const auto& [name, text] : sections)
    out.open('{').key("name").text(name).key("text").text(text).close('}');
  out.close(']');
}

void write_model(JsonWriter& out, const Manifest& manifest, const std::string& sha256, const RunsOn& runs_on,
                 BiasRows rows) {
  out.key("model").open('{').key("name").text(manifest.name).key("bundle_sha256").text(sha256);
  out.key("family").text(manifest.family).key("precision").text(manifest.precision);
  out.key("kv_dtype").text(runs_on.kv_dtype).key("bias_rows").text(rows_name(rows)).close('}');
}

void write_software(JsonWriter& out, const Manifest& manifest, const RunsOn& runs_on) {
  out.key("software").open('{').key("version").text(edge_version()).key("device").text("cpu");
  out.key("vision")
      .text(runs_on.vision)
      .key("isa")
      .text(runs_on.isa)
      .key("threads")
      .number(int64_t{runs_on.threads});
  out.close('}');
  out.key("intended_use").text(manifest.intended_use).key("notice");
  manifest.notice ? out.text(*manifest.notice) : out.null();
}

void write_input(JsonWriter& out, const FilmMeta& film) {
  out.key("input").open('{').key("sop_instance_uid").text(film.sop_instance_uid);
  out.key("study_instance_uid").text(film.study_instance_uid);
  out.key("series_instance_uid").text(film.series_instance_uid);
  out.key("modality").text(film.modality).key("view_position").text(film.view_position);
  out.key("rows").number(film.rows).key("columns").number(film.columns);
  out.key("source").text(film.is_dicom ? "dicom" : "array").close('}');
}

}  // namespace

std::vector<Sentence> make_sentences(std::u32string_view findings, const std::vector<size_t>& ends,
                                     size_t dropped, const GenerationResult& result,
                                     const Manifest& manifest) {
  const auto inside = [&](size_t end) { return end > dropped ? end - dropped : 0; };
  const std::vector<Begin> sections =
      section_begins(manifest, result.token_ids, [&](size_t token) { return inside(ends[token]); });
  const std::vector<TextSpan> spans = split(findings, sentence_spans(findings), sections);
  std::vector<std::vector<size_t>> owned(spans.size());
  for (size_t token = 0; token < ends.size(); ++token) {
    const size_t begin = std::min(inside(token ? ends[token - 1] : 0), findings.size()),
                 end = inside(ends[token]);
    const std::u32string_view piece = findings.substr(begin, end > begin ? end - begin : 0);
    // A token belongs where its first letter stands; one of white space alone to what it follows.
    size_t at = begin;
    while (at < begin + piece.size() && is_space(findings[at])) ++at;
    if (at == begin + piece.size()) {
      if (end == 0) continue;
      at = end - 1;
    }
    for (size_t i = 0; i < spans.size(); ++i)
      if (at >= spans[i].first && at < spans[i].second) owned[i].push_back(token);
  }
  std::vector<Sentence> sentences;
  for (size_t i = 0; i < spans.size(); ++i) {
    const auto [left, right] = spans[i];
    const auto section = std::find_if(sections.rbegin(), sections.rend(),
                                      [left](const Begin& begin) { return begin.at <= left; });
    sentences.push_back({to_utf8(findings.substr(left, right - left)), confidence(result.logprobs, owned[i]),
                         evidence(result, owned[i], manifest),
                         section == sections.rend() ? std::string() : section->name});
  }
  return sentences;
}

std::string report_json(const Report& report, const Manifest& manifest, const std::string& sha256,
                        const RunsOn& runs_on) {
  JsonWriter out;
  out.open('{').key("findings").text(report.findings);
  write_sentences(out, report.sentences);
  out.key("token_ids").open('[');
  for (const int32_t id : report.token_ids) out.number(int64_t{id});
  out.close(']').key("logprobs").open('[');
  for (const float value : report.logprobs) out.number(static_cast<double>(value), 6);
  out.close(']').key("stop_reason").text(report.stop_reason).key("prompt").text("").key("edited").text("");
  out.key("warnings").open('[');
  for (const std::string& warning : report.warnings) out.text(warning);
  out.close(']');
  write_model(out, manifest, sha256, runs_on, report.bias_rows);
  write_input(out, report.film);
  out.key("timings_ms").open('{');
  for (const auto& [stage, ms] : report.timings_ms) out.key(stage).number(ms, 3);
  out.close('}').key("tokens_per_s").number(report.tokens_per_s, 2);
  const double per_pass = report.passes ? static_cast<double>(report.passes + report.accepted) /
                                              static_cast<double>(report.passes)
                                        : 0.0;
  out.key("decoding")
      .open('{')
      .key("passes")
      .number(report.passes)
      .key("tokens_per_pass")
      .number(per_pass, 4);
  out.key("drafted").number(report.drafted).key("accepted").number(report.accepted);
  if (report.sketch_passes > 0) out.key("sketch_passes").number(report.sketch_passes);
  out.close('}');
  out.key("cache").open('{').key("image_keys").number(report.image_keys);
  out.key("image_keys_kept").number(report.image_keys_kept);
  out.key("bytes_per_token").number(report.bytes_per_token).close('}');
  write_software(out, manifest, runs_on);
  write_sections(out, report.sentences);
  out.close('}');
  return out.take();
}

std::string info_json(const Manifest& manifest, const std::string& sha256, const RunsOn& runs_on) {
  JsonWriter out;
  out.open('{');
  write_model(out, manifest, sha256, runs_on, manifest.bias_rows);
  out.key("image").open('{').key("height").number(manifest.image.height);
  out.key("width").number(manifest.image.width).close('}');
  out.key("max_new_tokens").number(manifest.max_new_tokens);
  write_software(out, manifest, runs_on);
  out.close('}');
  return out.take();
}

}  // namespace edge::capi
