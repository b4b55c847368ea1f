// SPDX-License-Identifier: Apache-2.0
// Matrix times up to 16 rows: a warp per output (two where several rows share the weights), the input rows in
// shared memory as float, every sum in the order of the columns whatever the number of rows.
#pragma once

#include "cuda/device/common.h"
#include "cuda/device/kernels.h"
#include "cuda/device/stats.h"

namespace edge::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;

// Whether each 16 bytes have their own scale, instead of each row.
template <class W>
constexpr bool kGrouped = W::kVec == kGroup4;

template <class W, int ROWS>
struct Plan {
  static constexpr int kOut = ROWS == 1 ? 1 : 2;  // outputs of a warp at once
  static constexpr int kChunk = kWarp * W::kVec;  // columns of a warp at once
  static constexpr int kTile =
      16384 / (ROWS < 2 ? 2 : ROWS);  // columns in shared memory, a multiple of kChunk
};

// Where column c of a tile lies: the lanes of a warp read neighbouring 16-byte words.
template <class W>
__device__ inline int slot(int c) {
  constexpr int kChunk = kWarp * W::kVec;
  const int inside = c % kChunk, lane = inside / W::kVec, element = inside % W::kVec;
  return (c / kChunk * (W::kVec / 4) + element / 4) * (kWarp * 4) + lane * 4 + element % 4;
}

// Mean, rest of the mean and 1 / deviation of every row, by the whole block; the mean of the deviations takes
// out what rounding left in the mean, as on the CPU. partial: [2][ROWS][kWarps].
template <int ROWS>
__device__ inline void row_norms(const MatmulArgs& a, float* norms, float* partial) {
  const int cols = a.w.cols, thread = static_cast<int>(threadIdx.x), warp = thread / kWarp;
  const float count = static_cast<float>(cols);
  float sums[ROWS];
#pragma unroll
  for (int r = 0; r < ROWS; ++r) {
    sums[r] = 0.0f;
    if (r < a.rows)
      for (int c = thread; c < cols; c += kThreads) sums[r] += __ldcg(a.x + r * a.x_stride + c);
    sums[r] = warp_sum(sums[r]);
    if (thread % kWarp == 0) partial[r * kWarps + warp] = sums[r];
  }
  __syncthreads();
  float squares[ROWS];
#pragma unroll
  for (int r = 0; r < ROWS; ++r) {
    float mean = 0.0f;
    for (int w = 0; w < kWarps; ++w) mean += partial[r * kWarps + w];
    mean /= count;
    if (thread == 0) norms[3 * r] = mean;
    sums[r] = squares[r] = 0.0f;
    if (r < a.rows)
      for (int c = thread; c < cols; c += kThreads) {
        const float d = __ldcg(a.x + r * a.x_stride + c) - mean;
        sums[r] += d;
        squares[r] = fmaf(d, d, squares[r]);
      }
    sums[r] = warp_sum(sums[r]);
    squares[r] = warp_sum(squares[r]);
  }
  __syncthreads();  // the means have been read
#pragma unroll
  for (int r = 0; r < ROWS; ++r)
    if (thread % kWarp == 0) {
      partial[r * kWarps + warp] = sums[r];
      partial[(ROWS + r) * kWarps + warp] = squares[r];
    }
  __syncthreads();
  if (thread < a.rows) {
    float first = 0.0f, square = 0.0f;
    for (int w = 0; w < kWarps; ++w) {
      first += partial[thread * kWarps + w];
      square += partial[(ROWS + thread) * kWarps + w];
    }
    const float rest = first / count, variance = square / count - rest * rest;
    norms[3 * thread + 1] = rest;
    norms[3 * thread + 2] = 1.0f / sqrtf(fmaxf(variance, 0.0f) + a.eps);
  }
  __syncthreads();
}

// Columns [from, from + tile) of the rows, normalised, zero where there are none.
template <class W, int ROWS>
__device__ inline void load_tile(const MatmulArgs& a, const float* norms, int from, float* tile) {
#pragma unroll 1
  for (int r = 0; r < ROWS; ++r)
    for (int c = static_cast<int>(threadIdx.x); c < a.tile; c += kThreads) {
      const int column = from + c;
      float value = 0.0f;
      if (r < a.rows && column < a.w.cols) {
        value = __ldcg(a.x + r * a.x_stride + column);
        if (a.norm_weight) {
          const float d = value - norms[3 * r] - norms[3 * r + 1];
          value = fmaf(d * norms[3 * r + 2], a.norm_weight[column], a.norm_bias[column]);
        }
      }
      tile[r * a.tile + slot<W>(c)] = value;
    }
}

__device__ inline float activate(Output output, float x) {
  if (output == Output::gelu_tanh) {
    const float u = 0.79788456080286536f * fmaf(0.044715f, x * x * x, x);
    return x / (1.0f + expf(-2.0f * u));
  }
  if (output == Output::gelu_erf) return x * (0.5f * erfcf(-0.70710678118654752f * x));
  return x;
}

template <class W, int ROWS>
__host__ __device__ inline void plan(MatmulArgs& a) {
  using P = Plan<W, ROWS>;
  const int whole = (a.w.cols + P::kChunk - 1) / P::kChunk * P::kChunk;
  a.tile = whole < P::kTile ? whole : P::kTile;
  a.span = a.output == Output::logits ? kVocabBlock : kWarps * P::kOut;
}

// Every blocks-th unit of a.span outputs, from unit `block` on, by one block of threads.
template <class W, int ROWS>
__device__ inline void matmul_units(const MatmulArgs& a, int block, int blocks) {
  using P = Plan<W, ROWS>;
  float* tile = reinterpret_cast<float*>(edge_shared);  // [ROWS][a.tile]
  float* norms = tile + ROWS * a.tile;                  // [ROWS][3]
  float* scratch = norms + 3 * ROWS;                    // [2][ROWS][kWarps], or [ROWS][kVocabBlock]
  if (a.norm_weight) row_norms<ROWS>(a, norms, scratch);
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  const int units = (a.w.rows + a.span - 1) / a.span;
  const int64_t row_bytes = static_cast<int64_t>(a.w.padded / W::kVec) * 16;
  for (int unit = block; unit < units; unit += blocks) {
    const int begin = unit * a.span, end = min(begin + a.span, a.w.rows);
    for (int first = begin; first < end; first += kWarps * P::kOut) {
      const int out = first + warp * P::kOut;
      const unsigned char* rows[P::kOut];
      float sums[P::kOut][ROWS];
#pragma unroll
      for (int i = 0; i < P::kOut; ++i) {
        // Beyond the last output its row is read again, and the result dropped.
        rows[i] = static_cast<const unsigned char*>(a.w.data) + min(out + i, a.w.rows - 1) * row_bytes;
#pragma unroll
        for (int r = 0; r < ROWS; ++r) sums[i][r] = 0.0f;
      }
      for (int from = 0; from < a.w.cols; from += a.tile) {
        if ((first == begin && unit == block) || a.tile < a.w.cols) {
          __syncthreads();
          load_tile<W, ROWS>(a, norms, from, tile);
          __syncthreads();
        }
        const int vectors = min(a.tile, a.w.padded - from) / W::kVec;
        for (int v = lane; v < vectors; v += kWarp) {
          float w[P::kOut][W::kVec];
#pragma unroll
          for (int i = 0; i < P::kOut; ++i) {
            const int group = from / W::kVec + v;
            W::unpack(__ldg(reinterpret_cast<const uint4*>(rows[i]) + group), w[i]);
            if constexpr (kGrouped<W>) {
              const int64_t at =
                  static_cast<int64_t>(min(out + i, a.w.rows - 1)) * (a.w.padded / W::kVec) + group;
              const float scale = __half2float(static_cast<const __half*>(a.w.scale)[at]) / 128.0f;
#pragma unroll
              for (int e = 0; e < W::kVec; ++e) w[i][e] *= scale;
            }
          }
          const float4* x = reinterpret_cast<const float4*>(tile) + v / kWarp * (W::kVec / 4 * kWarp) + lane;
#pragma unroll
          for (int p = 0; p < W::kVec / 4; ++p)
#pragma unroll
            for (int r = 0; r < ROWS; ++r) {
              const float4 four = x[r * (a.tile / 4) + p * kWarp];
#pragma unroll
              for (int i = 0; i < P::kOut; ++i) {
                float sum = sums[i][r];
                sum = fmaf(w[i][4 * p], four.x, sum);
                sum = fmaf(w[i][4 * p + 1], four.y, sum);
                sum = fmaf(w[i][4 * p + 2], four.z, sum);
                sums[i][r] = fmaf(w[i][4 * p + 3], four.w, sum);
              }
            }
        }
      }
#pragma unroll
      for (int i = 0; i < P::kOut; ++i) {
        const int o = out + i;
#pragma unroll
        for (int r = 0; r < ROWS; ++r) {
          const float sum = warp_sum(sums[i][r]);
          if (lane != r || o >= end || r >= a.rows) continue;
          float value = !kGrouped<W> && a.w.scale ? sum * static_cast<const float*>(a.w.scale)[o] : sum;
          if (a.w.bias) value += a.w.bias[o];
          value = activate(a.output, value);
          float* y = a.y + r * a.y_stride + o;
          *y = a.output == Output::residual ? __ldcg(y) + value : value;
          if (a.output == Output::logits) scratch[r * kVocabBlock + o - begin] = value;
        }
      }
    }
    if (a.output != Output::logits) continue;
    __syncthreads();
    for (int r = warp; r < a.rows; r += kWarps) {
      const BlockStats stats =
          block_stats(scratch + r * kVocabBlock, end - begin, begin, a.flags, a.state->penalty, r);
      if (lane == 0) a.stats[r * units + unit] = stats;
    }
    __syncthreads();  // the next unit writes its logits where these were read
  }
}

template <class W, int ROWS>
__global__ void __launch_bounds__(kThreads) matmul(const MatmulArgs a) {
  if (a.state->end) return;
  matmul_units<W, ROWS>(a, static_cast<int>(blockIdx.x), static_cast<int>(gridDim.x));
}

template <class W, int ROWS>
constexpr size_t shared_bytes(int tile) {
  return sizeof(float) * static_cast<size_t>(ROWS * tile + 3 * ROWS + ROWS * kVocabBlock);
}

template <class W, int ROWS>
cudaError_t launch_rows(MatmulArgs a, cudaStream_t stream) {
  plan<W, ROWS>(a);
  const dim3 grid(static_cast<unsigned>((a.w.rows + a.span - 1) / a.span), 1, 1);
  return launch(matmul<W, ROWS>, grid, kThreads, shared_bytes<W, ROWS>(a.tile), stream, a);
}

template <class W, int ROWS>
cudaError_t prepare_rows() {
  return cudaFuncSetAttribute(matmul<W, ROWS>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                              static_cast<int>(shared_bytes<W, ROWS>(Plan<W, ROWS>::kTile)));
}

}  // namespace

template <class W>
cudaError_t launch_matmul_of(MatmulArgs a, cudaStream_t stream) {
  if (a.rows == 1) return launch_rows<W, 1>(a, stream);
  if (a.rows <= 4) return launch_rows<W, 4>(a, stream);
  return launch_rows<W, 16>(a, stream);
}

template <class W>
cudaError_t prepare_matmul_of() {
  cudaError_t status = prepare_rows<W, 1>();
  if (status == cudaSuccess) status = prepare_rows<W, 4>();
  if (status == cudaSuccess) status = prepare_rows<W, 16>();
  return status;
}

}  // namespace edge::cuda
