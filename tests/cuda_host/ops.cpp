// SPDX-License-Identifier: Apache-2.0
// Test only: single kernels on host arrays, for ctypes. Compiled against the stand-in or, with nvcc, against
// CUDA.
#include <cuda_runtime.h>

#include <string>
#include <vector>

#include "cuda/device/kernels.h"
#include "cuda/device/memory.h"
#include "ops.h"

using namespace edge::cuda;

namespace {

Buffer<State> state_of(int keys, bool bias, float penalty, cudaStream_t stream) {
  State state{};
  state.keys = keys;
  state.bias = bias;
  state.penalty = penalty;
  return up(&state, 1, stream);
}

}  // namespace

// w is already of its stored type, with rows of `padded` columns; y [n, rows] holds what a residual adds to.
// stats [n, blocks, 4] for logits.
EXPORT int ops_matmul(int type, unsigned char* w, unsigned char* scale, int64_t scale_bytes, float* bias,
                      int rows, int cols, int padded, float* x, int n, float* norm_weight, float* norm_bias,
                      float eps, float* y, int output, unsigned char* flags, float penalty, float* stats) {
  return answer([&] {
    Stream stream;
    check(prepare_matmul(), "prepare");
    const int64_t blocks = (rows + kVocabBlock - 1) / kVocabBlock;
    const auto w_ = up(w, bytes_of(type, static_cast<int64_t>(rows) * padded), stream);
    const auto scale_ = up(scale, scale_bytes, stream);
    const auto bias_ = up(bias, rows, stream);
    const auto x_ = up(x, static_cast<int64_t>(n) * cols, stream);
    const auto weight_ = up(norm_weight ? norm_weight : x, cols, stream);
    const auto rest_ = up(norm_weight ? norm_bias : x, cols, stream);
    const auto y_ = up(y, static_cast<int64_t>(n) * rows, stream);
    const auto flags_ = up(flags, rows, stream);
    const auto state_ = state_of(0, false, penalty, stream);
    const Buffer<BlockStats> stats_(n * blocks);
    MatmulArgs a{};
    a.w = {w_.get(), scale_bytes ? scale_.get() : nullptr, bias_.get(), rows, cols, padded, type};
    a.x = x_.get();
    a.x_stride = cols;
    if (norm_weight) {
      a.norm_weight = weight_.get();
      a.norm_bias = rest_.get();
    }
    a.eps = eps;
    a.y = y_.get();
    a.y_stride = rows;
    a.rows = n;
    a.output = static_cast<Output>(output);
    a.flags = flags_.get();
    a.stats = stats_.get();
    a.state = state_.get();
    check(launch_matmul(a, stream), "matmul");
    down(y, y_, stream);
    if (a.output != Output::logits) return;
    std::vector<BlockStats> found(static_cast<size_t>(n * blocks));
    down(found.data(), stats_, stream);
    for (size_t i = 0; i < found.size(); ++i) {
      const float four[4] = {found[i].max, found[i].sum_exp, found[i].best, static_cast<float>(found[i].id)};
      for (size_t j = 0; j < 4; ++j) stats[4 * i + j] = four[j];
    }
  });
}

// One step of `rows` rows after `keys` cached ones [heads, keys, head_dim]: qkv [rows, 3 hidden], bias
// [capacity]. out [rows, hidden], evidence [rows, keys] over the cached keys, mean over the heads.
EXPORT int ops_attend(int type, float* k, float* v, int keys, float* qkv, int rows, int heads, int head_dim,
                      float* bias, int use_bias, float* out, float* evidence) {
  return answer([&] {
    Stream stream;
    check(prepare_attention(), "prepare");
    const int64_t capacity = round_up(keys + rows, kKeyBlock), blocks = capacity / kKeyBlock;
    const int64_t stride = round_up(head_dim, 16), hidden = static_cast<int64_t>(heads) * head_dim;
    const std::vector<unsigned char> zeros(static_cast<size_t>(heads * capacity * stride * 4), 0);
    const auto keys_ = up(zeros.data(), bytes_of(type, heads * capacity * stride), stream);
    const auto values_ = up(zeros.data(), bytes_of(type, heads * capacity * stride), stream);
    const Buffer<float> key_scales(heads * capacity), value_scales(heads * capacity);
    const bool scaled = type == EDGE_CUDA_I8;
    const CacheLayer cache{keys_.get(), values_.get(), scaled ? key_scales.get() : nullptr,
                           scaled ? value_scales.get() : nullptr};
    const auto k_ = up(k, hidden * keys, stream), v_ = up(v, hidden * keys, stream);
    check(launch_prefix(type,
                        {k_.get(), v_.get(), cache, heads, keys, head_dim, static_cast<int>(stride),
                         static_cast<int>(capacity)},
                        stream),
          "prefix");
    const auto qkv_ = up(qkv, rows * 3 * hidden, stream), bias_ = up(bias, capacity, stream);
    const int64_t splits = kMaxRows * heads * blocks;
    const Buffer<float> max(splits), sum(splits), factors(splits), partial(splits * head_dim);
    const Buffer<float> mass(kMaxRows * heads * capacity), out_(rows * hidden), evidence_(rows * keys);
    const std::vector<uint32_t> none(static_cast<size_t>(heads), 0);
    const auto arrived = up(none.data(), heads, stream);
    const auto state = state_of(keys, use_bias != 0, 1.0f, stream);
    AttendArgs a{};
    a.qkv = qkv_.get();
    a.cache = cache;
    a.bias = bias_.get();
    a.max = max.get();
    a.sum = sum.get();
    a.partial = partial.get();
    a.factors = factors.get();
    a.mass = mass.get();
    a.out = out_.get();
    a.arrived = arrived.get();
    a.state = state.get();
    a.rows = rows;
    a.heads = heads;
    a.head_dim = head_dim;
    a.stride = static_cast<int>(stride);
    a.capacity = static_cast<int>(capacity);
    a.max_blocks = static_cast<int>(blocks);
    a.scale = 1.0f / sqrtf(static_cast<float>(head_dim));
    // A block more than there are keys for, as in a replayed step.
    check(launch_attend(type, a, static_cast<int>(blocks) + 1, stream), "attend");
    EvidenceArgs e{};
    e.mass = mass.get();
    e.factors = factors.get();
    e.out = evidence_.get();
    e.state = state.get();
    e.rows = rows;
    e.heads = heads;
    e.prefix = keys;
    e.capacity = a.capacity;
    e.max_blocks = a.max_blocks;
    e.first = 1;
    e.mean = 1.0f / static_cast<float>(heads);
    check(launch_evidence(e, stream), "evidence");
    down(out, out_, stream);
    down(evidence, evidence_, stream);
    std::vector<uint32_t> left(static_cast<size_t>(heads));
    down(left.data(), arrived, stream);
    for (const uint32_t n : left)
      if (n != 0) throw Failure{1, "the counters must be zero again"};
  });
}
