// SPDX-License-Identifier: Apache-2.0
// The part of ONNX Runtime's C API that is used here, declared from its documented ABI: one table of function
// pointers, to which versions only append, so that a function has its place for ever. The runtime is asked
// for the version of the last place used and must know it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace edge::capi::ort {

struct Status;
struct Env;
struct SessionOptions;
struct Session;
struct RunOptions;
struct Value;
struct MemoryInfo;
struct TypeInfo;
struct ShapeInfo;
struct Allocator;

struct ApiBase {
  void* const* (*get_api)(uint32_t version);
  const char* (*version_text)();
};

// Released in ONNX Runtime 1.12 (2022).
inline constexpr uint32_t kApiVersion = 12;

enum : int { kLogFatal = 4, kOptimizeAll = 99, kFloat = 1, kArenaAllocator = 1, kMemoryDefault = 0 };

template <size_t Place, class... Arguments>
struct Function {
  static Status* call(void* const* api, Arguments... arguments) {
    return reinterpret_cast<Status* (*)(Arguments...)>(api[Place])(arguments...);
  }
};
template <size_t Place, class Object>
struct Release {
  static void call(void* const* api, Object* object) {
    reinterpret_cast<void (*)(Object*)>(api[Place])(object);
  }
};

using CreateEnv = Function<3, int, const char*, Env**>;
using DisableTelemetryEvents = Function<6, const Env*>;
using CreateSessionFromArray = Function<8, const Env*, const void*, size_t, const SessionOptions*, Session**>;
using Run = Function<9, Session*, const RunOptions*, const char* const*, const Value* const*, size_t,
                     const char* const*, size_t, Value**>;
using CreateSessionOptions = Function<10, SessionOptions**>;
using DisableCpuMemArena = Function<19, SessionOptions*>;
using SetSessionLogSeverityLevel = Function<22, SessionOptions*, int>;
using SetGraphOptimizationLevel = Function<23, SessionOptions*, int>;
using SetIntraOpNumThreads = Function<24, SessionOptions*, int>;
using SetInterOpNumThreads = Function<25, SessionOptions*, int>;
using SessionGetInputCount = Function<30, const Session*, size_t*>;
using SessionGetOutputCount = Function<31, const Session*, size_t*>;
using SessionGetInputTypeInfo = Function<33, const Session*, size_t, TypeInfo**>;
using SessionGetOutputTypeInfo = Function<34, const Session*, size_t, TypeInfo**>;
using SessionGetInputName = Function<36, const Session*, size_t, Allocator*, char**>;
using SessionGetOutputName = Function<37, const Session*, size_t, Allocator*, char**>;
using CreateTensorWithData =
    Function<49, const MemoryInfo*, void*, size_t, const int64_t*, size_t, int, Value**>;
using GetTensorMutableData = Function<51, Value*, void**>;
using CastTypeInfoToTensorInfo = Function<55, const TypeInfo*, const ShapeInfo**>;
using GetTensorElementType = Function<60, const ShapeInfo*, int*>;
using GetDimensionsCount = Function<61, const ShapeInfo*, size_t*>;
using GetDimensions = Function<62, const ShapeInfo*, int64_t*, size_t>;
using GetTensorTypeAndShape = Function<65, const Value*, ShapeInfo**>;
using CreateCpuMemoryInfo = Function<69, int, int, MemoryInfo**>;
using AllocatorFree = Function<76, Allocator*, void*>;
using GetAllocator = Function<78, Allocator**>;
using AddSessionConfigEntry = Function<130, SessionOptions*, const char*, const char*>;

using ReleaseEnv = Release<92, Env>;
using ReleaseStatus = Release<93, Status>;
using ReleaseMemoryInfo = Release<94, MemoryInfo>;
using ReleaseSession = Release<95, Session>;
using ReleaseValue = Release<96, Value>;
using ReleaseTypeInfo = Release<98, TypeInfo>;
using ReleaseShapeInfo = Release<99, ShapeInfo>;
using ReleaseSessionOptions = Release<100, SessionOptions>;

}  // namespace edge::capi::ort
