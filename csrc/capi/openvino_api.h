// SPDX-License-Identifier: Apache-2.0
// OpenVINO's C API (2023.0 and later): plain functions, found by name.
#pragma once

#include <cstddef>
#include <string>
#include <utility>

#include "failure.h"
#include "shared_library.h"

namespace edge::capi::openvino {

struct Refused {};  // by the runtime

// Opaque objects of the runtime. Each kind is let go by a function of its own.
using Object = void;

class Api {
 public:
  explicit Api(SharedLibrary library) : library_(std::move(library)) {
    if (!library_.symbol("ov_core_read_model_from_memory_buffer"))
      throw Failure(EDGE_RUNTIME_MISSING, "this OpenVINO is older than 2023.0, or none");
  }

  // A function that returns a status, 0 for success.
  template <class... Arguments>
  void call(const char* name, Arguments... arguments) const {
    const auto function = library_.function<int (*)(Arguments...)>(name);
    if (!function || function(arguments...) != 0) throw Refused{};
  }
  void release(const char* name, Object* object) const {
    const auto function = library_.function<void (*)(Object*)>(name);
    if (function && object) function(object);
  }
  // A setting for whatever the core makes from here on.
  void set(Object* core, const char* name, const char* value) const {
    const auto function = library_.function<int (*)(const Object*, const char*, ...)>("ov_core_set_property");
    if (!function || function(core, "CPU", name, value) != 0) throw Refused{};
  }
  void compile(Object* core, Object* model, Object** compiled) const {
    using Compile = int (*)(const Object*, const Object*, const char*, size_t, Object**, ...);
    const auto function = library_.function<Compile>("ov_core_compile_model");
    if (!function || function(core, model, "CPU", 0, compiled) != 0) throw Refused{};
  }

 private:
  SharedLibrary library_;
};

class Owned {
 public:
  Owned(const Api& api, const char* release) : api_(&api), release_(release) {}
  ~Owned() { api_->release(release_, object_); }
  Owned(Owned&& other) noexcept
      : api_(other.api_), release_(other.release_), object_(std::exchange(other.object_, nullptr)) {}
  Owned& operator=(Owned&&) = delete;
  Object* get() const { return object_; }
  Object** out() { return &object_; }

 private:
  const Api* api_;
  const char* release_;
  Object* object_ = nullptr;
};

// What the core tells of the processor; empty where it does not.
inline std::string property(const Api& api, Object* core, const char* name) {
  char* value = nullptr;
  try {
    api.call("ov_core_get_property", static_cast<const Object*>(core), "CPU", name, &value);
  } catch (const Refused&) {
    return {};
  }
  const std::string text = value ? value : "";
  api.release("ov_free", value);
  return text;
}

}  // namespace edge::capi::openvino
