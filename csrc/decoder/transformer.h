// SPDX-License-Identifier: Apache-2.0
// The decoder network: appends rows to the cache and computes their logits, with all threads of its pool.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "cpu/kernels.h"
#include "cpu/thread_pool.h"
#include "decoder/digits.h"
#include "decoder/lane.h"
#include "decoder/prefill.h"
#include "decoder/screen.h"
#include "decoder/sketch.h"
#include "decoder/spec.h"
#include "decoder/weights.h"

namespace edge {

// Rows that share one pass over the weights.
inline constexpr int64_t kMaxRows = 16;

// Prefix of one film: keys and values [layers, heads, length, head_dim]; key_bias [layers, bias_length] or
// null. The bias covers at least the prefix; where it is longer it covers the text keys that follow, and keys
// beyond it get none. A decoder with cross-attention reads them there: its text then begins at position 0,
// and the bias is that of the cross-attention.
struct Prefix {
  const float* keys = nullptr;
  const float* values = nullptr;
  int64_t length = 0;
  const float* key_bias = nullptr;
  int64_t bias_length = 0;
  // Leave out, layer by layer, the keys whose bias is the lowest finite number: a row with the bias gives
  // them the weight 0 exactly, because it always sees its own key. Only rows with the bias may follow.
  // Without effect on a cross-attention, where no key of a row's own is sure to be seen.
  bool drop_hidden = false;
};

// The same for a prefix that the decoder computes itself.
struct PrefixEmbeddings {
  const float* embeddings = nullptr;  // [length, hidden], without positions
  int64_t length = 0;
  const float* key_bias = nullptr;
  int64_t bias_length = 0;
  bool bias = false;  // the prefix rows get the key bias
  bool drop_hidden = false;
  // [layers, heads, length, head_dim] for a copy of what goes into the cache, or null.
  float* keys = nullptr;
  float* values = nullptr;
};

// Called on the pool's threads when the logits of one block of kVocabBlock entries of one row are there;
// `near`: where a screen left them near their scores.
using BlockHook = std::function<void(int64_t row, int64_t block, const NearLogits* near)>;
// Called behind that for the blocks [begin, end) of a row, when all of its blocks are there.
using ScreenHook = std::function<void(int64_t row, int64_t begin, int64_t end, const NearLogits& near)>;

// Rows of texts that go on from the same prefix and text, in a cache of their own: every row has a slot
// there, and a mask says which slots hold the text before it. Texts share slots, so none is ever copied.
struct Branches {
  std::span<const int64_t> slots;  // [ids] where the rows go
  int64_t used = 0;                // slots below this one are looked at
  int64_t position = 0;            // of the rows, counted from the end of the shared text
  const float* mask = nullptr;     // [ids, mask_stride]: 0, or the lowest number where a slot is not seen
  int64_t mask_stride = 0;
  std::span<const int32_t> types;  // [ids] where the decoder has token types, else empty
};

// Rows of one lane.
struct Step {
  int64_t lane = 0;
  std::span<const int32_t> ids;  // 1 to kMaxRows
  bool bias = false;             // these rows get the key bias
  int64_t logits_from = 0;       // logits are computed for the rows from this one on
  float* logits = nullptr;       // [rows - logits_from, vocab]
  float* evidence = nullptr;     // [rows - logits_from, prefix length] or null
  const BlockHook* on_block = nullptr;
  // Logits need not all be exact: a screened head may leave them near what they are, and this makes those
  // exact that count.
  const ScreenHook* on_screened = nullptr;
  const Branches* branches = nullptr;  // else each row follows the one before it
  // By the sketch, alone in its pass: logits are near what they are. Whoever asks for it takes the rows out
  // of the text again.
  bool sketch = false;
};

// From how many bytes on what is float32 has a copy in 8 bits beside it, if the kernels read bytes quickly;
// 0: in any case.
struct Copies {
  int64_t screen_from = kScreenFrom;  // of the head
  int64_t sketch_from = kSketchFrom;  // of the layers
};

class Transformer {
 public:
  Transformer(const DecoderSpec& spec, Weights weights, KvType kv, int threads, const Kernels& kernels,
              std::vector<int64_t> evidence_layers, const Copies& copies = {});

  const DecoderSpec& spec() const { return spec_; }
  const Kernels& kernels() const { return kernels_; }
  ThreadPool& pool() { return pool_; }
  const Lane& lane(int64_t index = 0) const { return *lanes_[static_cast<size_t>(index)]; }
  Lane& lane(int64_t index = 0) { return *lanes_[static_cast<size_t>(index)]; }
  int64_t lanes() const { return std::ssize(lanes_); }
  // Makes lanes until there are so many.
  void open_lanes(int64_t count);
  // Text rows that still fit.
  int64_t rows_left(int64_t lane = 0) const;
  bool has_evidence() const { return !evidence_layers_.empty(); }
  bool screens() const { return static_cast<bool>(screen_); }
  // Whether it can have a sketch, which is made when it is first needed.
  bool sketches() const { return sketches_; }
  // What a greedy step reads.
  int64_t weight_bytes() const;
  // Whether most of that is float32.
  bool reads_floats() const { return 2 * Sketch::worth(weights_) > weight_bytes(); }
  // Of one lane: what a decode step reads of it.
  int64_t cache_bytes(int64_t lane = 0) const;
  // Both, as a number to reckon with.
  float step_bytes(int64_t lane = 0) const { return static_cast<float>(weight_bytes() + cache_bytes(lane)); }
  // What a step by the sketch reads, as a share of what a greedy one does.
  float sketch_share(int64_t lane = 0) const;

  // Copies the prefix into a lane's cache and drops its text. Shapes are the caller's to check.
  void set_prefix(const Prefix& prefix, int64_t lane = 0);
  // Computes the prefix, puts it into a lane's cache and drops its text; logits [vocab] of its last row.
  void prefill(const PrefixEmbeddings& prefix, float* logits, int64_t lane = 0);
  // Makes room for so many slots of branches.
  void reserve_branches(int64_t slots, int64_t lane = 0);
  // To be called before steps by the sketch.
  void ready_sketch(int64_t lane = 0);
  // Appends rows to lanes, no lane twice and no more than kMaxRows together, in one pass over the weights.
  // Rows of branches are no part of a text. Ids and room are the caller's to check; the steps' logits lie one
  // behind the other.
  void append(std::span<const Step* const> steps);
  void append(const Step& step) {
    const Step* one = &step;
    append({&one, 1});
  }

 private:
  enum Stage {
    kQkv,
    kAttend,
    kAttnOut,
    kCrossQ,
    kCrossAttend,
    kCrossOut,
    kMlpIn,
    kMlpOut,
    kTransform,
    kHead,
    kStages
  };
  // On a cache line of its own.
  struct alignas(64) Counter : std::atomic<int64_t> {
    Counter() : std::atomic<int64_t>(0) {}
  };

  // The rows of one step in the pass at work.
  struct Part {
    const Step* step;
    Lane* lane;
    int64_t first, rows;
  };
  // A row whose logits are wanted, and which of its step's it is.
  struct Wanted {
    int64_t row;
    const Step* step;
    int64_t index;
  };
  // One block of the keys that the rows of a part see.
  struct Task {
    size_t part;
    int64_t head, block, blocks;
  };

  void embed(const Part& part);
  int32_t type_of(const Part& part, int64_t row) const;
  void work(int thread);
  void project_qkv(int thread, int64_t layer, int64_t begin, int64_t end, const NextRead& next);
  void cross_attend(int thread, int64_t layer);
  // Rows that a sublayer adds to the residual stream.
  void add_back(int thread, const Matrix& matrix, const float* from, int64_t begin, int64_t end,
                const NextRead& next);
  // `cross`: to the image's own keys instead of those of prefix and text.
  void attend(bool cross, int64_t layer, int64_t begin, int64_t end, const void* after);
  void join(bool cross, int64_t layer, size_t part, int64_t head);
  void gather_evidence(int thread, int64_t layer);
  void gather_evidence(int thread, int64_t layer, const Part& part);
  void project_logits(int thread);
  // Without weights a copy.
  void normalise(const Norm& norm, const float* x, float* y, int64_t rows) const;
  // The norms between the residual stream and what a sublayer, or the head, reads.
  const Norm& attn_input(int64_t layer) const;
  const Norm& mlp_input(const Layer& layer) const;
  const Norm& head_input() const;
  // What the rows at work read.
  const std::vector<Layer>& layers() const { return sketching_ ? sketch_.layers() : weights_.layers; }
  const Matrix& transform() const { return sketching_ ? sketch_.transform() : weights_.transform; }
  // What most of them read.
  const Matrix& head() const { return screened_ ? screen_.matrix() : weights_.head; }
  const Matrix& first_of_head() const { return spec_.head_transform ? transform() : head(); }
  bool post() const { return spec_.norm_position == NormPosition::post; }
  Stage stage_before(Stage stage) const;
  auto activation() const {
    return spec_.activation == Activation::gelu_tanh ? kernels_.gelu_tanh : kernels_.gelu_erf;
  }
  std::pair<int64_t, int64_t> own_units(int thread, int64_t units) const;
  template <class Work>
  void spread(int thread, Stage stage, int64_t units, Work work);
  template <class Work>
  void spread_rows(int thread, Stage stage, const Matrix& matrix, const NextRead& behind, Work work);
  // What this member takes first of a matrix that is spread in units of so many rows.
  NextRead first_rows(int thread, const Matrix& matrix, int64_t unit) const;
  void expect_rows(int thread, const Matrix& matrix, int64_t unit);
  // Blocks of keys that all parts attend to in a layer, head by head.
  int64_t tasks(bool cross, int64_t layer) const;
  Task task_at(bool cross, int64_t layer, int64_t index) const;
  Task following(const Task& task, bool cross, int64_t layer) const;
  void count_blocks(bool cross, int64_t layer);
  const void* keys_at(bool cross, int64_t layer, const Task& task) const;
  const void* keys_of(bool cross, int64_t layer, int64_t task) const;
  void expect_cache(int thread, bool cross, int64_t layer);
  bool gathers_evidence(int64_t layer, const Step& step) const;
  int64_t key_blocks(bool cross, int64_t layer, const Part& part, int64_t row) const;
  // Of them, those of the cache that all branches share.
  int64_t shared_blocks(int64_t layer, const Part& part) const {
    return (part.lane->own_keys(layer) + kKeyBlock - 1) / kKeyBlock;
  }
  // The cache of a block, and the block's place in it.
  std::pair<const KvCache*, int64_t> block_at(bool cross, int64_t layer, const Part& part,
                                              int64_t block) const;
  void make_room();
  int64_t vocab_blocks() const;

  DecoderSpec spec_;
  Weights weights_;
  const Kernels& kernels_;
  ThreadPool pool_;
  HeadScreen screen_;
  bool sketches_;
  bool rounds_ = false;  // some of its matrices are no floats
  Sketch sketch_;
  KvType kv_;
  std::vector<std::unique_ptr<Lane>> lanes_;
  std::vector<Part> parts_;  // of the pass at work
  std::vector<Wanted> wanted_;
  bool screened_ = false;   // some of them read the 8-bit head; with a sketch all do
  bool sketching_ = false;  // they all are of a sketch
  int64_t rows_ = 0;
  std::vector<int64_t> evidence_layers_;
  std::vector<bool> is_evidence_layer_;
  int64_t max_blocks_ = 0, mass_blocks_ = 0;

  std::vector<float> x_;            // [kMaxRows, hidden] residual stream
  std::vector<float> qkv_;          // [kMaxRows, 3 hidden]
  std::vector<float> mlp_;          // [kMaxRows, mlp]
  std::vector<float> max_, sum_;    // [kMaxRows, heads, blocks] of the streamed softmax
  std::vector<float> partial_;      // [kMaxRows, heads, blocks, head_dim]
  std::vector<float> mass_;         // [kMaxRows, heads, mass_blocks_, kKeyBlock], when evidence is asked for
  std::vector<float> factors_;      // [kMaxRows, heads, blocks] with which the blocks of a head are joined
  std::vector<float> attended_;     // [kMaxRows, hidden]
  std::vector<float> transformed_;  // [kMaxRows, hidden] where the head begins with a layer of its own
  // Units of each stage that were taken beyond those shared out.
  std::array<Counter, kStages> next_;
  std::vector<std::atomic<int64_t>> blocks_left_;  // [kMaxRows parts, heads] of the layer at work
  // [threads][kMaxRows, hidden]: normalised rows, which every thread computes for itself because that is
  // cheaper than a barrier.
  std::vector<std::vector<float>> own_;
  std::vector<Digits> digits_;  // [threads] what the products at work read, where they are products of bytes
  std::unique_ptr<Prefill> prefill_;  // made when it is first needed
};

}  // namespace edge
