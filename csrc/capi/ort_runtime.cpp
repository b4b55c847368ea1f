// SPDX-License-Identifier: Apache-2.0
// A vision graph in ONNX Runtime, on the CPU.
#include <cstdlib>
#include <new>
#include <string_view>
#include <utility>

#include "cpu/thread_pool.h"
#include "failure.h"
#include "heap.h"
#include "ort_api.h"
#include "shared_library.h"
#include "vision_runtime.h"

namespace edge::capi {
namespace {

using namespace ort;

struct Refused {};  // by the runtime; its words may quote the graph and are left out

// It has no type of its own for memory that has run out, but words.
struct ErrorMessage {
  static const char* call(void* const* api, const Status* status) {
    const char* words = reinterpret_cast<const char* (*)(const Status*)>(api[2])(status);
    return words ? words : "";
  }
};

class Api {
 public:
  explicit Api(const SharedLibrary& library) {
    const auto base = library.function<const ApiBase* (*)()>("OrtGetApiBase");
    if (base && base()) {
      // Asked first, because a version that it does not know makes it write to stderr.
      const int minor = minor_version(base()->version_text());
      if (minor >= static_cast<int>(kApiVersion)) table_ = base()->get_api(kApiVersion);
    }
    if (!table_)
      throw Failure(EDGE_RUNTIME_MISSING,
                    "this ONNX Runtime is older than 1." + std::to_string(kApiVersion) + ", or none");
  }

  template <class F, class... Arguments>
  void call(Arguments... arguments) const {
    if (Status* status = F::call(table_, arguments...)) {
      const std::string_view words = ErrorMessage::call(table_, status);
      const bool memory =
          words.find("bad_alloc") != words.npos || words.find("Failed to allocate memory") != words.npos;
      ReleaseStatus::call(table_, status);
      if (memory) throw std::bad_alloc();
      throw Refused{};
    }
  }
  template <class R, class Object>
  void release(Object* object) const {
    if (object) R::call(table_, object);
  }

 private:
  static int minor_version(const char* text) {
    char* end = nullptr;
    const long major = std::strtol(text, &end, 10);
    if (*end != '.' || major < 1) return 0;
    return major > 1 ? 1 << 20 : static_cast<int>(std::strtol(end + 1, nullptr, 10));
  }

  void* const* table_ = nullptr;
};

// An object of the runtime and how to let go of it.
template <class Object, class R>
class Owned {
 public:
  explicit Owned(const Api& api) : api_(&api) {}
  ~Owned() { api_->release<R>(object_); }
  Owned(Owned&& other) noexcept : api_(other.api_), object_(std::exchange(other.object_, nullptr)) {}
  Owned& operator=(Owned&& other) noexcept {
    std::swap(object_, other.object_);
    return *this;
  }
  Object* get() const { return object_; }
  Object** out() { return &object_; }

 private:
  const Api* api_;
  Object* object_ = nullptr;
};
using OwnedValue = Owned<Value, ReleaseValue>;

void read_shape(const Api& api, const ShapeInfo* info, int& type, std::vector<int64_t>& shape) {
  size_t rank = 0;
  api.call<GetTensorElementType>(info, &type);
  api.call<GetDimensionsCount>(info, &rank);
  shape.resize(rank);
  api.call<GetDimensions>(info, shape.data(), rank);
}

class OrtRuntime : public VisionRuntime {
 public:
  OrtRuntime(const Graph& graph, const SharedLibrary& library)
      : api_(library), env_(api_), memory_(api_), session_(api_), large_(graph.bytes.size() >= kLarge) {
    try {
      open(graph);
    } catch (const Refused&) {
      throw bundle_failure("ONNX Runtime cannot load " + graph.name);
    }
  }

  const char* name() const override { return "ort"; }
  const std::vector<Port>& inputs() const override { return inputs_; }
  const std::vector<Port>& outputs() const override { return outputs_; }

  std::vector<GraphOutput> run(std::span<const GraphInput> inputs,
                               std::span<const std::string> names) override {
    std::vector<GraphOutput> outputs;
    try {
      run_session(inputs, names);
      for (const OwnedValue& value : values_) outputs.push_back(view(value.get()));
    } catch (const Refused&) {
      throw Failure(EDGE_PROCESSING, "the vision graph failed");
    }
    if (large_) trim_heap();
    return outputs;
  }

 private:
  void open(const Graph& graph) {
    // One environment per process, counted by the runtime.
    api_.call<CreateEnv>(static_cast<int>(kLogFatal), "edge_report", env_.out());
    api_.call<DisableTelemetryEvents>(static_cast<const Env*>(env_.get()));
    Owned<SessionOptions, ReleaseSessionOptions> options(api_);
    api_.call<CreateSessionOptions>(options.out());
    api_.call<SetIntraOpNumThreads>(options.get(), graph.threads);
    api_.call<SetInterOpNumThreads>(options.get(), 1);
    api_.call<SetGraphOptimizationLevel>(options.get(), static_cast<int>(kOptimizeAll));
    api_.call<SetSessionLogSeverityLevel>(options.get(), static_cast<int>(kLogFatal));
    // An arena would keep the most that any film needed.
    if (large_) api_.call<DisableCpuMemArena>(options.get());
    // Its threads spin between the operators of a film, unless there are more of them than processors, and
    // sleep between films: the decoder's need the processors then.
    const char* spin = graph.threads <= available_processors() ? "1" : "0";
    const std::pair<const char*, const char*> settings[] = {{"session.intra_op.allow_spinning", spin},
                                                            {"session.force_spinning_stop", "1"},
                                                            {"session.inter_op.allow_spinning", "0"}};
    for (const auto& [key, value] : settings) api_.call<AddSessionConfigEntry>(options.get(), key, value);
    api_.call<CreateSessionFromArray>(static_cast<const Env*>(env_.get()),
                                      static_cast<const void*>(graph.bytes.data()), graph.bytes.size(),
                                      static_cast<const SessionOptions*>(options.get()), session_.out());
    api_.call<CreateCpuMemoryInfo>(static_cast<int>(kArenaAllocator), static_cast<int>(kMemoryDefault),
                                   memory_.out());
    const auto* session = static_cast<const Session*>(session_.get());
    inputs_ = ports<SessionGetInputCount, SessionGetInputName, SessionGetInputTypeInfo>(session);
    outputs_ = ports<SessionGetOutputCount, SessionGetOutputName, SessionGetOutputTypeInfo>(session);
  }

  template <class Count, class Name, class Type>
  std::vector<Port> ports(const Session* session) const {
    size_t count = 0;
    Allocator* allocator = nullptr;
    api_.call<Count>(session, &count);
    api_.call<GetAllocator>(&allocator);
    std::vector<Port> found(count);
    for (size_t i = 0; i < count; ++i) {
      char* name = nullptr;
      api_.call<Name>(session, i, allocator, &name);
      found[i].name = name;
      api_.call<AllocatorFree>(allocator, static_cast<void*>(name));
      Owned<TypeInfo, ReleaseTypeInfo> type(api_);
      api_.call<Type>(session, i, type.out());
      const ShapeInfo* info = nullptr;  // null where it is no tensor; belongs to the type
      api_.call<CastTypeInfoToTensorInfo>(static_cast<const TypeInfo*>(type.get()), &info);
      if (!info) continue;
      int element = 0;
      read_shape(api_, info, element, found[i].shape);
      found[i].is_float = element == kFloat;
      found[i].is_fixed = true;
      for (const int64_t size : found[i].shape) found[i].is_fixed &= size >= 0;
    }
    return found;
  }

  void run_session(std::span<const GraphInput> inputs, std::span<const std::string> names) {
    std::vector<OwnedValue> fed;
    std::vector<const Value*> feed;
    std::vector<const char*> feed_names, wanted;
    for (const GraphInput& input : inputs) {
      fed.emplace_back(api_);
      // Not written to, though the API has no const here.
      api_.call<CreateTensorWithData>(static_cast<const MemoryInfo*>(memory_.get()),
                                      static_cast<void*>(const_cast<float*>(input.data.data())),
                                      input.data.size_bytes(), input.shape.data(), input.shape.size(),
                                      static_cast<int>(kFloat), fed.back().out());
      feed.push_back(fed.back().get());
      feed_names.push_back(input.name.c_str());
    }
    for (const std::string& name : names) wanted.push_back(name.c_str());
    values_.clear();
    std::vector<Value*> made(names.size());
    api_.call<Run>(session_.get(), static_cast<const RunOptions*>(nullptr),
                   static_cast<const char* const*>(feed_names.data()),
                   static_cast<const Value* const*>(feed.data()), feed.size(),
                   static_cast<const char* const*>(wanted.data()), wanted.size(), made.data());
    for (Value* value : made) {
      values_.emplace_back(api_);
      *values_.back().out() = value;
    }
  }

  GraphOutput view(Value* value) const {
    GraphOutput output;
    Owned<ShapeInfo, ReleaseShapeInfo> info(api_);
    int element = 0;
    void* data = nullptr;
    api_.call<GetTensorTypeAndShape>(static_cast<const Value*>(value), info.out());
    read_shape(api_, info.get(), element, output.shape);
    if (element != kFloat) throw Refused{};
    api_.call<GetTensorMutableData>(value, &data);
    size_t count = 1;
    for (const int64_t size : output.shape) count *= static_cast<size_t>(size);
    output.data = {static_cast<const float*>(data), count};
    return output;
  }

  Api api_;
  Owned<Env, ReleaseEnv> env_;
  Owned<MemoryInfo, ReleaseMemoryInfo> memory_;
  Owned<Session, ReleaseSession> session_;
  bool large_;
  std::vector<Port> inputs_, outputs_;
  std::vector<OwnedValue> values_;  // of the last run
};

}  // namespace

std::unique_ptr<VisionRuntime> open_onnxruntime(const Graph& graph, const std::string& library) {
  // Recent builds keep a device id and a database of events in the user's cache folder and send them to their
  // maker: nothing that software beside a scanner may do, and only the environment can stop it in time.
  const char* telemetry = std::getenv("ORT_DISABLE_TELEMETRY");
  if (!telemetry || std::string(telemetry) != "1") ::setenv("ORT_DISABLE_TELEMETRY", "1", 1);
  const SharedLibrary opened(library, "EDGE_ONNXRUNTIME_LIBRARY",
                             {"libonnxruntime.so.1", "libonnxruntime.so"}, "ONNX Runtime");
  return std::make_unique<OrtRuntime>(graph, opened);
}

}  // namespace edge::capi
