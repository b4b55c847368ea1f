// SPDX-License-Identifier: Apache-2.0
// The kernels' arguments and launchers. Kernels are pure: the caller has checked every shape. Each begins by
// looking whether the text has ended, so steps that were queued too many cost next to nothing.
#pragma once

#include <cuda_runtime.h>
#include <stdint.h>

#include "cuda/api.h"
#include "cuda/device/sizes.h"

namespace edge::cuda {

// What changes from step to step, in device memory: kernels in a replayed graph read it there.
struct State {
  int32_t keys;     // cached rows, prefix and text
  int32_t limit;    // of them at most
  int32_t bias;     // 1: the rows of this step get the key bias
  int32_t end;      // an EdgeCudaEnd
  int32_t count;    // tokens written; the evidence of a step goes to this slot
  int32_t max_new;  // of them at most
  int32_t stops;    // stop ids
  float penalty;
  int32_t ids[kMaxRows];
};

// What the host is told of a text, in pinned memory: a word per token, 0 until it is written. Its 8 bytes are
// written and read as one, so neither a fence nor a counter stands beside it: in the lower half the
// log-probability's bits, above it the id, and in the four upper bits what it is.
using Word = unsigned long long;
enum class Told : uint32_t {
  nothing,
  token,      // the last one of its pass
  more,       // a token, and the pass has another word
  last,       // the last token of a text that has its length
  stop,       // no token: the text has ended before it
  not_finite  // no token: nor will there be
};
inline constexpr int kToldShift = 60, kIdBits = 28;

// In pinned host memory: the drafted ids of a pass, for the rows after its first.
struct Proposal {
  int32_t ids[kMaxRows - 1];
};

// One block of logits: its log-sum-exp parts, and its best id after penalty and suppression.
struct __align__(16) BlockStats {
  float max;
  float sum_exp;
  float best;
  int32_t id;
};

// A matrix on the device: rows of `padded` columns.
struct DeviceMatrix {
  void* data;
  void* scale;  // float [rows] for i8, half [rows, padded / 32] for i4
  const float* bias;
  int32_t rows, cols, padded;
  int32_t type;
};

struct EmbedArgs {
  DeviceMatrix embed;
  const float* positions;  // [max_positions, hidden]
  float* x;                // [rows, hidden]
  const State* state;
  int32_t hidden, position_offset;
};

enum class Output : int32_t { store, residual, gelu_tanh, gelu_erf, logits };

// y[r, o] (+)= f(sum_k w[o, k] n(x[r])[k] + bias[o]); n is a layer norm where norm_weight is not null.
// The order of every sum depends on the number of columns alone.
struct MatmulArgs {
  DeviceMatrix w;
  const float* x;
  int64_t x_stride;
  const float* norm_weight;
  const float* norm_bias;
  float eps;
  float* y;
  int64_t y_stride;
  int32_t rows;
  Output output;
  const uint8_t* flags;  // logits: [vocab], kGenerated and kSuppressed
  BlockStats* stats;     // logits: [rows, blocks]
  const State* state;
  int32_t span, tile;  // set by the launcher: outputs of a block, columns in shared memory at once
};

// Flags of an id. Above the two bits, while a chunk is checked: the first row that has the id as a draft
// before it, and so takes it for generated; 0 for none.
inline constexpr uint8_t kGenerated = 1, kSuppressed = 2;
inline constexpr int kDraftShift = 2;

// One layer of the cache: rows [heads][capacity][stride], with one scale per row in i8.
struct CacheLayer {
  void* keys;
  void* values;
  float* key_scales;
  float* value_scales;
};

// Stores the keys and values of the step's rows, then attends over the keys that each row sees: a block of
// threads per head and block of keys; the last one of a head to finish joins them, in block order.
struct AttendArgs {
  const float* qkv;  // [rows, 3 hidden]
  CacheLayer cache;
  const float* bias;  // [capacity]
  float* max;         // [kMaxRows, heads, max_blocks] of the streamed softmax
  float* sum;
  float* partial;     // [kMaxRows, heads, max_blocks, head_dim]
  float* factors;     // [kMaxRows, heads, max_blocks]: what the blocks' sums count in the result
  float* mass;        // [kMaxRows, heads, capacity] or null: exp(score - max of the block)
  float* out;         // [rows, hidden]
  uint32_t* arrived;  // [heads], zero between launches
  const State* state;
  int32_t rows, heads, head_dim, stride, capacity, max_blocks;
  float scale;
};

// evidence[count + r - from, j] (+)= mean over heads and evidence layers of the attention to prefix key j.
struct EvidenceArgs {
  const float* mass;
  const float* factors;
  float* out;  // [slots, prefix]
  const State* state;
  int32_t rows, from, heads, prefix, capacity, max_blocks;
  int32_t first;  // 1: the first evidence layer of a step, which overwrites
  float mean;
};

struct MeasureArgs {
  const float* logits;  // [vocab]
  const uint8_t* flags;
  BlockStats* stats;
  const State* state;
  int32_t vocab;
};

// Takes the drafts of a pass: row r + 1 is computed as if ids[r] had been chosen in row r.
struct ProposeArgs {
  const Proposal* proposal;  // pinned
  uint8_t* flags;
  State* state;
  int32_t rows;
};

// The choice in every row of a pass, as far as each draft is what the row before it chose.
struct ChooseArgs {
  const BlockStats* stats;  // [rows, blocks]
  const float* logits;      // [rows, vocab]
  uint8_t* flags;
  const int32_t* stop;
  Word* tokens;  // pinned
  State* state;
  int32_t rows, blocks, vocab;
  int32_t advance;  // 1: the pass before has appended the rows
};

// Rows [heads, length, head_dim] into the cache from key 0 on.
struct PrefixArgs {
  const float* keys;
  const float* values;
  CacheLayer cache;
  int32_t heads, length, head_dim, stride, capacity;
};

// Float rows [rows, cols] into rows of `padded` columns of another type.
struct ConvertArgs {
  const float* from;
  void* to;
  int64_t rows, cols, padded;
};

// Called once before the others, in any order: loads the kernels, which a recorded step must find loaded, and
// allows the shared memory that they need. An error means that there is no code for the device.
cudaError_t prepare_matmul();
cudaError_t prepare_attention();
cudaError_t prepare_steps();

cudaError_t launch_embed(const EmbedArgs& args, int rows, cudaStream_t stream);
cudaError_t launch_matmul(MatmulArgs args, cudaStream_t stream);
cudaError_t launch_attend(int cache_type, const AttendArgs& args, int blocks, cudaStream_t stream);
cudaError_t launch_evidence(const EvidenceArgs& args, cudaStream_t stream);
cudaError_t launch_measure(const MeasureArgs& args, cudaStream_t stream);
cudaError_t launch_propose(const ProposeArgs& args, cudaStream_t stream);
cudaError_t launch_choose(const ChooseArgs& args, cudaStream_t stream);
cudaError_t launch_prefix(int cache_type, const PrefixArgs& args, cudaStream_t stream);
cudaError_t launch_convert(int type, const ConvertArgs& args, cudaStream_t stream);

// Per weight type, one source file each.
template <class W>
cudaError_t launch_matmul_of(MatmulArgs args, cudaStream_t stream);
template <class W>
cudaError_t prepare_matmul_of();

inline int64_t bytes_of(int type, int64_t elements) {
  switch (type) {
    case EDGE_CUDA_F32:
      return elements * 4;
    case EDGE_CUDA_F16:
    case EDGE_CUDA_BF16:
      return elements * 2;
    case EDGE_CUDA_I8:
      return elements;
    default:
      return elements / 2;
  }
}

}  // namespace edge::cuda
