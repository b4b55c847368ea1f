// SPDX-License-Identifier: Apache-2.0
#include "failure.h"
#include "utf8.h"
#include "vision_runtime.h"

namespace edge::capi {

std::unique_ptr<VisionRuntime> open_runtime(const Graph& graph, const std::string& runtime,
                                            const std::string& library) {
  if (runtime == "ort") return open_onnxruntime(graph, library);
  if (runtime == "openvino") return open_openvino(graph, library);
  if (runtime != "auto")
    throw Failure(EDGE_USAGE, "runtime must be one of auto, ort, openvino, not " + in_quotes(runtime));
  if (!library.empty()) {
    const std::string file = library.substr(library.rfind('/') + 1);
    return file.find("openvino") == std::string::npos ? open_onnxruntime(graph, library)
                                                      : open_openvino(graph, library);
  }
  try {
    return open_onnxruntime(graph, library);
  } catch (const Failure& first) {
    if (first.status() != EDGE_RUNTIME_MISSING) throw;
    try {
      return open_openvino(graph, library);
    } catch (const Failure& second) {
      if (second.status() != EDGE_RUNTIME_MISSING) throw;
    }
    throw;
  }
}

}  // namespace edge::capi
