// SPDX-License-Identifier: Apache-2.0
#include <utility>

#include "failure.h"
#include "utf8.h"
#include "vision_runtime.h"

namespace edge::capi {

std::unique_ptr<VisionRuntime> open_runtime(const Graph& graph, const OpenVinoGraph& for_openvino,
                                            const std::string& runtime, const std::string& library) {
  const auto ort = [&] { return open_onnxruntime(graph, library); };
  const auto openvino = [&] { return open_openvino(for_openvino.graph, library); };
  std::string missing;  // what was said of runtimes that are not there
  const auto if_found = [&](const auto& open) -> std::unique_ptr<VisionRuntime> {
    try {
      return open();
    } catch (const Failure& failure) {
      if (failure.status() != EDGE_RUNTIME_MISSING) throw;
      missing = missing.empty() ? failure.what() : missing + "; " + failure.what();
      return nullptr;
    }
  };
  if (runtime == "ort") return ort();
  if (runtime == "openvino") return openvino();
  if (runtime != "auto")
    throw Failure(EDGE_USAGE, "runtime must be one of auto, ort, openvino, not " + in_quotes(runtime));
  if (!library.empty()) {
    const std::string file = library.substr(library.rfind('/') + 1);
    return file.find("openvino") == std::string::npos ? ort() : openvino();
  }
  std::unique_ptr<VisionRuntime> found = for_openvino.is_faster ? if_found(openvino) : if_found(ort);
  if (!found) found = for_openvino.is_faster ? if_found(ort) : if_found(openvino);
  if (!found) throw Failure(EDGE_RUNTIME_MISSING, missing);
  return found;
}

}  // namespace edge::capi
