// SPDX-License-Identifier: Apache-2.0
// A text by one kernel: every block of threads stays, and goes through the stages of a pass with all others.
// The stages are those of the single kernels, so the bits are theirs. Between stages stands a barrier of the
// whole grid; while it is waited for, what the next stage reads of the weights is on its way into the
// second-level cache.
#pragma once

#include "cuda/device/attention.cuh"
#include "cuda/device/choose.cuh"
#include "cuda/device/common.h"
#include "cuda/device/embed.cuh"
#include "cuda/device/matmul.cuh"
#include "cuda/device/persistent.h"

namespace edge::cuda {
namespace {

// Bytes of a block's share that are fetched ahead of a barrier.
constexpr int64_t kFetched = 48 << 10;

// One 128-byte line. No promise: a hint that the memory is free for meanwhile.
__device__ inline void fetch(const unsigned char* p) {
#ifdef __CUDA_ARCH__
  asm volatile("prefetch.global.L2 [%0];" ::"l"(p));
#else
  static_cast<void>(*static_cast<const volatile unsigned char*>(p));  // it must be there
#endif
}

__device__ inline void fetch_range(const void* from, int64_t bytes) {
  const auto* p = static_cast<const unsigned char*>(from);
  if (bytes > kFetched) bytes = kFetched;
  for (int64_t at = static_cast<int64_t>(threadIdx.x) * 128; at < bytes; at += kThreads * 128) fetch(p + at);
}

// The rows of a matrix that this block begins with.
__device__ inline void fetch_rows(const DeviceMatrix& w, int span) {
  const int first = static_cast<int>(blockIdx.x) * span;
  if (first >= w.rows) return;
  const int64_t bits = w.type == EDGE_CUDA_F32  ? 32
                       : w.type == EDGE_CUDA_I8 ? 8
                       : w.type == EDGE_CUDA_I4 ? 4
                                                : 16;
  const int64_t row = w.padded * bits / 8;
  fetch_range(static_cast<const unsigned char*>(w.data) + first * row, min(span, w.rows - first) * row);
}

// Waits until every block of the grid has come here; the last one to come does the work before the others go
// on. Uses the beginning of the shared memory.
template <class Work>
__device__ inline void meet(Barrier* barrier, Work work) {
  auto* last = reinterpret_cast<volatile int*>(edge_shared);
  unsigned turn = 0;
  __syncthreads();
  if (threadIdx.x == 0) {
    turn = barrier->turn;
    __threadfence();
    *last = atomicAdd(&barrier->arrived, 1u) == gridDim.x - 1;
  }
  __syncthreads();
  const bool is_last = *last != 0;
  __syncthreads();
  if (is_last) {
    __threadfence();
    work();
    __syncthreads();
    if (threadIdx.x == 0) {
      barrier->arrived = 0;
      __threadfence();
      barrier->turn = turn + 1;
    }
  } else if (threadIdx.x == 0) {
    while (barrier->turn == turn) __nanosleep(20);
  }
  __threadfence();
  __syncthreads();
}

template <int ROWS>
__device__ inline void product(MatmulArgs& a) {
  if (a.norm_weight) row_norms(a.x, a.x_stride, a.rows, a.w.cols, a.eps, shared_norms());
  const int block = static_cast<int>(blockIdx.x), blocks = static_cast<int>(gridDim.x);
  switch (a.w.type) {
    case EDGE_CUDA_F32:
      plan<F32, ROWS>(a);
      return matmul_units<F32, ROWS, false>(a, block, blocks);
    case EDGE_CUDA_F16:
      plan<F16, ROWS>(a);
      return matmul_units<F16, ROWS, false>(a, block, blocks);
    case EDGE_CUDA_BF16:
      plan<BF16, ROWS>(a);
      return matmul_units<BF16, ROWS, false>(a, block, blocks);
    case EDGE_CUDA_I4:
      plan<I4, ROWS>(a);
      return matmul_units<I4, ROWS, false>(a, block, blocks);
    default:
      plan<I8, ROWS>(a);
      return matmul_units<I8, ROWS, false>(a, block, blocks);
  }
}

template <class C, int ROWS>
__device__ inline void attention_of(const AttendArgs& a, int blocks) {
  for (int unit = static_cast<int>(blockIdx.x); unit < a.heads * blocks;
       unit += static_cast<int>(gridDim.x)) {
    attend_block<C, ROWS>(a, unit % a.heads, unit / a.heads);
    __syncthreads();
  }
}

template <int ROWS>
__device__ inline void attention(int cache_type, const AttendArgs& a, int blocks) {
  if (cache_type == EDGE_CUDA_F32) return attention_of<F32, ROWS>(a, blocks);
  if (cache_type == EDGE_CUDA_F16) return attention_of<F16, ROWS>(a, blocks);
  return attention_of<I8, ROWS>(a, blocks);
}

// Keys and values that this block attends to first.
__device__ inline void fetch_cache(const PassArgs& p, const AttendArgs& a, int blocks) {
  const int unit = static_cast<int>(blockIdx.x);
  if (unit >= a.heads * blocks) return;
  const int element = p.cache_type == EDGE_CUDA_F32 ? 4 : p.cache_type == EDGE_CUDA_F16 ? 2 : 1;
  const int64_t row = static_cast<int64_t>(a.stride) * element;
  const int64_t at = (static_cast<int64_t>(unit % a.heads) * a.capacity + unit / a.heads * kKeyBlock) * row;
  fetch_range(static_cast<const unsigned char*>(a.cache.keys) + at, kKeyBlock * row);
  fetch_range(static_cast<const unsigned char*>(a.cache.values) + at, kKeyBlock * row);
}

__device__ inline void embed_rows(const EmbedArgs& a, int rows) {
  for (int row = 0; row < rows; ++row) switch (a.embed.type) {
      case EDGE_CUDA_F32:
        embed_row<F32>(a, row);
        break;
      case EDGE_CUDA_F16:
        embed_row<F16>(a, row);
        break;
      case EDGE_CUDA_BF16:
        embed_row<BF16>(a, row);
        break;
      case EDGE_CUDA_I4:
        embed_row<I4>(a, row);
        break;
      default:
        embed_row<I8>(a, row);
    }
}

// The stages of a layer, with a barrier after each; the head comes after the last layer's.
enum Stage { kQkv, kAttend, kOut, kMlpIn, kMlpOut, kStages };

// One loop over all stages, so that the code of each is there once.
template <int ROWS>
__device__ inline void pass(const PassArgs& p) {
  constexpr int kSpan = kWarps * Plan<F32, ROWS>::kOut;
  if (p.rows > 1) {
    if (blockIdx.x == 0) propose_drafts({p.proposal, p.choose.flags, p.choose.state, p.rows});
    meet(p.barrier, [] {});
  }
  // Every block writes all of it, the same numbers: cheaper than a barrier.
  embed_rows(p.embed, p.rows);
  __syncthreads();
  const int blocks = (p.choose.state->keys + p.rows + kKeyBlock - 1) / kKeyBlock;
  AttendArgs attend = p.attend;
  MatmulArgs a{};
  a.eps = p.eps;
  a.rows = p.rows;
  a.flags = p.choose.flags;
  a.stats = p.stats;
  a.state = p.choose.state;
  bool first = true;
#pragma unroll 1
  for (int stage = 0; stage <= kStages * p.layers; ++stage) {
    const bool head = stage == kStages * p.layers;
    const int what = stage % kStages;
    const PassLayer& layer = p.layer[head ? 0 : stage / kStages];
    attend.cache = layer.cache;
    if (what == kAttend) {
      attend.bias = layer.bias;
      attend.mass = layer.gathers ? p.mass : nullptr;
      attention<(ROWS < 4 ? ROWS : 4)>(p.cache_type, attend, blocks);
    } else {
      if (what == kOut && layer.gathers) {
        EvidenceArgs evidence = p.evidence;
        evidence.first = first;
        for (int unit = static_cast<int>(blockIdx.x); unit * kAttendThreads < evidence.prefix;
             unit += static_cast<int>(gridDim.x))
          evidence_unit(evidence, unit);
        first = false;
      }
      const bool residual = what == kOut || what == kMlpOut;
      const DeviceNorm norm = head ? p.final_norm : what == kQkv ? layer.attn_norm : layer.mlp_norm;
      a.w = head             ? p.head
            : what == kQkv   ? layer.qkv
            : what == kOut   ? layer.attn_out
            : what == kMlpIn ? layer.mlp_in
                             : layer.mlp_out;
      a.x = what == kOut ? attend.out : what == kMlpOut ? p.mlp : p.embed.x;
      a.x_stride = a.w.cols;
      a.norm_weight = residual ? nullptr : norm.weight;
      a.norm_bias = norm.bias;
      a.y = head ? p.logits : what == kQkv ? p.qkv : what == kMlpIn ? p.mlp : p.embed.x;
      a.y_stride = a.w.rows;
      a.output = head           ? Output::logits
                 : residual     ? Output::residual
                 : what == kQkv ? Output::store
                                : p.activation;
      product<ROWS>(a);
    }
    // What this block reads first in the next stage is on its way while it waits.
    if (head)
      fetch_rows(layer.qkv, kSpan);
    else if (what == kQkv)
      fetch_cache(p, attend, blocks);
    else if (what == kAttend)
      fetch_rows(layer.attn_out, kSpan);
    else if (what == kOut)
      fetch_rows(layer.mlp_in, kSpan);
    else if (what == kMlpIn)
      fetch_rows(layer.mlp_out, kSpan);
    else if (stage + 1 < kStages * p.layers)
      fetch_rows((&layer)[1].qkv, kSpan);
    else
      fetch_rows(p.head, kVocabBlock);
    meet(p.barrier, [&] {
      if (head) choose_rows(p.choose);
    });
  }
}

template <int ROWS>
__global__ void __launch_bounds__(kThreads, 1) write_text(const __grid_constant__ PassArgs p) {
  // All blocks read the same: the end changes only while they wait.
  for (int n = 0; n < p.passes && !static_cast<const volatile State*>(p.choose.state)->end; ++n)
    pass<ROWS>(p);
}

template <int ROWS>
constexpr size_t text_shared() {
  // The most that any stage takes: products of the smallest number of columns per tile, or attention.
  constexpr size_t matmul = shared_bytes<F32, ROWS>(Plan<F32, ROWS>::kTile);
  constexpr size_t attend = attend_shared<I8, (ROWS < 4 ? ROWS : 4)>(kMostHeadDim);
  return matmul > attend ? matmul : attend;
}

}  // namespace

template <int ROWS>
cudaError_t launch_text_of(const PassArgs& args, int blocks, cudaStream_t stream) {
  return launch_together(write_text<ROWS>, dim3(static_cast<unsigned>(blocks), 1, 1), kThreads,
                         text_shared<ROWS>(), stream, args);
}

template <int ROWS>
cudaError_t prepare_text_of(int* blocks_per_processor) {
  const cudaError_t status = cudaFuncSetAttribute(
      write_text<ROWS>, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(text_shared<ROWS>()));
  if (status != cudaSuccess) return status;
  return cudaOccupancyMaxActiveBlocksPerMultiprocessor(blocks_per_processor, write_text<ROWS>, kThreads,
                                                       text_shared<ROWS>());
}

}  // namespace edge::cuda
