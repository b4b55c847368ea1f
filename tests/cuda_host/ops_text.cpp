// SPDX-License-Identifier: Apache-2.0
// Test only: the kernels around the layers on host arrays, for ctypes; as ops.cpp.
#include <cuda_runtime.h>

#include <algorithm>
#include <bit>
#include <vector>

#include "cuda/device/kernels.h"
#include "cuda/device/memory.h"
#include "ops.h"

using namespace edge::cuda;

// x [n, cols]: rows `ids` of a stored matrix [vocab, cols] plus positions [count, cols] from keys + offset
// on.
EXPORT int ops_embed(int type, unsigned char* w, unsigned char* scale, int64_t scale_bytes, int vocab,
                     int cols, int padded, float* positions, int count, int* ids, int n, int keys, int offset,
                     float* x) {
  return answer([&] {
    Stream stream;
    check(prepare_steps(), "prepare");
    const auto w_ = up(w, bytes_of(type, static_cast<int64_t>(vocab) * padded), stream);
    const auto scale_ = up(scale, scale_bytes, stream);
    const auto positions_ = up(positions, static_cast<int64_t>(count) * cols, stream);
    State state{};
    state.keys = keys;
    for (int i = 0; i < n; ++i) state.ids[i] = ids[i];
    const auto state_ = up(&state, 1, stream);
    const Buffer<float> x_(static_cast<int64_t>(n) * cols);
    const EmbedArgs a{{w_.get(), scale_bytes ? scale_.get() : nullptr, nullptr, vocab, cols, padded, type},
                      positions_.get(),
                      x_.get(),
                      state_.get(),
                      cols,
                      offset};
    check(launch_embed(a, n, stream), "embed");
    down(x, x_, stream);
  });
}

// Float rows [rows, cols] as stored rows of `padded` columns of 16 bits.
EXPORT int ops_convert(int type, float* from, int rows, int cols, int padded, unsigned char* to) {
  return answer([&] {
    Stream stream;
    const auto from_ = up(from, static_cast<int64_t>(rows) * cols, stream);
    const Buffer<unsigned char> to_(bytes_of(type, static_cast<int64_t>(rows) * padded));
    check(launch_convert(type, {from_.get(), to_.get(), rows, cols, padded}, stream), "convert");
    down(to, to_, stream);
  });
}

// stats [blocks]: BlockStats of a row of logits.
EXPORT int ops_measure(float* logits, int vocab, unsigned char* flags, float penalty, BlockStats* stats) {
  return answer([&] {
    Stream stream;
    check(prepare_steps(), "prepare");
    const auto logits_ = up(logits, vocab, stream);
    const auto flags_ = up(flags, vocab, stream);
    State state{};
    state.penalty = penalty;
    const auto state_ = up(&state, 1, stream);
    const Buffer<BlockStats> stats_((vocab + kVocabBlock - 1) / kVocabBlock);
    check(launch_measure({logits_.get(), flags_.get(), stats_.get(), state_.get(), vocab}, stream),
          "measure");
    down(stats, stats_, stream);
  });
}

// The drafts of a pass of n rows into the flags [vocab] and the state's ids [n].
EXPORT int ops_propose(int* drafts, int n, int vocab, unsigned char* flags, int* ids) {
  return answer([&] {
    Stream stream;
    check(prepare_steps(), "prepare");
    const Pinned<Proposal> proposal(1);
    for (int i = 1; i < n; ++i) proposal.host()->ids[i - 1] = drafts[i - 1];
    const auto flags_ = up(flags, vocab, stream);
    State state{};
    state.ids[0] = ids[0];
    const auto state_ = up(&state, 1, stream);
    check(launch_propose({proposal.device(), flags_.get(), state_.get(), n}, stream), "propose");
    down(flags, flags_, stream);
    down(&state, state_, stream);
    for (int i = 0; i < n; ++i) ids[i] = state.ids[i];
  });
}

// The choice in a pass of n rows. numbers: keys, limit, count, max_new, end and the first id, all changed;
// found and logprobs [max_new] take the tokens from the count on; told [n]: what the host is told of each
// word.
EXPORT int ops_choose(BlockStats* stats, float* logits, int vocab, int n, unsigned char* flags, int* stop,
                      int stops, int* ids, int advance, int* numbers, int* found, float* logprobs,
                      int* told) {
  return answer([&] {
    Stream stream;
    check(prepare_steps(), "prepare");
    const int blocks = (vocab + kVocabBlock - 1) / kVocabBlock;
    const auto stats_ = up(stats, static_cast<int64_t>(n) * blocks, stream);
    const auto logits_ = up(logits, static_cast<int64_t>(n) * vocab, stream);
    const auto flags_ = up(flags, vocab, stream);
    const auto stop_ = up(stop, stops, stream);
    State state{};
    state.keys = numbers[0];
    state.limit = numbers[1];
    state.count = numbers[2];
    state.max_new = numbers[3];
    state.stops = stops;
    for (int i = 0; i < n; ++i) state.ids[i] = ids[i];
    const auto state_ = up(&state, 1, stream);
    const Pinned<Word> tokens(numbers[3] + kMaxRows);
    std::fill_n(tokens.host(), numbers[3] + kMaxRows, Word{0});
    check(launch_choose({stats_.get(), logits_.get(), flags_.get(), stop_.get(), tokens.device(),
                         state_.get(), n, blocks, vocab, advance},
                        stream),
          "choose");
    down(flags, flags_, stream);
    down(&state, state_, stream);
    for (int i = numbers[2]; i < state.count; ++i) {
      const Word word = tokens.host()[i];
      found[i] = static_cast<int>(word >> 32 & ((1u << kIdBits) - 1));
      logprobs[i] = std::bit_cast<float>(static_cast<uint32_t>(word));
    }
    for (int i = 0; i < n; ++i) told[i] = static_cast<int>(tokens.host()[numbers[2] + i] >> kToldShift);
    numbers[0] = state.keys;
    numbers[2] = state.count;
    numbers[4] = state.end;
    numbers[5] = state.ids[0];
  });
}
