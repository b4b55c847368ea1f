// SPDX-License-Identifier: Apache-2.0
// The making of one report.
#include <algorithm>
#include <chrono>
#include <cmath>

#include "engine.h"
#include "failure.h"
#include "mask.h"
#include "resize.h"
#include "utf8.h"

namespace edge::capi {

struct Engine::Plan {
  GenerateOptions options;
  bool cut = false;
  edge_on_text on_text = nullptr;
  void* user = nullptr;
  const CancelToken* cancel = nullptr;
  std::optional<TextStream> stream;

  void check_cancelled() const {
    if (cancel && cancel->cancelled()) fail();
  }
  [[noreturn]] static void fail() { throw Failure(EDGE_CANCELLED, "stopped before the report was complete"); }
  // False where the host wants no more.
  bool send(const std::string& piece) const {
    return piece.empty() || on_text(user, piece.data(), piece.size()) == 0;
  }
};

struct Engine::Prepared {
  FilmMeta meta;
  std::vector<float> pixels;
  std::vector<std::string> warnings;
};

// Milliseconds of stages that follow each other.
class Engine::Clock {
 public:
  void lap(const char* stage) {
    const auto now = std::chrono::steady_clock::now();
    laps_.emplace_back(stage, ms(last_, now));
    last_ = now;
  }
  bool has(const char* stage) const {
    return std::any_of(laps_.begin(), laps_.end(), [&](const auto& lap) { return lap.first == stage; });
  }
  std::vector<std::pair<std::string, double>> finish() const {
    auto laps = laps_;
    laps.emplace_back("total", ms(begin_, std::chrono::steady_clock::now()));
    return laps;
  }
  double of(const char* stage) const {
    for (const auto& [name, value] : laps_)
      if (name == stage) return value;
    return 0.0;
  }

 private:
  using Time = std::chrono::steady_clock::time_point;
  static double ms(Time from, Time to) {
    return std::chrono::duration<double, std::milli>(to - from).count();
  }
  Time begin_ = std::chrono::steady_clock::now(), last_ = begin_;
  std::vector<std::pair<std::string, double>> laps_;
};

Engine::Plan Engine::plan(const edge_report_options& given, const CancelToken* cancel) const {
  const Manifest& m = manifest();
  const int64_t room = m.text_room() - std::ssize(m.begin_ids);
  if (given.max_new_tokens < 0 || given.max_new_tokens > room)
    throw Failure(EDGE_USAGE, "max_new_tokens must be 0 (the bundle's) or 1 to " + std::to_string(room) +
                                  ": the model's context length leaves no more; ask for fewer");
  const auto check = [](bool fine, const char* what) {
    if (!fine) throw Failure(EDGE_USAGE, what);
  };
  check(given.repetition_penalty == 0.0 ||
            (given.repetition_penalty >= 0.01 && given.repetition_penalty <= 100.0),
        "repetition_penalty must be 0 (the bundle's) or 0.01 to 100");
  check(given.temperature == 0.0 || (given.temperature >= 1e-6 && given.temperature <= 100.0),
        "temperature must be 0 (greedy) to 100");
  check(given.top_k >= 0, "top_k must not be negative");
  check(given.top_p >= 1e-6 && given.top_p <= 1.0,  // above 0 in single precision, too
        "top_p must be above 0 and up to 1");
  check(given.beams >= 0 && given.beams <= kMaxBeams && (given.beams <= 1 || given.temperature == 0.0),
        "beams must be 0 (the bundle's) or 1 to 16, and not above 1 with a temperature");
  Plan plan;
  GenerateOptions& o = plan.options;
  o.begin_ids = m.begin_ids, o.stop_ids = m.stop_ids;
  o.bias_rows = check_rows(given.bias_rows, rows_);
  o.max_new_tokens = given.max_new_tokens ? given.max_new_tokens : std::min(m.max_new_tokens, room);
  const double penalty = given.repetition_penalty != 0.0 ? given.repetition_penalty : m.repetition_penalty;
  o.sampling = {.repetition_penalty = static_cast<float>(penalty),
                .temperature = static_cast<float>(given.temperature),
                .top_k = given.top_k,
                .top_p = static_cast<float>(given.top_p),
                .seed = given.seed,
                .suppressed = m.suppressed_ids};
  o.rules = m.rules, o.beam = m.beam;
  if (given.temperature > 0.0)
    o.beam.beams = 1;
  else if (given.beams > 0)
    o.beam.beams = given.beams;
  const edge_draft draft = given.draft < 0 ? draft_wanted_ : draft_of(given.draft);
  o.draft = draft == EDGE_DRAFT_ALL;
  o.sketch = draft != EDGE_DRAFT_OFF;
  o.draft_table = o.draft && draft_ ? &draft_->table : nullptr;
  plan.cut = given.cut < 0 ? m.cut_at_sentence : given.cut != 0;
  plan.on_text = given.on_text, plan.user = given.user, plan.cancel = cancel;
  if (plan.on_text) plan.stream.emplace(tokenizer_, plan.cut);
  return plan;
}

Engine::Prepared Engine::prepared(const edge_film& film) const {
  Prepared out;
  out.meta = check_film(film);
  out.pixels = to_pixels(to_gray(film, manifest().image, out.warnings), manifest().image);
  return out;
}

std::vector<float> Engine::prepare(const edge_film& film) const { return prepared(film).pixels; }

VisionOutput Engine::look(const Prepared& film, Plan& plan, std::vector<std::string>& warnings) {
  BiasRows& rows = plan.options.bias_rows;
  VisionOutput seen = vision_->run(film.pixels, rows != BiasRows::none);
  if (seen.mask.empty()) {
    rows = BiasRows::none;
    return seen;
  }
  if (std::string warning = mask_warning(seen); !warning.empty()) warnings.push_back(std::move(warning));
  if (rows == BiasRows::none) return seen;
  if (hides_everything(seen, manifest())) {
    warnings.push_back("the strict mask hides the whole image: reported without anatomical guidance");
    rows = BiasRows::none;
    return vision_->run(film.pixels, false);
  }
  if (gives_no_guidance(seen, manifest()))
    warnings.push_back("the mask gives no anatomical guidance: every part of the image counts the same");
  return seen;
}

GenerationResult Engine::write(const VisionOutput& seen, Plan& plan, Clock& clock) {
  const Manifest& m = manifest();
  const bool biased = plan.options.bias_rows != BiasRows::none;
  const float* bias = biased ? seen.key_bias.data() : nullptr;
  const int64_t bias_length = biased ? std::ssize(seen.key_bias) / m.decoder.layers : 0;
  // A strict mask hides keys from every row that follows, where these all get the bias.
  const bool drop_hidden = plan.options.bias_rows == BiasRows::all && m.bias_kind == "hidden";
  std::vector<float> logits;
  if (m.kernel_prefill) {
    logits.resize(static_cast<size_t>(m.decoder.vocab));
    decoder_->prefill({.embeddings = seen.embeddings.data(),
                       .length = m.prefix,
                       .key_bias = bias,
                       .bias_length = bias_length,
                       .bias = biased,
                       .drop_hidden = drop_hidden},
                      logits.data());
  } else {
    decoder_->set_prefix({.keys = seen.keys.data(),
                          .values = seen.values.data(),
                          .length = m.prefix,
                          .key_bias = bias,
                          .bias_length = bias_length,
                          .drop_hidden = drop_hidden});
  }
  const auto on_token = [&](int32_t id, float) {
    if (!clock.has("first_token")) clock.lap("first_token");
    return !plan.stream || plan.send(plan.stream->push(id));
  };
  const std::span<const float> first_logits = logits.empty() ? seen.first_logits : logits;
  const float* first = first_logits.empty() ? nullptr : first_logits.data();
  GenerationResult result = decoder_->generate(first, plan.options, on_token, plan.cancel);
  if (result.stop_reason == StopReason::cancelled) Plan::fail();
  if (!clock.has("first_token")) clock.lap("first_token");
  clock.lap("decode");
  return result;
}

void Engine::general_warnings(const Plan& plan, const GenerationResult& result, bool was_cut,
                              std::vector<std::string>& warnings) const {
  const BiasRows rows = plan.options.bias_rows, own = manifest().bias_rows;
  if (rows != own)
    warnings.push_back("bias rows " + std::string(rows_name(rows)) +
                       " were used; the model was exported for " + rows_name(own));
  if (was_cut)
    warnings.push_back("the token cap was reached: the last sentence was broken off and is left out");
  else if (result.stop_reason == StopReason::length)
    warnings.push_back("the token cap was reached: the text may break off in mid-sentence");
  if (manifest().synthetic) warnings.push_back("the model was trained on synthetic data only");
}

void Engine::finish(const GenerationResult& result, Plan& plan, Report& report) const {
  std::vector<size_t> ends;
  const std::u32string text = decode_stepwise(tokenizer_, result.token_ids, ends);
  const std::u32string_view whole = strip(text);
  const auto dropped = whole.empty() ? text.size() : static_cast<size_t>(whole.data() - text.data());
  const bool capped = result.stop_reason == StopReason::length;
  const std::u32string findings = capped && plan.cut ? cut_at_sentence(whole) : std::u32string(whole);
  if (plan.stream && !plan.send(plan.stream->finish(findings))) Plan::fail();
  general_warnings(plan, result, findings != whole, report.warnings);
  for (std::string& warning : text_warnings(findings)) report.warnings.push_back(std::move(warning));
  report.findings = to_utf8(findings);
  report.sentences = make_sentences(findings, ends, dropped, result, manifest());
  report.stop_reason = capped ? "length" : "stop";
}

Written Engine::report(const edge_film& film, const edge_report_options& options, const CancelToken* cancel) {
  // Whoever holds the engine and asks again is in a callback, and would wait for itself for ever.
  if (reporting_.load() == std::this_thread::get_id())
    throw Failure(EDGE_BUSY, "a callback must not report on its own engine");
  Plan plan = this->plan(options, cancel);
  const std::lock_guard lock(mutex_);
  struct Reporting {
    std::atomic<std::thread::id>& who;
    explicit Reporting(std::atomic<std::thread::id>& w) : who(w) { who.store(std::this_thread::get_id()); }
    ~Reporting() { who.store(std::thread::id()); }
  } const reporting(reporting_);
  plan.check_cancelled();
  Clock clock;
  Prepared ready = prepared(film);
  clock.lap("preprocess");
  plan.check_cancelled();
  Written out;
  Report& report = out.report;
  report.warnings = std::move(ready.warnings);
  const VisionOutput seen = look(ready, plan, report.warnings);
  clock.lap("vision");
  plan.check_cancelled();
  const GenerationResult result = write(seen, plan, clock);
  finish(result, plan, report);
  std::vector<std::string> once;
  for (std::string& warning : report.warnings)
    if (std::find(once.begin(), once.end(), warning) == once.end()) once.push_back(std::move(warning));
  report.warnings = std::move(once);
  report.bias_rows = plan.options.bias_rows;
  report.film = std::move(ready.meta);
  report.token_ids = result.token_ids, report.logprobs = result.logprobs;
  report.passes = result.passes, report.drafted = result.drafted, report.accepted = result.accepted;
  report.sketch_passes = result.sketch_passes;
  report.image_keys = manifest().decoder.layers * manifest().prefix;
  report.image_keys_kept = decoder_->network().lane().kept_keys();
  report.bytes_per_token = decoder_->network().weight_bytes() + decoder_->network().cache_bytes();
  for (const float v : seen.mask) report.mask.push_back(v > 0.5f);
  report.mask_rows = seen.mask_rows, report.mask_columns = seen.mask_columns;
  report.timings_ms = clock.finish();
  const double decode = clock.of("decode"),
               after_first = static_cast<double>(std::ssize(result.token_ids) - 1);
  report.tokens_per_s = after_first > 0.0 && decode > 0.0 ? after_first / decode * 1e3 : 0.0;
  out.json = report_json(report, manifest(), bundle_.sha256(), runs_on_);
  return out;
}

}  // namespace edge::capi
