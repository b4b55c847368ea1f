// SPDX-License-Identifier: Apache-2.0
// The decoder's weights on the device.
#pragma once

#include <vector>

#include "cuda/device/kernels.h"
#include "cuda/device/memory.h"

namespace edge::cuda {

struct DeviceNorm {
  const float* weight;
  const float* bias;
};

struct DeviceLayer {
  DeviceNorm attn_norm, mlp_norm;
  DeviceMatrix qkv, attn_out, mlp_in, mlp_out;
};

class DeviceWeights {
 public:
  DeviceWeights(const EdgeCudaModel& model, cudaStream_t stream);

  // Bytes that they will take, before anything is allocated.
  static int64_t bytes(const EdgeCudaModel& model);

  DeviceMatrix embed, head;
  DeviceNorm final_norm;
  const float* positions;
  std::vector<DeviceLayer> layers;

 private:
  void* copy(const void* from, int64_t bytes, cudaStream_t stream);
  const float* vector(const float* from, int64_t n, cudaStream_t stream);
  DeviceNorm norm(const EdgeCudaNorm& norm, int64_t n, cudaStream_t stream);
  DeviceMatrix matrix(const EdgeCudaMatrix& from, int float_type, cudaStream_t stream);

  std::vector<Buffer<unsigned char>> owned_;
  Buffer<float> staging_;
};

}  // namespace edge::cuda
