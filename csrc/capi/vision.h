// SPDX-License-Identifier: Apache-2.0
// A bundle's vision graph, whichever runtime runs it: its inputs and outputs are checked against the manifest
// on loading, its numbers and their shapes on every run.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "manifest.h"
#include "vision_runtime.h"

namespace edge::capi {

// Float32, valid until the next run.
struct VisionOutput {
  std::span<const float> keys,
      values;  // [layers, heads, image keys, head_dim], of the prefix or cross-attention
  std::span<const float> first_logits;  // [vocab]; empty where the image is no prefix
  std::span<const float> embeddings;    // [prefix, hidden] instead, where the prefill is the kernel's
  std::span<const float> key_bias;      // [layers, prefix or sequence]; empty without segmenters
  std::span<const float> mask;          // [mask_rows, mask_columns] of 0 and 1; empty without segmenters
  int64_t mask_rows = 0, mask_columns = 0;
};

class Vision {
 public:
  // Throws Failure (EDGE_BUNDLE) where the graph does not fit the manifest.
  Vision(const Manifest& manifest, std::unique_ptr<VisionRuntime> runtime);

  const char* runtime() const { return runtime_->name(); }
  // `pixels` [3, height, width]; `bias`: whether the prefill rows get the key bias.
  VisionOutput run(std::span<const float> pixels, bool bias);

 private:
  struct Expected {
    std::string name;
    std::vector<int64_t> shape;  // -1: any
  };
  static void compare(const std::vector<Port>& found, const std::vector<Expected>& expected,
                      const std::string& what, bool exact, std::vector<std::string>& problems);

  std::unique_ptr<VisionRuntime> runtime_;
  std::vector<Expected> inputs_, outputs_;
};

}  // namespace edge::capi
