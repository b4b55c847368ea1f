// SPDX-License-Identifier: Apache-2.0
// A vision graph in OpenVINO, on the CPU.
#include <algorithm>
#include <cstring>
#include <optional>
#include <string_view>
#include <utility>

#include "failure.h"
#include "heap.h"
#include "openvino_api.h"
#include "openvino_kept.h"
#include "shared_library.h"
#include "vision_runtime.h"

namespace edge::capi {
namespace {

using namespace openvino;

// x[1] -> Relu -> y[1], in ONNX.
constexpr std::string_view kSmallestGraph{
    "\x08\x08:"
    "3\n\x0c\n\x01x\x12\x01y\"\x04Relu\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01"
    "b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01"
    "B\x04\n\0\x10\r",
    61};

struct Shape {
  int64_t rank;
  int64_t* sizes;
};

class OwnedShape {
 public:
  explicit OwnedShape(const Api& api) : api_(&api) {}
  ~OwnedShape() {
    if (shape_.sizes) api_->release("ov_shape_free", &shape_);
  }
  OwnedShape(const OwnedShape&) = delete;
  OwnedShape& operator=(const OwnedShape&) = delete;
  Shape* out() { return &shape_; }
  std::vector<int64_t> sizes() const { return {shape_.sizes, shape_.sizes + shape_.rank}; }

 private:
  const Api* api_;
  Shape shape_{};
};

class OpenVinoRuntime : public VisionRuntime {
 public:
  OpenVinoRuntime(const Graph& graph, SharedLibrary library)
      : api_(std::move(library)),
        core_(api_, "ov_core_free"),
        compiled_(api_, "ov_compiled_model_free"),
        request_(api_, "ov_infer_request_free"),
        large_(graph.bytes.size() >= kLarge) {
    try {
      open(graph);
    } catch (const Refused&) {
      check_complete();
      throw bundle_failure("OpenVINO cannot load " + graph.name);
    }
    trim_heap();  // compiling leaves as much behind as the graph takes
  }

  const char* name() const override { return "openvino"; }
  const std::vector<Port>& inputs() const override { return inputs_; }
  const std::vector<Port>& outputs() const override { return outputs_; }

  std::vector<GraphOutput> run(std::span<const GraphInput> inputs,
                               std::span<const std::string> names) override {
    std::vector<GraphOutput> outputs;
    try {
      for (const GraphInput& input : inputs) feed(input);
      api_.call("ov_infer_request_infer", request_.get());
      made_.clear();
      for (const std::string& name : names) outputs.push_back(fetch(name));
    } catch (const Refused&) {
      throw Failure(EDGE_PROCESSING, "the vision graph failed");
    }
    if (kept_) kept_->let_go();
    if (large_) trim_heap();  // what preparing the film took
    return outputs;
  }

 private:
  // OpenVINO opens its parts when they are needed. Where one is missing, that is not the bundle's fault.
  void check_complete() const {
    const auto check = [](bool fine, const char* part) {
      if (!fine)
        throw Failure(EDGE_RUNTIME_MISSING, std::string("OpenVINO lacks ") + part +
                                                ", which lies beside libopenvino_c.so: install it whole");
    };
    check(core_.get() && !property(api_, core_.get(), "FULL_DEVICE_NAME").empty(), "its plugin for the CPU");
    Owned model(api_, "ov_model_free");
    check(read(std::as_bytes(std::span(kSmallestGraph)), model), "its reader of ONNX graphs");
  }

  bool read(std::span<const std::byte> graph, Owned& model) const {
    try {
      api_.call("ov_core_read_model_from_memory_buffer", core_.get(),
                reinterpret_cast<const char*>(graph.data()), graph.size(),
                static_cast<const Object*>(nullptr), model.out());
      return true;
    } catch (const Refused&) {
      return false;
    }
  }

  void open(const Graph& graph) {
    api_.call("ov_core_create", core_.out());
    // One stream, so that a film gets all threads; float32 stays float32 but where the graph is one for
    // bfloat16. OpenVINO's own cache stays off: it reads what lies in a folder, whoever wrote it.
    const Settings settings{{"ENABLE_CPU_PINNING", "NO"},
                            {"INFERENCE_PRECISION_HINT", graph.bf16 ? "bf16" : "f32"},
                            {"NUM_STREAMS", "1"},
                            {"PERFORMANCE_HINT", "LATENCY"}};
    for (const auto& [name, value] : settings) api_.set(core_.get(), name.c_str(), value.c_str());
    api_.set(core_.get(), "INFERENCE_NUM_THREADS", std::to_string(graph.threads).c_str());
    if (large_) kept_.emplace(api_, core_.get(), graph.sha256, settings);
    if (!kept_ || !kept_->load(compiled_)) {
      compile(graph);
      if (kept_) kept_->keep(compiled_);
    }
    api_.call("ov_compiled_model_create_infer_request", compiled_.get(), request_.out());
    float_ = float_type();
    inputs_ = ports("ov_compiled_model_inputs_size", "ov_compiled_model_input_by_index");
    outputs_ = ports("ov_compiled_model_outputs_size", "ov_compiled_model_output_by_index");
  }

  void compile(const Graph& graph) {
    Owned model(api_, "ov_model_free");
    if (!read(graph.bytes, model)) throw Refused{};
    api_.compile(core_.get(), model.get(), compiled_.out());
  }

  // The number of float32 is not the same in every version; that of a tensor asked for by name would be. It
  // is the one whose elements have four bytes among the numbers that versions have given it.
  int float_type() const {
    int64_t one = 1;
    for (const int number : {4, 5}) {
      Owned tensor(api_, "ov_tensor_free");
      size_t bytes = 0;
      try {
        api_.call("ov_tensor_create", number, Shape{1, &one}, tensor.out());
        api_.call("ov_tensor_get_byte_size", static_cast<const Object*>(tensor.get()), &bytes);
      } catch (const Refused&) {
        continue;
      }
      if (bytes == 4) return number;
    }
    throw Refused{};
  }

  std::vector<Port> ports(const char* count_of, const char* by_index) const {
    size_t count = 0;
    api_.call(count_of, compiled_.get(), &count);
    std::vector<Port> found(count);
    for (size_t i = 0; i < count; ++i) {
      Owned port(api_, "ov_output_const_port_free");
      api_.call(by_index, compiled_.get(), i, port.out());
      char* name = nullptr;
      api_.call("ov_port_get_any_name", port.get(), &name);
      found[i].name = name;
      api_.release("ov_free", name);
      int type = 0;
      api_.call("ov_port_get_element_type", port.get(), &type);
      found[i].is_float = type == float_;
      OwnedShape shape(api_);
      try {
        api_.call("ov_const_port_get_shape", port.get(), shape.out());
        found[i].shape = shape.sizes();
        found[i].is_fixed = true;
      } catch (const Refused&) {  // a shape that the graph leaves open
      }
    }
    return found;
  }

  void feed(const GraphInput& input) {
    std::vector<int64_t> sizes = input.shape;
    Owned tensor(api_, "ov_tensor_free");
    void* data = nullptr;
    api_.call("ov_tensor_create", float_, Shape{std::ssize(sizes), sizes.data()}, tensor.out());
    api_.call("ov_tensor_data", static_cast<const Object*>(tensor.get()), &data);
    std::memcpy(data, input.data.data(), input.data.size_bytes());
    api_.call("ov_infer_request_set_tensor", request_.get(), input.name.c_str(),
              static_cast<const Object*>(tensor.get()));
  }

  GraphOutput fetch(const std::string& name) {
    made_.emplace_back(api_, "ov_tensor_free");
    api_.call("ov_infer_request_get_tensor", static_cast<const Object*>(request_.get()), name.c_str(),
              made_.back().out());
    const auto* tensor = static_cast<const Object*>(made_.back().get());
    GraphOutput output;
    OwnedShape shape(api_);
    int type = 0;
    void* data = nullptr;
    api_.call("ov_tensor_get_element_type", tensor, &type);
    api_.call("ov_tensor_get_shape", tensor, shape.out());
    if (type != float_) throw Refused{};
    api_.call("ov_tensor_data", tensor, &data);
    output.shape = shape.sizes();
    size_t count = 1;
    for (const int64_t size : output.shape) count *= static_cast<size_t>(size);
    output.data = {static_cast<const float*>(data), count};
    return output;
  }

  Api api_;
  std::optional<KeptGraph> kept_;  // goes last: the graph may look at its pages
  Owned core_, compiled_, request_;
  bool large_;
  int float_ = 0;
  std::vector<Port> inputs_, outputs_;
  std::vector<Owned> made_;  // by the last run
};

}  // namespace

std::unique_ptr<VisionRuntime> open_openvino(const Graph& graph, const std::string& library) {
  return std::make_unique<OpenVinoRuntime>(
      graph, SharedLibrary(library, "EDGE_OPENVINO_LIBRARY", {"libopenvino_c.so"}, "OpenVINO"));
}

}  // namespace edge::capi
