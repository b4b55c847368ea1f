// SPDX-License-Identifier: Apache-2.0
// Test only: parses an ONNX graph as a strongly typed network and compiles it ahead of time, with TensorRT
// for RTX and no GPU. Compiled against TensorRT's public headers; the libraries are opened from the folder
// that is named.
#include <NvInfer.h>
#include <NvOnnxParser.h>
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>

namespace {

class Logger : public nvinfer1::ILogger {
  void log(Severity severity, const char* message) noexcept override {
    if (severity <= Severity::kWARNING) std::fprintf(stderr, "%s\n", message);
  }
};

template <class F>
F name(void* library, const char* what) {
  void* found = library ? dlsym(library, what) : nullptr;
  if (!found) {
    std::fprintf(stderr, "%s: %s\n", what, dlerror());
    std::exit(2);
  }
  return reinterpret_cast<F>(found);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  void* core = dlopen(argv[1], RTLD_NOW | RTLD_GLOBAL);
  void* onnx = core ? dlopen(argv[2], RTLD_NOW | RTLD_GLOBAL) : nullptr;
  if (!onnx) std::fprintf(stderr, "%s\n", dlerror());
  Logger logger;
  const int32_t version = name<int32_t (*)()>(core, "getInferLibVersion")();
  auto* builder = static_cast<nvinfer1::IBuilder*>(
      name<void* (*)(void*, int32_t)>(core, "createInferBuilder_INTERNAL")(&logger, version));
  if (!builder) return 3;
  auto* network = builder->createNetworkV2(
      1U << static_cast<uint32_t>(nvinfer1::NetworkDefinitionCreationFlag::kSTRONGLY_TYPED));
  const int32_t parser_version = name<int32_t (*)()>(onnx, "getNvOnnxParserVersion")();
  auto* parser = static_cast<nvonnxparser::IParser*>(name<void* (*)(void*, void*, int32_t)>(
      onnx, "createNvOnnxParser_INTERNAL")(network, &logger, parser_version));
  if (!parser) return 4;
  if (!parser->parseFromFile(argv[3], static_cast<int>(nvinfer1::ILogger::Severity::kWARNING))) {
    std::fprintf(stderr, "refused\n");
    return 1;
  }
  std::printf("parsed: %d layers, %d inputs, %d outputs\n", network->getNbLayers(), network->getNbInputs(),
              network->getNbOutputs());
  std::fflush(stdout);
  auto* config = builder->createBuilderConfig();
  auto* plan = builder->buildSerializedNetwork(*network, *config);
  if (!plan) return 5;
  std::printf("compiled: %zu bytes\n", plan->size());
  std::fflush(stdout);
  std::_Exit(0);
}
