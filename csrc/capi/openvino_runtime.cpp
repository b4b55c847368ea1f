// SPDX-License-Identifier: Apache-2.0
#include "failure.h"
#include "shared_library.h"
#include "vision_runtime.h"

namespace edge::capi {

std::unique_ptr<VisionRuntime> open_openvino(const Graph&, const std::string&) {
  throw Failure(EDGE_RUNTIME_MISSING, "OpenVINO is not taken by this build");
}

}  // namespace edge::capi
