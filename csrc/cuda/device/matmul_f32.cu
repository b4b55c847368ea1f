// SPDX-License-Identifier: Apache-2.0
#include "cuda/device/matmul.cuh"

namespace edge::cuda {

template cudaError_t launch_matmul_of<F32>(MatmulArgs, cudaStream_t);
template cudaError_t prepare_matmul_of<F32>();

}  // namespace edge::cuda
