/* SPDX-License-Identifier: Apache-2.0
 *
 * libedge_report: findings drafts for frontal chest radiographs, from C. Not a medical device.
 *
 * In short: edge_engine_open() a bundle, fill an edge_film, edge_engine_report(), read the edge_report.
 *
 * Errors. Every function that can fail returns an edge_status and, where `error` is not NULL, writes the
 * status and one line of UTF-8 text there: what is wrong and what to do, never patient data. The caller owns
 * the edge_error, so errors of different threads cannot mix. Output parameters are written only on EDGE_OK.
 * Nothing throws.
 *
 * Ownership. What a function makes (engine, report, cancel token) belongs to the caller until given to its
 * _close or _free function, which take NULL. Pointers that an edge_report hands out live as long as that
 * report. Pointers that go in are read during the call only. Functions that only read give NULL or 0 for
 * NULL.
 *
 * Threads. There is no global state: engines are independent. One engine may be used from several threads;
 * its reports are made one after the other. A report may be read from several threads.
 *
 * Structures begin with their size. Call their _init function before filling them: it sets the defaults, and
 * as the size the one that this header knows. So a program built against this header goes on working with
 * later libraries of the same ABI version, whose structures may have grown at their end; what an older
 * library does not know of a structure it leaves out. Other languages call _init_sized with the size of their
 * own declaration, or the function _init for the structure as it first was.
 */
#ifndef EDGE_REPORT_H
#define EDGE_REPORT_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define EDGE_API
#else
#define EDGE_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Rises when a program has to be built again; it is the number in the library's file name
 * (libedge_report.so.1). */
#define EDGE_REPORT_ABI_VERSION 1

/* The numbers are the exit codes of the command edge-report. */
typedef enum edge_status {
  EDGE_OK = 0,
  EDGE_USAGE = 1,    /* the call itself is wrong: an option out of range, a NULL that must not be */
  EDGE_CORRUPT = 22, /* the film: damaged or contradictory values */
  EDGE_UNSUPPORTED_MODALITY = 23, /* the film: not CR, DX, DR, RG or RF */
  EDGE_UNSUPPORTED_PIXELS = 26,   /* the film: colour, an implausible size, a depth that is not taken */
  EDGE_BUNDLE = 30,               /* the bundle: missing, damaged, or of another format version */
  EDGE_PROCESSING = 80,           /* the model failed, memory ran out */
  EDGE_RUNTIME_MISSING = 81,      /* no usable vision runtime (ONNX Runtime or OpenVINO) was found */
  EDGE_DEVICE = 82,               /* an instruction set that this machine lacks */
  EDGE_CANCELLED = 83,            /* by a cancel token or a callback */
  EDGE_BUSY = 84                  /* a callback called into its own engine */
} edge_status;

typedef struct edge_error {
  int32_t status;    /* an edge_status */
  char message[508]; /* one line, UTF-8, ends with 0 */
} edge_error;

/* EDGE_REPORT_ABI_VERSION of the library that runs, which a program may compare with its own. */
EDGE_API uint32_t edge_abi_version(void);
/* Version of the software, such as "0.1.0". */
EDGE_API const char* edge_version(void);
/* A short stable name of a status, such as "bundle"; "unknown" for other numbers. */
EDGE_API const char* edge_status_name(int32_t status);

/* ---- the engine ---- */

typedef struct edge_engine edge_engine;

/* How greedy texts are written several tokens per pass: always the same tokens, in less time. */
typedef enum edge_draft {
  EDGE_DRAFT_OFF = 0, /* one token per pass */
  EDGE_DRAFT_ALL = 1, /* guessed from the bundle's table, the text itself and, by a large float32 decoder, an
                         8-bit copy of itself that it keeps from its first report on */
  EDGE_DRAFT_SKETCH = 2 /* by that copy alone; decoders without one write one token per pass */
} edge_draft;

typedef struct edge_options {
  uint32_t size;
  int32_t threads;             /* of the graph and the decoder, 1 to 512; 0: the physical cores there are */
  const char* runtime;         /* "ort", "openvino"; NULL or "auto": see docs/embedding.md */
  const char* runtime_library; /* file of that runtime; NULL: searched for, see docs/embedding.md */
  const char* bias_rows;       /* "all", "prefill", "none" get the anatomical bias; NULL: the bundle's */
  const char* kv_dtype;        /* of the KV cache: "fp32", "fp16", "int8"; NULL: the bundle's or what fits */
  const char* isa;             /* instruction set; NULL: $EDGE_ISA, or the best one */
  int32_t draft;               /* an edge_draft; any other number counts as EDGE_DRAFT_ALL, the default */
} edge_options;

EDGE_API void edge_options_init(edge_options* options);
EDGE_API void edge_options_init_sized(edge_options* options, size_t size);
#define edge_options_init(options) edge_options_init_sized((options), sizeof(edge_options))

/* Opens a bundle (a folder, docs/bundle.md; UTF-8 path) and loads the model. Every file's SHA-256 is checked
 * before anything in it is parsed. The files are mapped and shared, read-only: do not change them while the
 * engine lives. What OpenVINO makes of a large graph is kept in the user's cache (docs/embedding.md).
 * `options` may be NULL. Errors: EDGE_USAGE, EDGE_BUNDLE, EDGE_RUNTIME_MISSING, EDGE_DEVICE, EDGE_PROCESSING.
 * Thread-safe, but that it reads the process's environment, and with ONNX Runtime sets a variable of it. */
EDGE_API edge_status edge_engine_open(const char* bundle, const edge_options* options, edge_engine** engine,
                                      edge_error* error);
/* Ends the engine and its threads. No other call on it may be running or follow. */
EDGE_API void edge_engine_close(edge_engine* engine);

/* JSON (ASCII) about the loaded model: model {name, family, bundle_sha256, precision, kv_dtype, bias_rows},
 * image {height, width}, max_new_tokens, software {version, device, vision, isa, threads}, intended_use and
 * notice. Belongs to the engine. Thread-safe. */
EDGE_API const char* edge_engine_info(const edge_engine* engine);
/* A line that must be shown to whoever reads a report of this model, or NULL. Belongs to the engine.
 * Thread-safe. */
EDGE_API const char* edge_engine_notice(const edge_engine* engine);
/* The last failure of a call on this engine, from any thread; EDGE_OK and "" before the first. For logs: the
 * caller's own edge_error is what belongs to a call. Thread-safe. */
EDGE_API void edge_engine_last_error(const edge_engine* engine, edge_error* error);

/* ---- the film ---- */

typedef enum edge_photometric { EDGE_MONOCHROME2 = 0, EDGE_MONOCHROME1 = 1 } edge_photometric;
typedef enum edge_presentation {
  EDGE_PRESENTATION_NONE = 0,
  EDGE_IDENTITY = 1,
  EDGE_INVERSE = 2
} edge_presentation;
typedef enum edge_voi {
  EDGE_VOI_NONE = 0,     /* no window */
  EDGE_LINEAR = 1,       /* window_center, window_width (PS3.3 C.11.2.1.2) */
  EDGE_LINEAR_EXACT = 2, /* C.11.2.1.3.2 */
  EDGE_SIGMOID = 3       /* C.11.2.1.3.1 */
} edge_voi;

/* A look-up table (Modality LUT or VOI LUT, PS3.3 C.11.1.1). `entries` NULL: none. */
typedef struct edge_lut {
  const uint16_t* entries; /* [count], in the machine's byte order */
  int32_t count;           /* 1 to 65536 */
  int32_t first;           /* the value mapped to entries[0], with its sign */
  int32_t bits;            /* 8 to 16: nominal depth of the entries */
} edge_lut;

/* One film: the values of the DICOM elements named, uncompressed. The defaults are those of a plain 16-bit
 * picture in which higher is brighter; then only pixels, rows and columns need to be set. */
typedef struct edge_film {
  uint32_t size;
  const void* pixels;     /* rows x columns cells of bits_allocated bits, row by row from the top left */
  int32_t rows, columns;  /* 64 to 12000, together 100 megapixels at most */
  int64_t row_stride;     /* bytes from one row to the next; 0: rows lie close together */
  int32_t bits_allocated; /* 8, 16; 32: float cells, higher is brighter, and nothing up to modality is used */
  int32_t bits_stored;    /* 6 to bits_allocated; 0: bits_allocated */
  int32_t high_bit;       /* bits_stored - 1 to bits_allocated - 1; -1: bits_stored - 1 */
  int32_t is_signed;      /* PixelRepresentation */
  int32_t big_endian;     /* cells of 16 bits in big-endian order */
  int32_t photometric;    /* an edge_photometric */
  int32_t presentation;   /* an edge_presentation: PresentationLUTShape. INVERSE inverts as MONOCHROME1 does,
                             both together once */
  double rescale_slope;   /* 1 */
  double rescale_intercept; /* 0; neither is used with a modality_lut */
  edge_lut modality_lut;
  int32_t voi; /* an edge_voi; used where the bundle's pipeline wants the film's own window */
  double window_center;
  double window_width;
  edge_lut voi_lut;      /* goes before the window */
  int32_t has_padding;   /* 1: stored values from padding_value to padding_limit are no picture */
  int32_t padding_value; /* PixelPaddingValue */
  int32_t padding_limit; /* PixelPaddingRangeLimit; INT32_MIN, the default: there is none */
  const char* modality;  /* CR, DX, DR, RG or RF, others are refused; NULL: not checked */
  /* Passed on to the JSON; NULL: "". A lateral or oblique view is the host's to refuse. */
  const char* view_position;
  const char* sop_instance_uid;
  const char* study_instance_uid;
  const char* series_instance_uid;
} edge_film;

EDGE_API void edge_film_init(edge_film* film);
EDGE_API void edge_film_init_sized(edge_film* film, size_t size);
#define edge_film_init(film) edge_film_init_sized((film), sizeof(edge_film))

/* What the model would see: the film after the bundle's intensity pipeline, resize and normalisation.
 * `pixels`: float [3, height, width] (edge_engine_info says how large), `count` floats, which must be its
 * size. Errors: EDGE_USAGE, EDGE_CORRUPT, EDGE_UNSUPPORTED_MODALITY, EDGE_UNSUPPORTED_PIXELS,
 * EDGE_PROCESSING. Thread-safe; does not wait for a running report. */
EDGE_API edge_status edge_engine_prepare(const edge_engine* engine, const edge_film* film, float* pixels,
                                         size_t count, edge_error* error);

/* ---- the report ---- */

typedef struct edge_report edge_report;
typedef struct edge_cancel edge_cancel;

/* A token that ends the reports it is given to. NULL where memory ran out. */
EDGE_API edge_cancel* edge_cancel_new(void);
/* From any thread, and from a signal handler. */
EDGE_API void edge_cancel_set(edge_cancel* cancel);
/* Makes the token good for another report. Not while one uses it. */
EDGE_API void edge_cancel_reset(edge_cancel* cancel);
EDGE_API void edge_cancel_free(edge_cancel* cancel);

/* Pieces of the findings as they become certain: `length` bytes of UTF-8 (not ended by 0), never inside a
 * character; put together they are edge_report_text(). Called on the thread that makes the report. Anything
 * but 0 cancels; an exception of C++ ends the report with EDGE_PROCESSING. Must not leave by longjmp, nor
 * close the engine. */
typedef int (*edge_on_text)(void* user, const char* text, size_t length);

typedef struct edge_report_options {
  uint32_t size;
  int32_t max_new_tokens;    /* 0: the bundle's */
  const char* bias_rows;     /* as in edge_options, for this report; NULL: the engine's */
  double repetition_penalty; /* 0.01 to 100; 0: the bundle's */
  double temperature;        /* 0: greedy; up to 100 */
  int32_t top_k;             /* 0: off */
  double top_p;              /* above 0, up to 1: off */
  uint64_t seed;             /* of the sampling */
  int32_t cut;               /* drop a last sentence that the token cap broke off: 0, 1; -1: the bundle's */
  int32_t draft;        /* as in edge_options, with what the engine was opened for; below 0: the engine's */
  edge_on_text on_text; /* may be NULL */
  void* user;           /* handed to on_text */
  const edge_cancel* cancel; /* may be NULL; looked at before and after the vision graph and at every token */
  int32_t beams; /* texts searched at once, 1 (greedy) to 16; 0: the bundle's, 1 with a temperature. With
                    beams the text comes in one piece */
} edge_report_options;

EDGE_API void edge_report_options_init(edge_report_options* options);
EDGE_API void edge_report_options_init_sized(edge_report_options* options, size_t size);
#define edge_report_options_init(options) \
  edge_report_options_init_sized((options), sizeof(edge_report_options))

/* Drafts the findings of one frontal chest radiograph. `options` may be NULL.
 * The tokens do not depend on the number of threads.
 * Errors: those of edge_engine_prepare, EDGE_CANCELLED, EDGE_BUSY.
 * Thread-safe: a second call on the same engine waits for the first. */
EDGE_API edge_status edge_engine_report(edge_engine* engine, const edge_film* film,
                                        const edge_report_options* options, edge_report** report,
                                        edge_error* error);
EDGE_API void edge_report_free(edge_report* report);

/* The findings, UTF-8. Show the engine's notice and the warnings with them. */
EDGE_API const char* edge_report_text(const edge_report* report);
/* Everything as one line of ASCII JSON: findings, sentences with confidence and evidence, token_ids,
 * logprobs, stop_reason, warnings, model, input, timings_ms, ... as the command's --format json;
 * docs/outputs.md says what each name means. */
EDGE_API const char* edge_report_json(const edge_report* report);
/* What a reader must know beside the text; [0, edge_report_warning_count). NULL beyond. */
EDGE_API size_t edge_report_warning_count(const edge_report* report);
EDGE_API const char* edge_report_warning(const edge_report* report, size_t index);
/* Generated ids without the stop id, and their natural log-probabilities; `count` of each, which may be NULL.
 * Perhaps NULL where there are none. */
EDGE_API const int32_t* edge_report_token_ids(const edge_report* report, size_t* count);
EDGE_API const float* edge_report_logprobs(const edge_report* report, size_t* count);
/* Lungs and heart, 0 or 1 [rows, columns]; NULL, 0 and 0 where the bundle has no segmenter. */
EDGE_API const uint8_t* edge_report_mask(const edge_report* report, int32_t* rows, int32_t* columns);

#ifdef __cplusplus
}
#endif

#endif /* EDGE_REPORT_H */
