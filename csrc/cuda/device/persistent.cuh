// SPDX-License-Identifier: Apache-2.0
// A text by one kernel: every block of threads stays, and goes through the stages of a pass with all others.
// The stages are those of the single kernels, so the bits are theirs. Between stages all blocks meet; a block
// that has come fetches what its next stage needs of nobody else into registers, and what the one after it
// needs into the second-level cache, before it waits.
#pragma once

#include "cuda/device/attention.cuh"
#include "cuda/device/choose.cuh"
#include "cuda/device/common.h"
#include "cuda/device/embed.cuh"
#include "cuda/device/grid.cuh"
#include "cuda/device/matmul.cuh"
#include "cuda/device/persistent.h"

namespace edge::cuda {
namespace {

// A sector of the second-level cache. No promise: a hint that the memory is free for meanwhile.
constexpr int kSector = 32;

__device__ inline void fetch(const unsigned char* p) {
#ifdef __CUDA_ARCH__
  asm volatile("prefetch.global.L2 [%0];" ::"l"(p));
#else
  static_cast<void>(*static_cast<const volatile unsigned char*>(p));  // it must be there
#endif
}

// By all threads; a null pointer is no range.
__device__ inline void fetch_range(int thread, const void* from, int bytes) {
  const auto* p = static_cast<const unsigned char*>(from);
  if (!p) return;
#pragma unroll 1
  for (int at = thread * kSector; at < bytes; at += kThreads * kSector) fetch(p + at);
}

// What the block's units of a product read, round by round of the OUT outputs that each of its warps takes at
// once. So many rounds are on their way to the second-level cache as all blocks' shares of it hold.
template <int OUT>
class Rounds {
 public:
  __device__ Rounds(const MatmulArgs& a, int most)
      : a_(a), next_(max(most / (kEach * row_bytes(a.w)), 1)), goes_on_(first_of(next_) < a.w.rows) {}
  // Those before the product begins, and what all blocks read, by the one with the least to do.
  __device__ void begin(int thread) {
#pragma unroll 1
    for (int round = 0; round < next_ && fetch(thread, round); ++round) {
    }
    if (a_.norm_weight && blockIdx.x == gridDim.x - 1) {
      fetch_range(thread, a_.norm_weight, a_.w.cols * 4);
      fetch_range(thread, a_.norm_bias, a_.w.cols * 4);
    }
  }
  // One more, when one is begun.
  __device__ void go_on(int thread) {
    if (goes_on_) goes_on_ = fetch(thread, next_++);
  }

 private:
  static constexpr int kEach = kWarps * OUT;
  // Computed anew for each round: registers are what a stage has least of.
  __device__ static int row_bytes(const DeviceMatrix& w) {
    return w.padded / 8 *
           (w.type == EDGE_CUDA_F32  ? 32
            : w.type == EDGE_CUDA_I8 ? 8
            : w.type == EDGE_CUDA_I4 ? 4
                                     : 16);
  }
  __device__ int first_of(int round) const {
    const int in_unit = a_.output == Output::logits ? kVocabBlock / kEach : 1;
    const int unit = static_cast<int>(blockIdx.x + round / in_unit * gridDim.x);
    return unit * a_.span + round % in_unit * kEach;
  }
  __device__ bool fetch(int thread, int round) const {
    const DeviceMatrix& w = a_.w;
    const int first = first_of(round), rows = min(kEach, w.rows - first);
    if (rows <= 0) return false;
    const int row = row_bytes(w);
    fetch_range(thread, static_cast<const unsigned char*>(w.data) + static_cast<int64_t>(first) * row,
                rows * row);
    fetch_range(thread, w.bias ? w.bias + first : nullptr, rows * 4);
    if (w.type == EDGE_CUDA_I8) fetch_range(thread, static_cast<const float*>(w.scale) + first, rows * 4);
    if (w.type == EDGE_CUDA_I4)
      fetch_range(thread,
                  static_cast<const __half*>(w.scale) + static_cast<int64_t>(first) * (w.padded / kGroup4),
                  rows * (w.padded / kGroup4) * 2);
    if (a_.output == Output::logits) fetch_range(thread, a_.flags + first, rows);
    return true;
  }
  const MatmulArgs& a_;
  int next_;  // to be fetched
  bool goes_on_;
};

// Where a block is in a launch.
struct Spot {
  const PassArgs& p;
  Meeting& meeting;
  int pass, stage;

  // Cycles of the first block, where a trace is wanted: 0 where it begins, 1 where it is done.
  __device__ void note(int which) const {
    if (p.trace && blockIdx.x == 0 && threadIdx.x == 0)
      p.trace[trace_at(p.layers, pass, stage) + which] = static_cast<Word>(clock64());
  }
  // For the stage before, unless that was the embedding.
  __device__ void wait() const {
    if (stage > 0) meeting.wait();
    note(0);
  }
};

// Fetches, waits, multiplies. The rows lie in a.x, or are what attention has left in `parts` blocks of keys.
template <class W, int ROWS, Kind KIND>
__device__ __forceinline__ void product_of(int thread, MatmulArgs& a, int parts, const Spot& spot) {
  constexpr int kOut = kOuts<ROWS, KIND>;
  plan<W, ROWS, kOut>(a);
  const Place begin = place_at<W, ROWS, kOut>(a, static_cast<int>(blockIdx.x));
  Ahead<W, ROWS, kOut> ahead{};
  if (begin.first < a.w.rows) fetch_words<W, ROWS, kOut>(thread, a, begin, ahead);
  Rounds<kOut> rounds(a, spot.p.fetched);
  spot.wait();
  matmul_units<W, ROWS, KIND>(
      thread, a, static_cast<int>(gridDim.x), begin, ahead,
      [&](int from, bool fresh, float* norms, float* tile, float* spare) {
        if (KIND == Kind::normed || parts == 0)
          return make_tile<W, ROWS, KIND>(thread, a, from, fresh, norms, tile);
        // What there is not.
        for (int i = thread; i < ROWS * a.tile; i += kThreads) {
          const int r = part_of<ROWS>(i, a.tile), c = i - r * a.tile;
          if (r >= a.rows || c >= a.w.cols) tile[r * a.tile + slot<W>(c)] = 0.0f;
        }
        join_all<ROWS>(thread, spot.p.attend, parts, blockIdx.x == 0, spare,
                       [&](int r, int c, float value) { tile[r * a.tile + slot<W>(c)] = value; });
      },
      [&] { rounds.go_on(thread); });
}

template <int ROWS, Kind KIND>
__device__ __forceinline__ void product(MatmulArgs& a, int parts, const Spot& spot) {
  const int thread = this_thread();
  switch (a.w.type) {
    case EDGE_CUDA_F32:
      return product_of<F32, ROWS, KIND>(thread, a, parts, spot);
    case EDGE_CUDA_F16:
      return product_of<F16, ROWS, KIND>(thread, a, parts, spot);
    case EDGE_CUDA_BF16:
      return product_of<BF16, ROWS, KIND>(thread, a, parts, spot);
    case EDGE_CUDA_I4:
      return product_of<I4, ROWS, KIND>(thread, a, parts, spot);
    default:
      return product_of<I8, ROWS, KIND>(thread, a, parts, spot);
  }
}

template <class C, int ROWS>
__device__ inline void attention_of(const AttendArgs& a, int blocks, bool joins, const Spot& spot) {
  const int units = a.heads * blocks;
  int unit = static_cast<int>(blockIdx.x);
  Held<C> held{};
  if (unit < units) fetch_known<C>(a, unit % a.heads, unit / a.heads, held);
  spot.wait();
  while (unit < units) {
    attend_block<C, ROWS>(a, unit % a.heads, unit / a.heads, joins, held);
    unit += static_cast<int>(gridDim.x);
    if (unit >= units) break;
    __syncthreads();
    fetch_known<C>(a, unit % a.heads, unit / a.heads, held);
  }
}

template <int ROWS>
__device__ inline void attention(int cache_type, const AttendArgs& a, int blocks, bool joins,
                                 const Spot& spot) {
  if (cache_type == EDGE_CUDA_F32) return attention_of<F32, ROWS>(a, blocks, joins, spot);
  if (cache_type == EDGE_CUDA_F16) return attention_of<F16, ROWS>(a, blocks, joins, spot);
  return attention_of<I8, ROWS>(a, blocks, joins, spot);
}

__device__ inline void embed_rows(const EmbedArgs& a, int rows, const Proposal& proposal) {
  for (int row = 0; row < rows; ++row) {
    const int32_t id = row == 0 ? a.state->ids[0] : proposal.ids[row - 1];
    switch (a.embed.type) {
      case EDGE_CUDA_F32:
        embed_row<F32>(a, row, id);
        break;
      case EDGE_CUDA_F16:
        embed_row<F16>(a, row, id);
        break;
      case EDGE_CUDA_BF16:
        embed_row<BF16>(a, row, id);
        break;
      case EDGE_CUDA_I4:
        embed_row<I4>(a, row, id);
        break;
      default:
        embed_row<I8>(a, row, id);
    }
  }
}

// What product `what` of a layer, or the head, works on.
__device__ inline MatmulArgs product_args(const PassArgs& p, const PassLayer& layer, int what, bool head) {
  const bool residual = !head && (what == kOut || what == kMlpOut);
  const DeviceNorm norm = head ? p.final_norm : what == kQkv ? layer.attn_norm : layer.mlp_norm;
  MatmulArgs a{};
  a.w = head             ? p.head
        : what == kQkv   ? layer.qkv
        : what == kOut   ? layer.attn_out
        : what == kMlpIn ? layer.mlp_in
                         : layer.mlp_out;
  a.x = what == kOut ? p.attend.out : what == kMlpOut ? p.mlp : p.embed.x;
  a.x_stride = a.w.cols;
  a.norm_weight = residual ? nullptr : norm.weight;
  a.norm_bias = norm.bias;
  a.eps = p.eps;
  a.y = head ? p.logits : what == kQkv ? p.qkv : what == kMlpIn ? p.mlp : p.embed.x;
  a.y_stride = a.w.rows;
  a.rows = p.rows;
  a.output = head           ? Output::logits
             : residual     ? Output::residual
             : what == kQkv ? Output::store
                            : p.activation;
  a.flags = p.choose.flags;
  a.stats = p.stats;
  a.state = p.choose.state;
  return a;
}

// The block's keys and values of a layer.
__device__ inline void fetch_cache(int thread, const PassArgs& p, const PassLayer& layer, int blocks) {
  const AttendArgs& a = p.attend;
  const int row = a.stride * (p.cache_type == EDGE_CUDA_F32 ? 4 : p.cache_type == EDGE_CUDA_F16 ? 2 : 1);
  const int bytes = kKeyBlock * row;
  int left = p.fetched;
#pragma unroll 1
  for (int unit = static_cast<int>(blockIdx.x); unit < a.heads * blocks && left > 0;
       unit += static_cast<int>(gridDim.x)) {
    const int key = unit / a.heads * kKeyBlock;
    const int64_t at = static_cast<int64_t>(unit % a.heads) * a.capacity + key;
    fetch_range(thread, static_cast<const unsigned char*>(layer.cache.keys) + at * row, bytes);
    fetch_range(thread, static_cast<const unsigned char*>(layer.cache.values) + at * row, bytes);
    if (p.cache_type == EDGE_CUDA_I8) {
      fetch_range(thread, layer.cache.key_scales + at, kKeyBlock * 4);
      fetch_range(thread, layer.cache.value_scales + at, kKeyBlock * 4);
    }
    if (a.state->bias) fetch_range(thread, layer.bias + key, kKeyBlock * 4);
    left -= 2 * bytes;
  }
}

template <int ROWS, Kind KIND>
__device__ inline void fetch_product(int thread, MatmulArgs& a, int most) {
  plan<F32, ROWS, kOuts<ROWS, KIND>>(a);  // the units of all types are the same
  Rounds<kOuts<ROWS, KIND>>(a, most).begin(thread);
}

// What a stage reads of nobody else goes to the second-level cache while the stage before it is still to
// come: so the memory is busy all the time, and a stage, which begins with filling its registers, does not
// wait for it.
template <int ROWS>
__device__ inline void fetch_stage(const PassArgs& p, const PassLayer* layers, int blocks, int stage) {
  const bool head = stage == kStages * p.layers;
  const int thread = this_thread(), what = stage % kStages;
  const PassLayer& layer = layers[head ? 0 : stage / kStages];
  if (what == kAttend) return fetch_cache(thread, p, layer, blocks);
  MatmulArgs a = product_args(p, layer, what, head);
  if (ROWS == 1 && a.output == Output::residual)
    fetch_product<ROWS, Kind::residual>(thread, a, p.fetched);
  else
    fetch_product<ROWS, Kind::normed>(thread, a, p.fetched);
}

// One loop over all stages, so that the code of each is there once. All but the first begin with waiting for
// the one before, whose end is an arrival.
template <int ROWS>
__device__ __forceinline__ void pass(const PassArgs& p, const PassLayer* layers, Meeting& meeting,
                                     int number) {
  // Every block writes all of it, the same numbers: cheaper than a barrier.
  embed_rows(p.embed, p.rows, p.proposal);
  // They are read again when all blocks have met many times.
  if (p.rows > 1 && blockIdx.x == 0)
    propose_drafts({nullptr, p.choose.flags, p.choose.state, p.rows},
                   [&](int i) { return p.proposal.ids[i]; });
  __syncthreads();
  const int blocks = (p.choose.state->keys + p.rows + kKeyBlock - 1) / kKeyBlock;
  AttendArgs attend = p.attend;
  // Where that is little to read, every block of the next product joins the blocks of keys for itself: no
  // block of attention has to find out whether it is the last.
  const bool later = join_later(attend, blocks) && attend.heads * attend.head_dim <= kTile<ROWS>;
  bool first = true;
#pragma unroll 1
  for (int stage = 0; stage <= kStages * p.layers; ++stage) {
    const bool head = stage == kStages * p.layers;
    const int what = stage % kStages;
    const PassLayer& layer = layers[head ? 0 : stage / kStages];
    const Spot spot{p, meeting, number, stage};
    if (!head) fetch_stage<ROWS>(p, layers, blocks, stage + 1);
    if (what == kAttend) {
      attend.cache = layer.cache;
      attend.bias = layer.bias;
      attend.mass = layer.gathers ? p.mass : nullptr;
      attention<(ROWS < 4 ? ROWS : 4)>(p.cache_type, attend, blocks, !later, spot);
    } else {
      MatmulArgs a = product_args(p, layer, what, head);
      const int parts = what == kOut && later ? blocks : 0;
      if constexpr (ROWS > 1)  // where the same number of outputs at once serves both
        product<ROWS, Kind::any>(a, parts, spot);
      else if (a.output == Output::residual)
        product<ROWS, Kind::residual>(a, parts, spot);
      else
        product<ROWS, Kind::normed>(a, 0, spot);
      // A stage after it is known what the blocks of keys count; from the last block of threads on, which has
      // had the fewest rows of the product.
      if (!head && what == kMlpIn && layer.gathers) {
        EvidenceArgs evidence = p.evidence;
        evidence.first = first;
        for (int unit = static_cast<int>(gridDim.x - 1 - blockIdx.x); unit * kAttendThreads < evidence.prefix;
             unit += static_cast<int>(gridDim.x))
          evidence_unit(evidence, unit);
        first = false;
      }
    }
    spot.note(1);
    if (!head) meeting.arrive();
  }
}

// Floats before the layers' table in shared memory.
template <int ROWS>
constexpr size_t work_shared() {
  // The most that any stage takes: products of the smallest number of columns per tile, or attention.
  constexpr size_t matmul = shared_bytes<F32, ROWS>(kTile<ROWS>);
  constexpr size_t attend = most_attend_shared<I8, (ROWS < 4 ? ROWS : 4)>();
  return matmul > attend ? matmul : attend;
}
template <int ROWS>
constexpr size_t kWork = work_shared<ROWS>();

template <int ROWS>
__global__ void __launch_bounds__(kThreads, 1) write_text(const __grid_constant__ PassArgs p) {
  // All blocks read the same: the end changes only while they wait.
  if (p.passes < 1 || p.choose.state->end) return;
  // What the stages work on is asked for again and again.
  const PassLayer* layers = p.layer;
  if (p.layers <= kLayersHeld) {
    auto* held = reinterpret_cast<uint64_t*>(edge_shared + kWork<ROWS>);
    const auto* from = reinterpret_cast<const uint64_t*>(p.layer);
    for (int i = static_cast<int>(threadIdx.x); i < p.layers * static_cast<int>(sizeof(PassLayer) / 8);
         i += kThreads)
      held[i] = from[i];
    layers = reinterpret_cast<const PassLayer*>(held);
    __syncthreads();
  }
  Meeting meeting(p.barrier);
#pragma unroll 1
  for (int n = 0; n < p.passes; ++n) {
    pass<ROWS>(p, layers, meeting, n);
    const bool more = n + 1 < p.passes;
    if (more) fetch_stage<ROWS>(p, layers, 0, 0);
    meeting.last_one_works(more, [&] { choose_rows(p.choose); });
    if (!more || static_cast<const volatile State*>(p.choose.state)->end) return;
  }
}

template <int ROWS>
size_t text_shared(int layers) {
  return kWork<ROWS> + sizeof(PassLayer) * static_cast<size_t>(layers <= kLayersHeld ? layers : 0);
}

}  // namespace

template <int ROWS>
cudaError_t launch_text_of(const PassArgs& args, int blocks, cudaStream_t stream) {
  return launch_together(write_text<ROWS>, dim3(static_cast<unsigned>(blocks), 1, 1), kThreads,
                         text_shared<ROWS>(args.layers), stream, args);
}

template <int ROWS>
cudaError_t prepare_text_of(int* blocks_per_processor) {
  const size_t shared = text_shared<ROWS>(kLayersHeld);
  const cudaError_t status = load(write_text<ROWS>, shared);
  if (status != cudaSuccess) return status;
  return cudaOccupancyMaxActiveBlocksPerMultiprocessor(blocks_per_processor, write_text<ROWS>, kThreads,
                                                       shared);
}

}  // namespace edge::cuda
