// SPDX-License-Identifier: Apache-2.0
// The small kernels around the layers: embedding, the choice of the next token, conversions at load.
#include "cuda/device/choose.cuh"
#include "cuda/device/common.h"
#include "cuda/device/embed.cuh"
#include "cuda/device/kernels.h"
#include "cuda/device/persistent.h"
#include "cuda/device/stats.h"

namespace edge::cuda {
namespace {

constexpr int kThreads = 256;

template <class W>
__global__ void embed(const EmbedArgs a) {
  if (a.state->end) return;
  const int row = static_cast<int>(blockIdx.x);
  embed_row<W>(a, row, a.state->ids[row]);
}

__global__ void measure(const MeasureArgs a) {
  const int first = static_cast<int>(blockIdx.x) * kVocabBlock;
  const int n = min(kVocabBlock, a.vocab - first);
  const BlockStats stats =
      block_stats(a.logits + first, n, first, block_flags(a.flags, n, first), a.state->penalty, 0);
  if (threadIdx.x == 0) a.stats[blockIdx.x] = stats;
}

__global__ void propose(const ProposeArgs a) {
  if (a.state->end) return;
  // Pinned memory, which the host changes between passes.
  const volatile int32_t* ids = a.proposal->ids;
  propose_drafts(a, [&](int i) { return ids[i]; });
}

__global__ void __launch_bounds__(kWarp* kMaxRows) choose(const ChooseArgs a) {
  if (a.state->end) return;
  choose_rows(a);
}

template <class W>
__global__ void convert(const ConvertArgs a) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (at >= a.rows * a.padded) return;
  const int64_t row = at / a.padded, column = at % a.padded;
  W::put(a.to, at, column < a.cols ? a.from[row * a.cols + column] : 0.0f);
}

}  // namespace

cudaError_t launch_embed(const EmbedArgs& a, int rows, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(rows), 1, 1);
  switch (a.embed.type) {
    case EDGE_CUDA_F32:
      return launch(embed<F32>, grid, kThreads, 0, stream, a);
    case EDGE_CUDA_F16:
      return launch(embed<F16>, grid, kThreads, 0, stream, a);
    case EDGE_CUDA_BF16:
      return launch(embed<BF16>, grid, kThreads, 0, stream, a);
    case EDGE_CUDA_I4:
      return launch(embed<I4>, grid, kThreads, 0, stream, a);
    default:
      return launch(embed<I8>, grid, kThreads, 0, stream, a);
  }
}

cudaError_t launch_matmul(MatmulArgs a, cudaStream_t stream) {
  switch (a.w.type) {
    case EDGE_CUDA_F32:
      return launch_matmul_of<F32>(a, stream);
    case EDGE_CUDA_F16:
      return launch_matmul_of<F16>(a, stream);
    case EDGE_CUDA_BF16:
      return launch_matmul_of<BF16>(a, stream);
    case EDGE_CUDA_I4:
      return launch_matmul_of<I4>(a, stream);
    default:
      return launch_matmul_of<I8>(a, stream);
  }
}

cudaError_t prepare_matmul() {
  cudaError_t status = prepare_matmul_of<F32>();
  if (status == cudaSuccess) status = prepare_matmul_of<F16>();
  if (status == cudaSuccess) status = prepare_matmul_of<BF16>();
  if (status == cudaSuccess) status = prepare_matmul_of<I8>();
  if (status == cudaSuccess) status = prepare_matmul_of<I4>();
  return status;
}

cudaError_t launch_text(const PassArgs& args, int blocks, cudaStream_t stream) {
  if (args.rows == 1) return launch_text_of<1>(args, blocks, stream);
  return launch_text_of<4>(args, blocks, stream);
}

cudaError_t prepare_text(int* blocks_per_processor) {
  int few = 0, several = 0;
  cudaError_t status = prepare_text_of<1>(&few);
  if (status == cudaSuccess) status = prepare_text_of<4>(&several);
  *blocks_per_processor = min(few, several);
  return status;
}

cudaError_t prepare_steps() {
  for (const cudaError_t status : {load(embed<F32>), load(embed<F16>), load(embed<BF16>), load(embed<I8>),
                                   load(embed<I4>), load(measure), load(propose), load(choose)})
    if (status != cudaSuccess) return status;
  return cudaSuccess;
}

cudaError_t launch_measure(const MeasureArgs& a, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>((a.vocab + kVocabBlock - 1) / kVocabBlock), 1, 1);
  return launch(measure, grid, kWarp, 0, stream, a);
}

cudaError_t launch_propose(const ProposeArgs& a, cudaStream_t stream) {
  return launch(propose, dim3(1, 1, 1), kWarp, 0, stream, a);
}

cudaError_t launch_choose(const ChooseArgs& a, cudaStream_t stream) {
  return launch(choose, dim3(1, 1, 1), kWarp * a.rows, kMaxRows * sizeof(Verdict), stream, a);
}

cudaError_t launch_convert(int type, const ConvertArgs& a, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>((a.rows * a.padded + kThreads - 1) / kThreads), 1, 1);
  if (type == EDGE_CUDA_F16) return launch(convert<F16>, grid, kThreads, 0, stream, a);
  return launch(convert<BF16>, grid, kThreads, 0, stream, a);
}

}  // namespace edge::cuda
