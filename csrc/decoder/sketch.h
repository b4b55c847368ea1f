// SPDX-License-Identifier: Apache-2.0
// The decoder once more in 8 bits, for guessing what the one in float32 is going to write: its layers have a
// quarter of the bytes, and it nearly always agrees. The float32 decoder then checks several guesses in one
// pass, so it is read less often and writes what it would have written ("Draft & Verify", Zhang et al. 2023,
// where the draft comes from the model itself). Only what the layers' float32 matrices are has a copy here.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "cpu/kernels.h"
#include "cpu/pages.h"
#include "cpu/thread_pool.h"
#include "decoder/weights.h"

namespace edge {

// Float32 weights of the layers below this many bytes stay in the processor's caches, where reading is not
// what takes the time.
inline constexpr int64_t kSketchFrom = int64_t{32} << 20;

class Sketch {
 public:
  // Sketches nothing.
  Sketch() = default;
  // Norms, biases and what is not float32 stay the decoder's own.
  Sketch(const Weights& weights, const Kernels& kernels, ThreadPool& pool);

  // Bytes of the layers' float32 matrices.
  static int64_t worth(const Weights& weights);
  // What a step by the sketch reads of layers and transform.
  static int64_t bytes(const Weights& weights);

  explicit operator bool() const { return memory_.data() != nullptr; }
  const std::vector<Layer>& layers() const { return layers_; }
  const Matrix& transform() const { return transform_; }

 private:
  Pages memory_;
  std::vector<float> scales_;
  std::vector<Layer> layers_;
  Matrix transform_;
};

// The matrices of a layer that a decode step reads.
inline auto matrices_of(Layer& layer) {
  return std::array{&layer.qkv,       &layer.attn_out, &layer.cross_q,
                    &layer.cross_out, &layer.mlp_in,   &layer.mlp_out};
}
inline auto matrices_of(const Layer& layer) {
  return std::array{&layer.qkv,       &layer.attn_out, &layer.cross_q,
                    &layer.cross_out, &layer.mlp_in,   &layer.mlp_out};
}

}  // namespace edge
