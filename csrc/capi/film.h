// SPDX-License-Identifier: Apache-2.0
// A film as the host gives it to the 8-bit picture that the bundle asks for: stored values, modality
// transformation, padding, polarity, window, intensity. The twin of edge/film/grey.py, edge/film/voi.py and
// edge/preprocess.py, with the same single-precision steps in the same order, so that the picture is the
// same.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "edge_report.h"
#include "manifest.h"

namespace edge::capi {

// What the report says about the film; texts are taken over only where they are well formed.
struct FilmMeta {
  std::string modality, view_position, sop_instance_uid, study_instance_uid, series_instance_uid;
  int64_t rows = 0, columns = 0;
  bool is_dicom = false;
};

struct Gray {
  int64_t rows = 0, columns = 0;
  std::vector<uint8_t> pixels;
};

// Throws Failure (EDGE_USAGE, EDGE_CORRUPT, EDGE_UNSUPPORTED_MODALITY, EDGE_UNSUPPORTED_PIXELS) before a
// pixel is read.
FilmMeta check_film(const edge_film& film);

// The 8-bit picture of a checked film; 0 is black.
Gray to_gray(const edge_film& film, const ImageSpec& image, std::vector<std::string>& warnings);

}  // namespace edge::capi
