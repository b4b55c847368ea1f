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
  // 16-byte words of a row of weights that a lane has on their way at once: a load takes hundreds of cycles.
  // Fewer where the code that multiplies them would grow long.
  static constexpr int kLong = 256 / (W::kVec * ROWS * kOut), kMost = 4;
  static constexpr int kAhead = kLong < 1 ? 1 : kLong > kMost ? kMost : kLong;
};

// Where column c of a tile lies: the lanes of a warp read neighbouring 16-byte words.
template <class W>
__device__ inline int slot(int c) {
  constexpr int kChunk = kWarp * W::kVec;
  const int inside = c % kChunk, lane = inside / W::kVec, element = inside % W::kVec;
  return (c / kChunk * (W::kVec / 4) + element / 4) * (kWarp * 4) + lane * 4 + element % 4;
}

// Columns of a row that a lane loads at once, and holds while the row is no longer than that.
constexpr int kHeld = 24;

// Mean, rest of the mean and 1 / deviation of every row, by a warp each; the mean of the deviations takes out
// what rounding left in the mean, as on the CPU. norms: [rows][3].
__device__ inline void row_norms(const float* from, int64_t stride, int rows, int cols, float eps,
                                 float* norms) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const float count = static_cast<float>(cols);
#pragma unroll 1
  for (int r = static_cast<int>(threadIdx.x) / kWarp; r < rows; r += kWarps) {
    const float* x = from + r * stride;
    float held[kHeld];
    float sum = 0.0f, rest = 0.0f, square = 0.0f;
#pragma unroll 1
    for (int begin = lane; begin < cols; begin += kHeld * kWarp) {
#pragma unroll
      for (int k = 0; k < kHeld; ++k)
        held[k] = begin + k * kWarp < cols ? __ldcg(x + begin + k * kWarp) : 0.0f;
#pragma unroll
      for (int k = 0; k < kHeld; ++k) sum += held[k];
    }
    const float mean = warp_sum(sum) / count;
#pragma unroll 1
    for (int begin = lane; begin < cols; begin += kHeld * kWarp) {
      if (cols > kHeld * kWarp) {
#pragma unroll
        for (int k = 0; k < kHeld; ++k)
          if (begin + k * kWarp < cols) held[k] = __ldcg(x + begin + k * kWarp);
      }
#pragma unroll
      for (int k = 0; k < kHeld; ++k) {
        const float d = begin + k * kWarp < cols ? held[k] - mean : 0.0f;
        rest += d;
        square = fmaf(d, d, square);
      }
    }
    rest = warp_sum(rest) / count;
    const float variance = warp_sum(square) / count - rest * rest;
    if (lane == 0) {
      norms[3 * r] = mean;
      norms[3 * r + 1] = rest;
      norms[3 * r + 2] = 1.0f / sqrtf(fmaxf(variance, 0.0f) + eps);
    }
  }
}

// Columns [from, from + a.tile) of the rows, normalised, zero where there are none.
template <class W, int ROWS>
__device__ inline void load_tile(const MatmulArgs& a, const float* norms, int from, float* tile) {
  constexpr int kBatch = ROWS == 1 ? 4 : 8;  // loads on their way at once
#pragma unroll 1
  for (int begin = static_cast<int>(threadIdx.x); begin < ROWS * a.tile; begin += kBatch * kThreads) {
    float value[kBatch], weight[kBatch], bias[kBatch];
#pragma unroll
    for (int k = 0; k < kBatch; ++k) {
      const int i = begin + k * kThreads, r = ROWS == 1 ? 0 : i / a.tile, column = from + i - r * a.tile;
      const bool there = i < ROWS * a.tile && r < a.rows && column < a.w.cols;
      value[k] = there ? __ldcg(a.x + r * a.x_stride + column) : 0.0f;
      weight[k] = there && a.norm_weight ? a.norm_weight[column] : 0.0f;
      bias[k] = there && a.norm_weight ? a.norm_bias[column] : 0.0f;
    }
#pragma unroll
    for (int k = 0; k < kBatch; ++k) {
      const int i = begin + k * kThreads, r = ROWS == 1 ? 0 : i / a.tile, c = i - r * a.tile;
      if (i >= ROWS * a.tile) continue;
      if (a.norm_weight && r < a.rows && from + c < a.w.cols) {
        const float d = value[k] - norms[3 * r] - norms[3 * r + 1];
        value[k] = fmaf(d * norms[3 * r + 2], weight[k], bias[k]);
      }
      tile[r * a.tile + slot<W>(c)] = value[k];
    }
  }
}

// Words of a few rows of weights on their way, and their scales where words have their own.
template <class W, int ROWS>
struct Ahead {
  using P = Plan<W, ROWS>;
  uint4 word[P::kAhead][P::kOut];
  __half scale[P::kAhead][kGrouped<W> ? P::kOut : 1];
};

// Words `begin`, `begin` + kWarp and so on of the rows of outputs `out` on, none from `end` on.
template <class W, int ROWS>
__device__ inline void fetch_words(const MatmulArgs& a, int out, int begin, int end, Ahead<W, ROWS>& ahead) {
  using P = Plan<W, ROWS>;
  const int words = a.w.padded / W::kVec;
#pragma unroll
  for (int i = 0; i < P::kOut; ++i) {
    // Beyond the last output its row is read again, and the result dropped.
    const int64_t row = static_cast<int64_t>(min(out + i, a.w.rows - 1)) * words;
#pragma unroll
    for (int k = 0; k < P::kAhead; ++k) {
      const int v = begin + k * kWarp;
      if (v >= end) continue;
      ahead.word[k][i] = __ldg(static_cast<const uint4*>(a.w.data) + row + v);
      if constexpr (kGrouped<W>) ahead.scale[k][i] = __ldg(static_cast<const __half*>(a.w.scale) + row + v);
    }
  }
}

// Adds the products of these words; x: the rows in shared memory, from column 0 of the words' tile on.
template <class W, int ROWS>
__device__ inline void multiply(const Ahead<W, ROWS>& ahead, int begin, int end, const float* tile,
                                int columns, float (&sums)[Plan<W, ROWS>::kOut][ROWS]) {
  using P = Plan<W, ROWS>;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll
  for (int k = 0; k < P::kAhead; ++k) {
    const int v = begin + k * kWarp;
    if (v >= end) continue;
    float w[P::kOut][W::kVec];
#pragma unroll
    for (int i = 0; i < P::kOut; ++i) {
      W::unpack(ahead.word[k][i], w[i]);
      if constexpr (kGrouped<W>) {
        const float scale = __half2float(ahead.scale[k][i]) / 128.0f;
#pragma unroll
        for (int e = 0; e < W::kVec; ++e) w[i][e] *= scale;
      }
    }
    const float4* x = reinterpret_cast<const float4*>(tile) + v / kWarp * (W::kVec / 4 * kWarp) + lane;
#pragma unroll
    for (int p = 0; p < W::kVec / 4; ++p)
#pragma unroll
      for (int r = 0; r < ROWS; ++r) {
        const float4 four = x[r * (columns / 4) + p * kWarp];
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

// Where the norms of rows lie in shared memory.
__device__ inline float* shared_norms() { return reinterpret_cast<float*>(edge_shared); }

// Every blocks-th unit of a.span outputs, from unit `block` on, by one block of threads. NORMS: it makes the
// rows' norms; otherwise they lie in shared memory.
template <class W, int ROWS, bool NORMS>
__device__ inline void matmul_units(const MatmulArgs& a, int block, int blocks) {
  using P = Plan<W, ROWS>;
  static_assert(ROWS <= kWarp);
  float* norms = shared_norms();         // [ROWS][3], of [ROWS][4]
  float* tile = norms + 4 * ROWS;        // [ROWS][a.tile]
  float* logits = tile + ROWS * a.tile;  // [ROWS][kVocabBlock]
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  const int units = (a.w.rows + a.span - 1) / a.span;
  bool fresh = true;  // no tile yet
  for (int unit = block; unit < units; unit += blocks) {
    const int begin = unit * a.span, end = min(begin + a.span, a.w.rows);
#pragma unroll 1
    for (int first = begin; first < end; first += kWarps * P::kOut) {
      const int out = first + warp * P::kOut;
      float sums[P::kOut][ROWS];
#pragma unroll
      for (int i = 0; i < P::kOut; ++i)
#pragma unroll
        for (int r = 0; r < ROWS; ++r) sums[i][r] = 0.0f;
      // The first weights come while the rows are made ready.
      Ahead<W, ROWS> ahead;
      fetch_words<W, ROWS>(a, out, lane, min(a.tile, a.w.padded) / W::kVec, ahead);
#pragma unroll 1
      for (int from = 0; from < a.w.cols; from += a.tile) {
        if (fresh || a.tile < a.w.cols) {
          __syncthreads();
          if (NORMS && fresh && a.norm_weight) {
            row_norms(a.x, a.x_stride, a.rows, a.w.cols, a.eps, norms);
            __syncthreads();
          }
          load_tile<W, ROWS>(a, norms, from, tile);
          __syncthreads();
          fresh = false;
        }
        const int before = from / W::kVec, words = min(a.tile, a.w.padded - from) / W::kVec;
#pragma unroll 1
        for (int v = lane; v < words; v += kWarp * P::kAhead) {
          if (from > 0 || v != lane) fetch_words<W, ROWS>(a, out, before + v, before + words, ahead);
          multiply<W, ROWS>(ahead, v, words, tile, a.tile, sums);
        }
      }
#pragma unroll
      for (int i = 0; i < P::kOut; ++i) {
        const int o = out + i;
        float value = 0.0f;  // lane r finishes row r
#pragma unroll
        for (int r = 0; r < ROWS; ++r) {
          const float sum = warp_sum(sums[i][r]);
          if (lane == r) value = sum;
        }
        if (lane < a.rows && o < end) {
          if (!kGrouped<W> && a.w.scale) value *= static_cast<const float*>(a.w.scale)[o];
          if (a.w.bias) value += a.w.bias[o];
          value = activate(a.output, value);
          float* y = a.y + lane * a.y_stride + o;
          *y = a.output == Output::residual ? __ldcg(y) + value : value;
          if (a.output == Output::logits) logits[lane * kVocabBlock + o - begin] = value;
        }
      }
    }
    if (a.output != Output::logits) continue;
    __syncthreads();
    for (int r = warp; r < a.rows; r += kWarps) {
      const BlockStats stats =
          block_stats(logits + r * kVocabBlock, end - begin, begin, a.flags, a.state->penalty, r);
      if (lane == 0) a.stats[r * units + unit] = stats;
    }
    __syncthreads();  // the next unit writes its logits where these were read
  }
}

template <class W, int ROWS>
__global__ void __launch_bounds__(kThreads, ROWS == 1 ? 3 : 1) matmul(const MatmulArgs a) {
  if (a.state->end) return;
  matmul_units<W, ROWS, true>(a, static_cast<int>(blockIdx.x), static_cast<int>(gridDim.x));
}

template <class W, int ROWS>
constexpr size_t shared_bytes(int tile) {
  return sizeof(float) * static_cast<size_t>(ROWS * tile + 4 * ROWS + ROWS * kVocabBlock);
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
