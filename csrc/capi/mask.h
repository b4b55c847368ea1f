// SPDX-License-Identifier: Apache-2.0
// What the anatomy mask and the key bias tell about a film, before any text is believed; the twin of
// edge/mask.py.
#pragma once

#include <string>

#include "manifest.h"
#include "vision.h"

namespace edge::capi {

// A warning about a mask that no frontal chest film would give; empty where there is none.
std::string mask_warning(const VisionOutput& seen);
// Whether a strict mask hides every patch in some layer.
bool hides_everything(const VisionOutput& seen, const Manifest& manifest);
// Whether in every layer all patches have the same bias.
bool gives_no_guidance(const VisionOutput& seen, const Manifest& manifest);

}  // namespace edge::capi
