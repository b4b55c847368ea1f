// SPDX-License-Identifier: Apache-2.0
#include "cuda/device/persistent.cuh"

namespace edge::cuda {

template cudaError_t launch_text_of<16>(const PassArgs&, int, cudaStream_t);
template cudaError_t prepare_text_of<16>(int*);

}  // namespace edge::cuda
