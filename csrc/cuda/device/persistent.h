// SPDX-License-Identifier: Apache-2.0
// One cooperative kernel that writes a text, or several tokens of it.
#pragma once

#include "cuda/device/kernels.h"
#include "cuda/device/weights.h"

namespace edge::cuda {

// Where all blocks of a grid meet (grid.cuh); a line of the cache each, as one is written while others are
// read.
struct Barrier {
  __align__(128) unsigned met;      // of all blocks: bit 31 flips
  __align__(128) unsigned arrived;  // of those that come before one of them works
  __align__(128) unsigned turn;
};

// The stages of a layer; all blocks meet after each. The head comes after the last layer's.
enum Stage { kQkv, kAttend, kOut, kMlpIn, kMlpOut, kStages };
// Layers whose descriptions fit beside all else in a block's shared memory; those of more are read where they
// lie.
inline constexpr int kLayersHeld = 48;

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
  Proposal proposal;  // as it is when the pass is started: the device need not read the host's memory
  Barrier* barrier;
  Word* trace;  // or null: of the first block (trace.h)
  float* qkv;
  float* mlp;
  float* mass;
  float* logits;
  BlockStats* stats;
  float eps;
  Output activation;
  int32_t layers, rows, cache_type;
  int32_t passes;   // at most so many in one launch
  int32_t fetched;  // bytes that a block fetches ahead of a stage at most: those of two stages and all blocks
                    // fit the second-level cache
};

// Where a trace has the two words of a stage: cycles when it had waited, and when it was done.
__host__ __device__ constexpr int64_t trace_at(int layers, int pass, int stage) {
  return 2 * (static_cast<int64_t>(pass) * (kStages * layers + 1) + stage);
}

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
