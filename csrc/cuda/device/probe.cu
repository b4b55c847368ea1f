// SPDX-License-Identifier: Apache-2.0
// Compiled alone at configuration: whether this compiler can build the library at all.
#include <cuda_fp16.h>

#include <string>
#include <thread>

__global__ void probe(__half* p) { *p = __float2half_rn(1.0f); }
std::string text() { return std::to_string(std::thread::hardware_concurrency()); }
