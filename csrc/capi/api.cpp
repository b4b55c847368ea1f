// SPDX-License-Identifier: Apache-2.0
// The C border: arguments checked, every exception turned into a status and one line.
#include <algorithm>
#include <cstddef>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <new>

#include "engine.h"
#include "failure.h"
#include "utf8.h"

using namespace edge::capi;

struct edge_engine {
  edge_engine(const std::string& path, const edge_options& options) : engine(path, options) {}
  Engine engine;
  mutable std::mutex mutex;
  mutable edge_error last{};
};

struct edge_report {
  Written written;
};

struct edge_cancel {
  edge::CancelToken token;
};

namespace {

edge_error make_error(edge_status status, const char* text) noexcept {
  edge_error error{};
  error.status = status;
  // One line, cut between characters.
  size_t length = std::min(std::strlen(text), sizeof error.message - 1);
  while (length > 0 && length < std::strlen(text) && (text[length] & 0xC0) == 0x80) --length;
  std::copy_n(text, length, error.message);
  std::replace_if(error.message, error.message + length, [](char c) { return c == '\n' || c == '\r'; }, ' ');
  return error;
}

edge_error current_error() noexcept {
  try {
    throw;
  } catch (const Failure& failure) {
    return make_error(failure.status(), failure.what());
  } catch (const std::bad_alloc&) {
    return make_error(EDGE_PROCESSING, "there is not enough memory");
  } catch (const edge::BusyError& busy) {
    return make_error(EDGE_BUSY, busy.what());
  } catch (const std::exception& other) {
    return make_error(EDGE_PROCESSING, other.what());
  } catch (...) {
    return make_error(EDGE_PROCESSING, "unknown failure");
  }
}

// Runs the work of one call; `engine` may be null.
template <class Work>
edge_status guarded(const edge_engine* engine, edge_error* error, Work work) noexcept {
  try {
    work();
    if (error) *error = edge_error{};
    return EDGE_OK;
  } catch (...) {
    const edge_error now = current_error();
    if (error) *error = now;
    if (engine) {
      const std::lock_guard lock(engine->mutex);
      engine->last = now;
    }
    return static_cast<edge_status>(now.status);
  }
}

void require(bool fine, const char* what) {
  if (!fine) throw Failure(EDGE_USAGE, what);
}

constexpr size_t kMostStructBytes = 4096;

// What programs built against this ABI version rely on: fields are added at the end, and none moves.
static_assert(sizeof(void*) != 8 ||
              (offsetof(edge_options, draft) == 48 && offsetof(edge_film, series_instance_uid) == 200 &&
               offsetof(edge_report_options, beams) == 88 && sizeof(edge_lut) == 24 &&
               sizeof(edge_error) == 512));

// The defaults into a caller's structure, which may be that of an older or newer header.
template <class Struct>
void give(Struct* out, size_t size, Struct known) {
  if (!out || size < sizeof(uint32_t)) return;
  known.size = static_cast<uint32_t>(std::min(size, kMostStructBytes + 1));
  std::memset(static_cast<void*>(out), 0, size);
  std::memcpy(static_cast<void*>(out), &known, std::min(size, sizeof known));
}

// The structures as ABI 1 first had them, whatever has been added behind these fields.
constexpr size_t padded(size_t end, size_t alignment) {
  return (end + alignment - 1) / alignment * alignment;
}
constexpr size_t kFirstOptions =
    padded(offsetof(edge_options, draft) + sizeof(edge_options::draft), alignof(edge_options));
constexpr size_t kFirstFilm = padded(
    offsetof(edge_film, series_instance_uid) + sizeof(edge_film::series_instance_uid), alignof(edge_film));
constexpr size_t kFirstReportOptions = padded(
    offsetof(edge_report_options, beams) + sizeof(edge_report_options::beams), alignof(edge_report_options));

// A copy of a caller's structure; parts that an older or newer header does not share keep their defaults.
template <class Struct>
Struct copy_of(const Struct* given, void (*init)(Struct*, size_t), const char* name) {
  Struct out;
  init(&out, sizeof out);
  if (!given) return out;
  require(given->size >= sizeof(uint32_t) && given->size <= kMostStructBytes, name);
  std::memcpy(&out, given, std::min<size_t>(given->size, sizeof out));
  out.size = sizeof out;
  return out;
}

template <class T>
const T* counted(const std::vector<T>& values, size_t* count) {
  if (count) *count = values.size();
  return values.data();
}

}  // namespace

uint32_t edge_abi_version(void) { return EDGE_REPORT_ABI_VERSION; }

const char* edge_version(void) { return EDGE_REPORT_VERSION; }

const char* edge_status_name(int32_t status) {
  switch (status) {
    case EDGE_OK:
      return "ok";
    case EDGE_USAGE:
      return "usage";
    case EDGE_CORRUPT:
      return "corrupt or truncated";
    case EDGE_UNSUPPORTED_MODALITY:
      return "unsupported modality";
    case EDGE_UNSUPPORTED_PIXELS:
      return "unsupported pixels";
    case EDGE_BUNDLE:
      return "bundle";
    case EDGE_PROCESSING:
      return "processing";
    case EDGE_RUNTIME_MISSING:
      return "runtime missing";
    case EDGE_DEVICE:
      return "device";
    case EDGE_CANCELLED:
      return "cancelled";
    case EDGE_BUSY:
      return "busy";
    default:
      return "unknown";
  }
}

void edge_options_init_sized(edge_options* options, size_t size) {
  edge_options known{};
  known.draft = EDGE_DRAFT_ALL;
  give(options, size, known);
}

void edge_film_init_sized(edge_film* film, size_t size) {
  edge_film known{};
  known.bits_allocated = 16;
  known.high_bit = -1;
  known.padding_limit = INT32_MIN;
  known.rescale_slope = 1.0;
  give(film, size, known);
}

void edge_report_options_init_sized(edge_report_options* options, size_t size) {
  edge_report_options known{};
  known.top_p = 1.0;
  known.cut = -1;
  known.draft = -1;
  give(options, size, known);
}

// The functions that the header's macros hide.
void(edge_options_init)(edge_options* options) { edge_options_init_sized(options, kFirstOptions); }
void(edge_film_init)(edge_film* film) { edge_film_init_sized(film, kFirstFilm); }
void(edge_report_options_init)(edge_report_options* options) {
  edge_report_options_init_sized(options, kFirstReportOptions);
}

edge_status edge_engine_open(const char* bundle, const edge_options* options, edge_engine** engine,
                             edge_error* error) {
  return guarded(nullptr, error, [&] {
    require(bundle && engine, "bundle and engine must not be NULL");
    const edge_options copy =
        copy_of(options, edge_options_init_sized, "options: call edge_options_init first");
    *engine = new edge_engine(bundle, copy);
  });
}

void edge_engine_close(edge_engine* engine) { delete engine; }

const char* edge_engine_info(const edge_engine* engine) {
  return engine ? engine->engine.info().c_str() : nullptr;
}

const char* edge_engine_notice(const edge_engine* engine) {
  return engine && engine->engine.manifest().notice ? engine->engine.manifest().notice->c_str() : nullptr;
}

void edge_engine_last_error(const edge_engine* engine, edge_error* error) {
  if (!error) return;
  *error = edge_error{};
  if (!engine) return;
  const std::lock_guard lock(engine->mutex);
  *error = engine->last;
}

edge_status edge_engine_prepare(const edge_engine* engine, const edge_film* film, float* pixels, size_t count,
                                edge_error* error) {
  return guarded(engine, error, [&] {
    require(engine && film && pixels, "engine, film and pixels must not be NULL");
    const ImageSpec& image = engine->engine.manifest().image;
    require(count == static_cast<size_t>(3 * image.height * image.width), "count must be 3 * height * width");
    const auto made =
        engine->engine.prepare(copy_of(film, edge_film_init_sized, "film: call edge_film_init first"));
    std::copy(made.begin(), made.end(), pixels);
  });
}

edge_cancel* edge_cancel_new(void) { return new (std::nothrow) edge_cancel; }
void edge_cancel_set(edge_cancel* cancel) {
  if (cancel) cancel->token.cancel();
}
void edge_cancel_reset(edge_cancel* cancel) {
  if (cancel) std::construct_at(&cancel->token);
}
void edge_cancel_free(edge_cancel* cancel) { delete cancel; }

edge_status edge_engine_report(edge_engine* engine, const edge_film* film, const edge_report_options* options,
                               edge_report** report, edge_error* error) {
  return guarded(engine, error, [&] {
    require(engine && film && report, "engine, film and report must not be NULL");
    const edge_film shown = copy_of(film, edge_film_init_sized, "film: call edge_film_init first");
    const edge_report_options copy =
        copy_of(options, edge_report_options_init_sized, "options: call edge_report_options_init first");
    auto made = std::make_unique<edge_report>();
    made->written = engine->engine.report(shown, copy, copy.cancel ? &copy.cancel->token : nullptr);
    *report = made.release();
  });
}

void edge_report_free(edge_report* report) { delete report; }

const char* edge_report_text(const edge_report* report) {
  return report ? report->written.report.findings.c_str() : nullptr;
}
const char* edge_report_json(const edge_report* report) {
  return report ? report->written.json.c_str() : nullptr;
}

size_t edge_report_warning_count(const edge_report* report) {
  return report ? report->written.report.warnings.size() : 0;
}
const char* edge_report_warning(const edge_report* report, size_t index) {
  return index < edge_report_warning_count(report) ? report->written.report.warnings[index].c_str() : nullptr;
}

const int32_t* edge_report_token_ids(const edge_report* report, size_t* count) {
  if (count) *count = 0;
  return report ? counted(report->written.report.token_ids, count) : nullptr;
}
const float* edge_report_logprobs(const edge_report* report, size_t* count) {
  if (count) *count = 0;
  return report ? counted(report->written.report.logprobs, count) : nullptr;
}

const uint8_t* edge_report_mask(const edge_report* report, int32_t* rows, int32_t* columns) {
  const bool there = report && !report->written.report.mask.empty();
  if (rows) *rows = there ? static_cast<int32_t>(report->written.report.mask_rows) : 0;
  if (columns) *columns = there ? static_cast<int32_t>(report->written.report.mask_columns) : 0;
  return there ? report->written.report.mask.data() : nullptr;
}
