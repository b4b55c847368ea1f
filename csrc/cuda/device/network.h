// SPDX-License-Identifier: Apache-2.0
// The decoder on the device: buffers, steps, and the loop that writes a text without asking the host.
#pragma once

#include "cuda/device/kernels.h"
#include "cuda/device/memory.h"
#include "cuda/device/persistent.h"
#include "cuda/device/trace.h"
#include "cuda/device/weights.h"

namespace edge::cuda {

class Network {
 public:
  // Throws Failure, before anything is allocated where the model does not fit.
  explicit Network(const EdgeCudaModel& model);

  // Everything in host memory, or everything in this device's.
  void set_prefix(const float* keys, const float* values, int64_t length, const float* bias,
                  int64_t bias_length, bool on_device);
  void append(const int32_t* ids, int64_t n, int64_t text_rows, bool bias, int64_t from, float* logits,
              float* evidence);
  bool has_persistent() const { return together_ > 0; }
  // After a failure: waits until what was started before it has ended, so that nothing writes into the next
  // text.
  void settle() noexcept;
  // Returns an EdgeCudaEnd.
  int generate(const EdgeCudaGreedy& greedy, int64_t text_rows, float* evidence);

 private:
  void layers(int rows, int from, int key_blocks);
  void head(int rows, int from);
  void matmul(const DeviceMatrix& w, const float* x, const DeviceNorm* norm, float* y, int rows,
              Output output);
  void propose(int rows);
  void choose(int rows, bool advance);
  // One pass over the decoder: its drafts, layers, head and choice.
  void pass(int rows, int key_blocks);
  void start_pass(int rows, int key_blocks, bool persistent);
  // What the persistent kernel works on; and so many of its passes at most.
  void describe_passes();
  PassArgs pass_args(int rows, int passes) const;
  void start_text(int rows, int passes);
  AttendArgs attend_args(int rows) const;
  EvidenceArgs evidence_args(int rows, int from) const;
  ChooseArgs choose_args(int rows, bool advance) const;
  void begin_text(const EdgeCudaGreedy& greedy, int64_t text_rows, int64_t most);
  void send(const State& state);
  CacheLayer cache(int64_t layer) const;
  int blocks_for(int64_t keys) const { return static_cast<int>((keys + kKeyBlock - 1) / kKeyBlock); }

  EdgeCudaModel model_;
  std::vector<int32_t> evidence_layer_;  // 1 where a layer's attention is gathered
  int evidence_layers_ = 0;
  int64_t capacity_ = 0, stride_ = 0, max_blocks_ = 0, vocab_blocks_ = 0;
  int64_t prefix_ = 0;

  Stream stream_;
  DeviceWeights weights_;
  Buffer<unsigned char> keys_, values_;
  Buffer<float> key_scales_, value_scales_, bias_;
  Buffer<float> x_, qkv_, attended_, mlp_, logits_, max_, sum_, factors_, partial_, mass_, evidence_,
      staging_;
  Buffer<BlockStats> stats_;
  Buffer<uint8_t> flags_;
  Buffer<int32_t> stop_;
  Buffer<uint32_t> arrived_;
  Buffer<State> state_;
  // What a text begins with, as long as a copy may still read it: one of memory that is not pinned need not
  // have been read when it has been started, where the device reaches all memory.
  std::vector<int32_t> stop_sent_;
  std::vector<uint8_t> flags_sent_;
  Pinned<State> sent_;
  Pinned<Word> tokens_;
  Pinned<Proposal> proposal_;
  int together_ = 0;  // blocks of the persistent kernel; 0: it has not been made ready
  int fetched_ = 0;   // bytes that each of them fetches into the second-level cache at once
  Trace trace_;
  Buffer<PassLayer> pass_layers_;
  Buffer<Barrier> barrier_;
  // Recorded passes by their number of rows, and the blocks of keys they reach.
  Graph recorded_[kMaxRows + 1];
  int recorded_blocks_[kMaxRows + 1] = {};
};

}  // namespace edge::cuda
