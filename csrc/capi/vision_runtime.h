// SPDX-License-Identifier: Apache-2.0
// What a runtime must offer to run a vision graph. Runtimes are opened when an engine is: nothing here links
// to one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace edge::capi {

// An input or output of a loaded graph; `shape` counts only where the graph fixes it.
struct Port {
  std::string name;
  bool is_float = false;
  bool is_fixed = false;
  std::vector<int64_t> shape;
};

struct GraphInput {
  std::string name;
  std::span<const float> data;
  std::vector<int64_t> shape;
};

// Float32, valid until the next run.
struct GraphOutput {
  std::span<const float> data;
  std::vector<int64_t> shape;
};

class VisionRuntime {
 public:
  virtual ~VisionRuntime() = default;
  virtual const char* name() const = 0;  // "ort" or "openvino"
  virtual const std::vector<Port>& inputs() const = 0;
  virtual const std::vector<Port>& outputs() const = 0;
  // The outputs called `names`. Throws Failure (EDGE_PROCESSING).
  virtual std::vector<GraphOutput> run(std::span<const GraphInput> inputs,
                                       std::span<const std::string> names) = 0;
};

// A graph to load: the bytes of the file, which may go when it is loaded.
struct Graph {
  std::span<const std::byte> bytes;
  std::string name;
  int threads = 1;
  bool bf16 = false;   // OpenVINO may compute in bfloat16
  std::string sha256;  // of the file, by which what OpenVINO makes of it is kept
};

// `library` names the runtime's file; empty: its environment variable, then the loader's search path.
// Throw Failure: EDGE_RUNTIME_MISSING where there is none that can be used, EDGE_BUNDLE where the graph does
// not load.
std::unique_ptr<VisionRuntime> open_onnxruntime(const Graph& graph, const std::string& library);
std::unique_ptr<VisionRuntime> open_openvino(const Graph& graph, const std::string& library);
// What OpenVINO runs, and whether it was measured to be faster with it on this processor (the package's rule,
// edge/vision/choice.py).
struct OpenVinoGraph {
  Graph graph;
  bool is_faster = false;
};

// `runtime`: "ort", "openvino" or "auto": the first of these that is found, OpenVINO before the other where
// it is faster.
std::unique_ptr<VisionRuntime> open_runtime(const Graph& graph, const OpenVinoGraph& for_openvino,
                                            const std::string& runtime, const std::string& library);

}  // namespace edge::capi
