// SPDX-License-Identifier: Apache-2.0
// The decoder's weights and the draft table of a bundle, as the kernel takes them.
#pragma once

#include <memory>
#include <optional>

#include "bundle.h"
#include "decoder/draft.h"
#include "decoder/weights.h"
#include "safetensors.h"

namespace edge::capi {

// Views of the mapped file, names, types and shapes checked against the decoder spec.
struct DecoderWeights {
  Tensors tensors;
  Weights weights;
  int64_t bytes = 0;  // of all arrays
};

// Throw Failure (EDGE_BUNDLE).
DecoderWeights load_weights(const Bundle& bundle);

struct LoadedDraft {
  Tensors tensors;
  DraftTable table;
};
std::unique_ptr<LoadedDraft> load_draft(const Bundle& bundle);  // null where the bundle has none

}  // namespace edge::capi
