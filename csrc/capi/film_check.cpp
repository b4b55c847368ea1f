// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <limits>
#include <string_view>

#include "failure.h"
#include "film.h"
#include "utf8.h"

namespace edge::capi {
namespace {

constexpr int32_t kMinSide = 64, kMaxSide = 12000;
constexpr int64_t kMaxPixels = 100'000'000;

// A value of a DICOM element without its padding; no further than such a value may be long.
std::string value_of(const char* text, size_t limit) {
  if (!text) return {};
  std::string value(text, std::find(text, text + limit + 1, '\0'));
  while (!value.empty() && value.back() == ' ') value.pop_back();
  value.erase(0, std::min(value.find_first_not_of(' '), value.size()));
  return value;
}

std::string uid(const char* text) {
  const std::string value = value_of(text, 64);
  bool digit = false;  // since the last dot
  for (const char c : value) {
    if (c == '.' ? !digit : !is_digit(static_cast<unsigned char>(c))) return {};
    digit = c != '.';
  }
  return digit && value.size() <= 64 ? value : std::string();
}

std::string term(const char* text) {
  std::string value = value_of(text, 16);
  for (char& c : value) c = static_cast<char>(c >= 'a' && c <= 'z' ? c - 32 : c);
  return value;
}

template <size_t N>
bool among(const std::string_view (&terms)[N], std::string_view value) {
  return std::find(std::begin(terms), std::end(terms), value) != std::end(terms);
}

std::string checked_modality(const char* text) {
  constexpr std::string_view kTaken[] = {"CR", "DX", "DR", "RG", "RF"};
  if (!text) return {};
  const std::string value = term(text);
  if (!among(kTaken, value))
    throw Failure(EDGE_UNSUPPORTED_MODALITY,
                  "the modality is none of CR, DX, DR, RG and RF; give a radiograph");
  return value;
}

void check_size(const edge_film& film) {
  const std::string size = std::to_string(film.columns) + "x" + std::to_string(film.rows) + " pixels is ";
  if (film.rows > kMaxSide || film.columns > kMaxSide || int64_t{film.rows} * film.columns > kMaxPixels)
    throw Failure(EDGE_UNSUPPORTED_PIXELS, size + "implausibly large for a radiograph");
  if (film.rows < kMinSide || film.columns < kMinSide)
    throw Failure(EDGE_UNSUPPORTED_PIXELS, size + "too small for a radiograph");
  const int64_t row = int64_t{film.columns} * film.bits_allocated / 8;
  if (film.row_stride != 0 && film.row_stride < row)
    throw Failure(EDGE_USAGE, "row_stride must be 0 or at least " + std::to_string(row) + " bytes");
  // Beyond this the last row would not be where an address can be.
  if (film.row_stride > std::numeric_limits<int64_t>::max() / film.rows)
    throw Failure(EDGE_USAGE, "row_stride is too large");
}

void check_depth(int32_t bits) {
  if (bits < 6)
    throw Failure(EDGE_UNSUPPORTED_PIXELS, std::to_string(bits) + (bits == 1 ? " bit" : " bits") +
                                               " per pixel is too few for a radiograph");
}

void check_bits(const edge_film& film) {
  const int32_t allocated = film.bits_allocated, stored = film.bits_stored ? film.bits_stored : allocated;
  if (stored > allocated || stored < 0) throw Failure(EDGE_CORRUPT, "more bits stored than allocated");
  check_depth(stored);
}

void check_lut(const edge_lut& lut, const char* name) {
  if (!lut.entries) return;
  if (lut.count < 1 || lut.count > 65536)
    throw Failure(EDGE_USAGE, std::string(name) + ".count must be 1 to 65536");
  if (lut.first < -65536 || lut.first > 65536)
    throw Failure(EDGE_USAGE, std::string(name) + ".first must be a 16-bit value");
}

void check_enums(const edge_film& film) {
  if (film.photometric != EDGE_MONOCHROME1 && film.photometric != EDGE_MONOCHROME2)
    throw Failure(EDGE_UNSUPPORTED_PIXELS, "photometric must be EDGE_MONOCHROME1 or EDGE_MONOCHROME2");
  if (film.presentation < EDGE_PRESENTATION_NONE || film.presentation > EDGE_INVERSE)
    throw Failure(EDGE_USAGE, "presentation holds an unknown value");
  if (film.voi < EDGE_VOI_NONE || film.voi > EDGE_SIGMOID)
    throw Failure(EDGE_USAGE, "voi holds an unknown value");
}

}  // namespace

FilmMeta check_film(const edge_film& film) {
  if (!film.pixels) throw Failure(EDGE_USAGE, "the film's pixels are NULL");
  if (film.bits_allocated > 0) check_depth(film.bits_allocated);
  if (film.bits_allocated != 8 && film.bits_allocated != 16 && film.bits_allocated != 32)
    throw Failure(EDGE_UNSUPPORTED_PIXELS, "bits_allocated must be 8, 16 or (float) 32");
  check_size(film);
  if (film.bits_allocated != 32) {
    check_bits(film);
    check_enums(film);
    check_lut(film.modality_lut, "modality_lut");
    check_lut(film.voi_lut, "voi_lut");
    if (film.modality_lut.entries && (film.modality_lut.bits < 8 || film.modality_lut.bits > 16))
      throw Failure(EDGE_CORRUPT, "the modality look-up table has an impossible depth");
    const double slope = std::fabs(film.rescale_slope), intercept = std::fabs(film.rescale_intercept);
    if (!film.modality_lut.entries && !(slope > 1e-12 && slope < 1e12 && intercept <= 1e12))
      throw Failure(EDGE_CORRUPT, "the rescale slope or intercept is not usable");
  }
  constexpr std::string_view kViews[] = {"AP",  "PA",  "LL",  "RL",      "RLD",    "LLD",
                                         "RLO", "LLO", "LAT", "LATERAL", "FRONTAL"};
  FilmMeta meta;
  meta.rows = film.rows, meta.columns = film.columns;
  meta.modality = checked_modality(film.modality);
  meta.view_position = term(film.view_position);
  if (!among(kViews, meta.view_position)) meta.view_position.clear();
  meta.sop_instance_uid = uid(film.sop_instance_uid);
  meta.study_instance_uid = uid(film.study_instance_uid);
  meta.series_instance_uid = uid(film.series_instance_uid);
  meta.is_dicom = film.modality || !meta.sop_instance_uid.empty();
  return meta;
}

}  // namespace edge::capi
