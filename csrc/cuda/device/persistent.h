// SPDX-License-Identifier: Apache-2.0
// One cooperative kernel that writes a text, or several tokens of it.
#pragma once

#include "cuda/device/kernels.h"
#include "cuda/device/weights.h"

namespace edge::cuda {

// Where all blocks of a grid meet.
struct Barrier {
  unsigned arrived;
  volatile unsigned turn;
};

struct PassLayer {
  DeviceNorm attn_norm, mlp_norm;
  DeviceMatrix qkv, attn_out, mlp_in, mlp_out;
  CacheLayer cache;
  const float* bias;
  int32_t gathers;  // 1: an evidence layer
};

struct PassArgs {
  const PassLayer* layer;  // [layers], on the device
  DeviceMatrix head;
  DeviceNorm final_norm;
  EmbedArgs embed;        // its x is the residual stream
  AttendArgs attend;      // but cache, bias and mass
  EvidenceArgs evidence;  // but first
  ChooseArgs choose;
  const Proposal* proposal;
  Barrier* barrier;
  float* qkv;
  float* mlp;
  float* mass;
  float* logits;
  BlockStats* stats;
  float eps;
  Output activation;
  int32_t layers, rows, cache_type;
  int32_t passes;  // at most so many in one launch
};

// Rows of a pass at most: wider ones are recorded, with the same bits. Their code would double the build.
inline constexpr int kPersistentRows = 4;

// `blocks` must be able to run at once: the launch fails otherwise.
cudaError_t launch_text(const PassArgs& args, int blocks, cudaStream_t stream);
// Loads the kernels; how many blocks of them a multiprocessor holds at least.
cudaError_t prepare_text(int* blocks_per_processor);

// By the number of rows, one source file each.
template <int ROWS>
cudaError_t launch_text_of(const PassArgs& args, int blocks, cudaStream_t stream);
template <int ROWS>
cudaError_t prepare_text_of(int* blocks_per_processor);

}  // namespace edge::cuda
