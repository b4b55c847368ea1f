// SPDX-License-Identifier: Apache-2.0
// The decoder on a CUDA device, with the CPU decoder's interface. Greedy texts are written by the device
// alone; sampled ones choose on the host, token by token, with the CPU's chooser.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "cuda/library.h"
#include "decoder/decoder.h"

namespace edge {

struct CudaOptions {
  // The kernel that writes texts alone, beside recorded steps: not, made ready, or where the device takes it.
  enum class Persistent { no, yes, possibly } persistent = Persistent::no;
  EdgeCudaType float_type = EDGE_CUDA_F32;  // how float matrices are kept on the device
  EdgeCudaType cache_type = EDGE_CUDA_F16;
};

class CudaDecoder {
 public:
  // The weights are copied to the device. Throws DeviceUnusable without a usable device or enough memory,
  // ModelUnsupported for a model that the kernels do not take, and std::invalid_argument for layers that
  // there are not.
  CudaDecoder(const CudaLibrary& library, const DecoderSpec& spec, const Weights& weights,
              const CudaOptions& options, std::vector<int64_t> evidence_layers);

  // With `on_device` the pointers are those of the decoder's device.
  void set_prefix(const Prefix& prefix, bool on_device = false);
  void forward(std::span<const int32_t> ids, bool bias, float* logits);
  void rewind(int64_t text_rows);
  GenerationResult generate(const float* first_logits, const GenerateOptions& options,
                            const Decoder::OnToken& on_token, const CancelToken* cancel);

  // Whether texts can be, and are, written by one cooperative kernel instead of recorded steps.
  bool has_persistent() const { return api_.has_persistent(decoder_.get()) != 0; }
  bool persistent() const { return persistent_; }
  void use_persistent(bool use);

  const DecoderSpec& spec() const { return spec_; }
  const std::string& device() const { return device_; }
  int64_t prefix_rows() const { return prefix_; }
  int64_t text_rows() const { return text_; }
  int64_t weight_bytes() const { return weight_bytes_; }
  int64_t cache_bytes() const;

 private:
  class Claim;
  struct Text;
  void check_ids(std::span<const int32_t> ids, const char* what) const;
  void check(int status, const EdgeCudaReason& reason) const;
  void append(std::span<const int32_t> ids, bool bias, int64_t from, float* logits, float* evidence);
  void write_greedy(const float* first_logits, const GenerateOptions& options, Text& text);
  void write_sampled(const float* first_logits, const GenerateOptions& options, Text& text);
  int64_t rows_left() const { return spec_.rows() - prefix_ - text_; }

  const EdgeCudaApi& api_;
  DecoderSpec spec_;
  std::string device_;
  EdgeCudaType cache_type_;
  bool has_evidence_;
  bool persistent_ = false;
  int64_t weight_bytes_ = 0;
  int64_t prefix_ = 0, text_ = 0;
  pid_t owner_;  // a CUDA context does not survive fork()
  std::atomic_flag busy_;
  std::unique_ptr<void, void (*)(void*)> decoder_;
};

}  // namespace edge
