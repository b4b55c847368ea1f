// SPDX-License-Identifier: Apache-2.0
// Matrix times up to 16 rows: a warp per output (or per two or four of them), the input rows in shared memory
// as float, every sum in an order that depends on the number of columns alone.
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

// What is known of a product when it is compiled: nothing; that it adds to the residual stream, and so has
// neither norm nor activation; or that it has a norm, and does not add.
enum class Kind { any, residual, normed };

// Outputs of a warp at once: two where several rows share the weights. For one row a kernel that stays takes
// four, but of the smaller matrices of residual products: one after the other, each would wait for its own
// additions.
template <int ROWS, Kind KIND>
constexpr int kOuts = ROWS > 1               ? 2
                      : KIND == Kind::normed ? 4
                                             : 1;

// Columns of the rows in shared memory at once, a multiple of all types' kChunk.
template <int ROWS>
constexpr int kTile = 16384 / (ROWS < 2 ? 2 : ROWS);

template <class W, int ROWS, int OUT>
struct Plan {
  static_assert(OUT * ROWS <= kWarp && kVocabBlock % (OUT * kWarps) == 0);
  static constexpr int kOut = OUT;
  static constexpr int kChunk = kWarp * W::kVec;  // columns of a warp at once
  // 16-byte words of a row of weights that a lane has on their way at once: a load takes hundreds of cycles.
  // Fewer where the code that multiplies them would grow long.
  static constexpr int kLong = (OUT > 2 ? 128 : 256) / (W::kVec * ROWS * OUT), kMost = 4;
  static constexpr int kAhead = kLong < 1 ? 1 : kLong > kMost ? kMost : kLong;
};

// Where column c of a tile lies: the lanes of a warp read neighbouring 16-byte words.
template <class W>
__device__ inline int slot(int c) {
  constexpr int kChunk = kWarp * W::kVec;
  const int inside = c % kChunk, lane = inside / W::kVec, element = inside % W::kVec;
  return (c / kChunk * (W::kVec / 4) + element / 4) * (kWarp * 4) + lane * 4 + element % 4;
}

// The same number, of which the compiler does not know that: what follows from it is computed where it is
// used, instead of being kept over the loops before. Kernels for one row have a third of a multiprocessor's
// registers; where those did not do, as on sm_120, what had just been asked of memory went onto the stack,
// and every unit began by waiting for it.
template <int ROWS>
__device__ inline int anew(int x) {
  if constexpr (ROWS == 1) asm volatile("" : "+r"(x));
  return x;
}

// Columns of a row that a lane loads at once, and holds while the row is no longer than that.
constexpr int kHeld = 24;
static_assert(kHeld % kWarps == 0);

// Sums over a row have one order, whoever makes them: a thread of a block of kThreads adds every kThreads-th
// column, then the warps' sums are added lane by lane, then the lanes. Here one warp does all of it, with the
// sums of the block's warps beside each other.
struct RowSum {
  float part[kWarps] = {};
  __device__ float total() const {
    float sum = part[0];
#pragma unroll
    for (int w = 1; w < kWarps; ++w) sum += part[w];
    return warp_sum(sum);
  }
};

// And here the block; `parts`: kThreads floats of shared memory, written by every thread before a barrier.
__device__ inline float block_total(const float* parts, int lane) {
  float sum = parts[lane];
#pragma unroll
  for (int w = 1; w < kWarps; ++w) sum += parts[w * kWarp + lane];
  return warp_sum(sum);
}

__device__ inline float deviation(float square, float rest, float count, float eps) {
  const float variance = square / count - rest * rest;
  return 1.0f / sqrtf(fmaxf(variance, 0.0f) + eps);
}

// Mean, rest of the mean and 1 / deviation of every row, by a warp each; the mean of the deviations takes out
// what rounding left in the mean, as on the CPU. norms: [rows][3].
__device__ inline void row_norms(int thread, const float* from, int64_t stride, int rows, int cols, float eps,
                                 float* norms) {
  const int lane = thread % kWarp;
  const float count = static_cast<float>(cols);
#pragma unroll 1
  for (int r = thread / kWarp; r < rows; r += kWarps) {
    const float* x = from + r * stride;
    float held[kHeld];
    RowSum sum, rests, squares;
#pragma unroll 1
    for (int begin = lane; begin < cols; begin += kHeld * kWarp) {
#pragma unroll
      for (int k = 0; k < kHeld; ++k)
        held[k] = begin + k * kWarp < cols ? __ldcg(x + begin + k * kWarp) : 0.0f;
#pragma unroll
      for (int k = 0; k < kHeld; ++k) sum.part[k % kWarps] += held[k];
    }
    const float mean = sum.total() / count;
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
        rests.part[k % kWarps] += d;
        squares.part[k % kWarps] = fmaf(d, d, squares.part[k % kWarps]);
      }
    }
    const float rest = rests.total() / count, scale = deviation(squares.total(), rest, count, eps);
    if (lane == 0) {
      norms[3 * r] = mean;
      norms[3 * r + 1] = rest;
      norms[3 * r + 2] = scale;
    }
  }
}

// Columns that a thread holds of a row which the whole block normalises.
constexpr int kOwn = 4;

// One row, read once and normalised by all threads, with the bits of the above. parts: [3][kThreads].
template <class W>
__device__ inline void norm_row(int thread, const MatmulArgs& a, float* parts, float* tile) {
  const int lane = thread % kWarp, cols = a.w.cols;
  const float count = static_cast<float>(cols);
  float x[kOwn], weight[kOwn], bias[kOwn];
#pragma unroll
  for (int k = 0; k < kOwn; ++k) {
    const int c = thread + k * kThreads;
    x[k] = c < cols ? __ldcg(a.x + c) : 0.0f;
    weight[k] = c < cols ? __ldg(a.norm_weight + c) : 0.0f;
    bias[k] = c < cols ? __ldg(a.norm_bias + c) : 0.0f;
  }
  float sum = 0.0f, rests = 0.0f, squares = 0.0f;
#pragma unroll
  for (int k = 0; k < kOwn; ++k) sum += x[k];
  parts[thread] = sum;
  __syncthreads();
  const float mean = block_total(parts, lane) / count;
#pragma unroll
  for (int k = 0; k < kOwn; ++k) {
    const float d = thread + k * kThreads < cols ? x[k] - mean : 0.0f;
    rests += d;
    squares = fmaf(d, d, squares);
  }
  parts[kThreads + thread] = rests;
  parts[2 * kThreads + thread] = squares;
  __syncthreads();
  const float rest = block_total(parts + kThreads, lane) / count;
  const float scale = deviation(block_total(parts + 2 * kThreads, lane), rest, count, a.eps);
  const int first = anew<1>(thread) & (kThreads - 1);
#pragma unroll
  for (int k = 0; k < kOwn; ++k) {
    const int c = first + k * kThreads;
    if (c < a.tile)
      tile[slot<W>(c)] = c < cols ? fmaf((x[k] - mean - rest) * scale, weight[k], bias[k]) : 0.0f;
  }
}

// The same for a row of any length, which is read once more for each step; norms: as of row_norms.
__device__ inline void long_norm(int thread, const MatmulArgs& a, float* parts, float* norms) {
  const int lane = thread % kWarp;
  const float count = static_cast<float>(a.w.cols);
  float sum = 0.0f, rests = 0.0f, squares = 0.0f;
  for (int c = thread; c < a.w.cols; c += kThreads) sum += __ldcg(a.x + c);
  parts[thread] = sum;
  __syncthreads();
  const float mean = block_total(parts, lane) / count;
  for (int c = thread; c < a.w.cols; c += kThreads) {
    const float d = __ldcg(a.x + c) - mean;
    rests += d;
    squares = fmaf(d, d, squares);
  }
  parts[kThreads + thread] = rests;
  parts[2 * kThreads + thread] = squares;
  __syncthreads();
  const float rest = block_total(parts + kThreads, lane) / count;
  const float scale = deviation(block_total(parts + 2 * kThreads, lane), rest, count, a.eps);
  if (thread == 0) {
    norms[0] = mean;
    norms[1] = rest;
    norms[2] = scale;
  }
}

// Columns [from, from + a.tile) of the rows, normalised, zero where there are none.
template <class W, int ROWS>
__device__ inline void load_normed(int thread, const MatmulArgs& a, const float* norms, int from,
                                   float* tile) {
  constexpr int kBatch = ROWS == 1 ? 2 : 8;  // loads on their way at once
#pragma unroll 1
  for (int begin = thread; begin < ROWS * a.tile; begin += kBatch * kThreads) {
    float value[kBatch], weight[kBatch], bias[kBatch];
#pragma unroll
    for (int k = 0; k < kBatch; ++k) {
      const int i = begin + k * kThreads, r = ROWS == 1 ? 0 : i / a.tile, column = from + i - r * a.tile;
      const bool there = i < ROWS * a.tile && r < a.rows && column < a.w.cols;
      value[k] = there ? __ldcg(a.x + r * a.x_stride + column) : 0.0f;
      weight[k] = there ? __ldg(a.norm_weight + column) : 0.0f;
      bias[k] = there ? __ldg(a.norm_bias + column) : 0.0f;
    }
#pragma unroll
    for (int k = 0; k < kBatch; ++k) {
      const int i = begin + k * kThreads, r = ROWS == 1 ? 0 : i / a.tile, c = i - r * a.tile;
      if (i >= ROWS * a.tile) continue;
      if (r < a.rows && from + c < a.w.cols)
        value[k] = fmaf((value[k] - norms[3 * r] - norms[3 * r + 1]) * norms[3 * r + 2], weight[k], bias[k]);
      tile[r * a.tile + slot<W>(c)] = value[k];
    }
  }
}

// The same as they are.
template <class W, int ROWS>
__device__ inline void load_plain(int thread, const MatmulArgs& a, int from, float* tile) {
  constexpr int kBatch = 4;              // loads of 16 bytes on their way at once
  const bool whole = a.w.cols % 4 == 0;  // four columns are there or not
  const int each = whole ? 4 : 1;
#pragma unroll 1
  for (int begin = thread * each; begin < ROWS * a.tile; begin += kBatch * kThreads * each) {
    float4 value[kBatch];
#pragma unroll
    for (int k = 0; k < kBatch; ++k) {
      const int i = begin + k * kThreads * each, r = ROWS == 1 ? 0 : i / a.tile,
                column = from + i - r * a.tile;
      const bool there = i < ROWS * a.tile && r < a.rows && column < a.w.cols;
      const float* p = a.x + r * a.x_stride + column;
      value[k] = {0.0f, 0.0f, 0.0f, 0.0f};
      if (there && whole) value[k] = __ldcg(reinterpret_cast<const float4*>(p));
      if (there && !whole) value[k].x = __ldcg(p);
    }
#pragma unroll
    for (int k = 0; k < kBatch; ++k) {
      const int i = begin + k * kThreads * each, r = ROWS == 1 ? 0 : i / a.tile, c = i - r * a.tile;
      if (i >= ROWS * a.tile) continue;
      float* to = tile + r * a.tile + slot<W>(c);
      if (whole)
        *reinterpret_cast<float4*>(to) = value[k];
      else
        *to = value[k].x;
    }
  }
}

// Words of a few rows of weights on their way, and their scales where words have their own. Who declares one
// sets it to zero: registers that are only written under a condition are taken for the whole of a kernel.
template <class W, int ROWS, int OUT>
struct Ahead {
  using P = Plan<W, ROWS, OUT>;
  uint4 word[P::kAhead][P::kOut];
  __half scale[P::kAhead][kGrouped<W> ? P::kOut : 1];
};

// Where a warp is: it goes through the words of its rows, batch after batch of the tiles that fit the shared
// memory, then through those of the next outputs. The next batch is fetched while this one is multiplied.
struct Place {
  int unit, first;  // of outputs: the block's unit, and the first output of all its warps
  int word, end;    // of a row: first of the batch, and end of its tile
};

template <class W, int ROWS, int OUT>
__device__ inline Place place_at(const MatmulArgs& a, int block) {
  return {block, block * a.span, 0, min(a.tile, a.w.padded) / W::kVec};
}

// Another place in the rows of weights; none left: nothing lies before its end.
template <class W, int ROWS, int OUT>
__device__ inline Place place_after(const MatmulArgs& a, int blocks, Place p) {
  using P = Plan<W, ROWS, OUT>;
  const int words = a.w.padded / W::kVec, tile = a.tile / W::kVec;
  p.word += kWarp * P::kAhead;
  if (p.word < p.end) return p;
  p.word = p.end;
  if (p.word == words) {
    p.word = p.end = 0;
    p.first += kWarps * P::kOut;
    if (p.first >= (p.unit + 1) * a.span || p.first >= a.w.rows) {
      p.unit += blocks;
      p.first = p.unit * a.span;
      if (p.first >= a.w.rows) return p;
    }
  }
  p.end = min(p.word + tile, words);
  return p;
}

// The lane's word k of the place.
template <class W, int ROWS, int OUT>
__device__ inline void fetch_word(int thread, const MatmulArgs& a, const Place& p, int k,
                                  Ahead<W, ROWS, OUT>& ahead) {
  using P = Plan<W, ROWS, OUT>;
  const int v = p.word + k * kWarp + thread % kWarp;
  if (v >= p.end) return;
#pragma unroll
  for (int i = 0; i < P::kOut; ++i) {
    // Beyond the last output its row is read again, and the result dropped.
    const int out = min(p.first + thread / kWarp * P::kOut + i, a.w.rows - 1);
    const int64_t at = static_cast<int64_t>(out) * (a.w.padded / W::kVec) + v;
    ahead.word[k][i] = __ldg(static_cast<const uint4*>(a.w.data) + at);
    if constexpr (kGrouped<W>) ahead.scale[k][i] = __ldg(static_cast<const __half*>(a.w.scale) + at);
  }
}

template <class W, int ROWS, int OUT>
__device__ inline void fetch_words(int thread, const MatmulArgs& a, const Place& p,
                                   Ahead<W, ROWS, OUT>& ahead) {
#pragma unroll
  for (int k = 0; k < Plan<W, ROWS, OUT>::kAhead; ++k) fetch_word<W, ROWS, OUT>(thread, a, p, k, ahead);
}

// Adds the products of the words of `here`, and fetches those of `next` as soon as one has been used; tile:
// the rows in shared memory, `columns` of them, from word `before` on.
template <class W, int ROWS, int OUT>
__device__ inline void multiply(int thread, const MatmulArgs& a, const Place& here, const Place& next,
                                int before, const float* tile, Ahead<W, ROWS, OUT>& ahead,
                                float (&sums)[OUT * ROWS]) {
  using P = Plan<W, ROWS, OUT>;
  const int lane = thread % kWarp;
#pragma unroll
  for (int k = 0; k < P::kAhead; ++k) {
    const int v = here.word + k * kWarp;
    if (v + lane < here.end) {
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
      const float4* x = reinterpret_cast<const float4*>(tile) + (v - before) * (W::kVec / 4) + lane;
#pragma unroll
      for (int p = 0; p < W::kVec / 4; ++p)
#pragma unroll
        for (int r = 0; r < ROWS; ++r) {
          const float4 four = x[r * (a.tile / 4) + p * kWarp];
#pragma unroll
          for (int i = 0; i < P::kOut; ++i) {
            float sum = sums[i * ROWS + r];
            sum = fmaf(w[i][4 * p], four.x, sum);
            sum = fmaf(w[i][4 * p + 1], four.y, sum);
            sum = fmaf(w[i][4 * p + 2], four.z, sum);
            sums[i * ROWS + r] = fmaf(w[i][4 * p + 3], four.w, sum);
          }
        }
    }
    fetch_word<W, ROWS, OUT>(thread, a, next, k, ahead);
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

template <class W, int ROWS, int OUT>
__host__ __device__ inline void plan(MatmulArgs& a) {
  using P = Plan<W, ROWS, OUT>;
  const int whole = (a.w.cols + P::kChunk - 1) / P::kChunk * P::kChunk;
  a.tile = whole < kTile<ROWS> ? whole : kTile<ROWS>;
  a.span = a.output == Output::logits ? kVocabBlock : kWarps * P::kOut;
}

// Floats of shared memory before the rows' tile: norms [ROWS][3] of [ROWS][4], and of one row what all
// threads add up.
template <int ROWS>
constexpr int kNorms = 4 * ROWS + (ROWS == 1 ? 3 * kThreads : 0);

// The rows' tile from column `from` on. `fresh`: nothing of the rows has been read yet.
template <class W, int ROWS, Kind KIND>
__device__ inline void make_tile(int thread, const MatmulArgs& a, int from, bool fresh, float* norms,
                                 float* tile) {
  if (KIND == Kind::residual || (KIND == Kind::any && !a.norm_weight)) {
    load_plain<W, ROWS>(thread, a, from, tile);
  } else if (ROWS == 1 && a.tile >= a.w.cols && a.w.cols <= kOwn * kThreads) {
    norm_row<W>(thread, a, norms + 4, tile);
  } else {
    if (fresh) {
      if constexpr (ROWS == 1)
        long_norm(thread, a, norms + 4, norms);
      else
        row_norms(thread, a.x, a.x_stride, a.rows, a.w.cols, a.eps, norms);
      __syncthreads();
    }
    load_normed<W, ROWS>(thread, a, norms, from, tile);
  }
}

// Every blocks-th unit of a.span outputs, from the one of `here` on, by one block of threads. `ahead`: the
// words there; make(from, fresh, norms, tile, spare): as make_tile, spare being where two units' logits go
// later; next(): is called when outputs are begun.
template <class W, int ROWS, Kind KIND, int OUT, class Make, class Next>
__device__ inline void matmul_units(int thread, const MatmulArgs& a, int blocks, Place here,
                                    Ahead<W, ROWS, OUT>& ahead, Make make, Next begin_next) {
  const bool adds = KIND == Kind::residual || (KIND == Kind::any && a.output == Output::residual);
  const bool measures = KIND != Kind::residual && a.output == Output::logits;
  float* norms = reinterpret_cast<float*>(edge_shared);
  float* tile = norms + kNorms<ROWS>;     // [ROWS][a.tile]
  float* written = tile + ROWS * a.tile;  // [2][ROWS][kVocabBlock]
  const int warp = thread / kWarp, lane = thread % kWarp;
  // A lane finishes a row of one of the warp's outputs: where warp_sums leaves its sum.
  constexpr int kSums = OUT * ROWS, kApart = kWarp / kSums;
  const int own = lane / kApart / ROWS, row = lane / kApart % ROWS;
  const bool finishes = lane % kApart == 0 && row < a.rows;
  bool fresh = true;
  float* logits = written;
#pragma unroll 1
  while (here.first < a.w.rows) {
    const int unit = here.unit, first = here.first;
    begin_next();
    // What is needed at the end is on its way from the beginning.
    float sums[kSums];
    const int mine = first + warp * OUT + own;
    const bool needed = finishes && mine < min((unit + 1) * a.span, a.w.rows);
    const float scale =
        !kGrouped<W> && a.w.scale && needed ? __ldg(static_cast<const float*>(a.w.scale) + mine) : 1.0f;
    const float bias = a.w.bias && needed ? __ldg(a.w.bias + mine) : 0.0f;
    const float old = adds && needed ? __ldcg(a.y + row * a.y_stride + mine) : 0.0f;
#pragma unroll
    for (int i = 0; i < kSums; ++i) sums[i] = 0.0f;
#pragma unroll 1
    for (int from = 0; from < a.w.cols; from += a.tile) {
      if (fresh || a.tile < a.w.cols) {
        if (!fresh) __syncthreads();
        make(from, fresh, norms, tile, written);
        __syncthreads();
        fresh = false;
      }
      const int before = from / W::kVec, tile_end = here.end;
      bool more = true;
#pragma unroll 1
      while (more) {
        const Place next = place_after<W, ROWS, OUT>(a, blocks, here);
        multiply<W, ROWS, OUT>(thread, a, here, next, before, tile, ahead, sums);
        more = next.word > here.word && next.word < tile_end;
        here = next;
      }
    }
    const int begin = anew<ROWS>(unit) * a.span, end = min(begin + a.span, a.w.rows);
    const int o = anew<ROWS>(first) + warp * OUT + own;
    float value = warp_sums<kSums>(sums, lane);
    if (finishes && o < end) {
      if (!kGrouped<W> && a.w.scale) value *= scale;
      if (a.w.bias) value += bias;
      if (KIND != Kind::residual) value = activate(a.output, value);
      a.y[row * a.y_stride + o] = adds ? old + value : value;
      if (measures) logits[row * kVocabBlock + o - begin] = value;
    }
    if (!measures || here.unit == unit) continue;
    const int units = (a.w.rows + a.span - 1) / anew<ROWS>(a.span);
    BlockFlags flags{};
    if (warp < a.rows) flags = block_flags(a.flags, end - begin, begin);
    __syncthreads();
    for (int r = warp; r < a.rows; r += kWarps) {
      const BlockStats stats =
          block_stats(logits + r * kVocabBlock, end - begin, begin, flags, a.state->penalty, r);
      if (lane == 0) a.stats[r * units + unit] = stats;
    }
    // The next unit writes elsewhere, and the one after it behind another barrier.
    logits = logits == written ? written + ROWS * kVocabBlock : written;
  }
}

template <class W, int ROWS>
__global__ void __launch_bounds__(kThreads, ROWS == 1 ? 3 : 1) matmul(const MatmulArgs a) {
  if (a.state->end) return;
  const int thread = static_cast<int>(threadIdx.x) & (kThreads - 1);
  constexpr int kOut = kOuts<ROWS, Kind::any>;
  Ahead<W, ROWS, kOut> ahead{};
  const Place begin = place_at<W, ROWS, kOut>(a, static_cast<int>(blockIdx.x));
  // The first weights come while the rows are made ready.
  fetch_words<W, ROWS, kOut>(thread, a, begin, ahead);
  matmul_units<W, ROWS, Kind::any>(
      thread, a, static_cast<int>(gridDim.x), begin, ahead,
      [&](int from, bool fresh, float* norms, float* tile, float*) {
        make_tile<W, ROWS, Kind::any>(thread, a, from, fresh, norms, tile);
      },
      [] {});
}

template <class W, int ROWS>
constexpr size_t shared_bytes(int tile) {
  return sizeof(float) * static_cast<size_t>(ROWS * tile + kNorms<ROWS> + 2 * ROWS * kVocabBlock);
}

template <class W, int ROWS>
cudaError_t launch_rows(MatmulArgs a, cudaStream_t stream) {
  plan<W, ROWS, kOuts<ROWS, Kind::any>>(a);
  const dim3 grid(static_cast<unsigned>((a.w.rows + a.span - 1) / a.span), 1, 1);
  return launch(matmul<W, ROWS>, grid, kThreads, shared_bytes<W, ROWS>(a.tile), stream, a);
}

template <class W, int ROWS>
cudaError_t prepare_rows() {
  return load(matmul<W, ROWS>, shared_bytes<W, ROWS>(kTile<ROWS>));
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
