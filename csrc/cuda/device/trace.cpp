// SPDX-License-Identifier: Apache-2.0
#include "cuda/device/trace.h"

#include <cstdio>
#include <cstdlib>
#include <vector>

namespace edge::cuda {

Trace::Trace(int64_t layers, int passes) : layers_(static_cast<int>(layers)), passes_(passes) {
  const char* wanted = std::getenv("EDGE_CUDA_TRACE");
  if (wanted && *wanted) noted_ = Buffer<Word>(trace_at(layers_, passes_, 0));
}

void Trace::begin(cudaStream_t stream) {
  if (device())
    check(cudaMemsetAsync(device(), 0, static_cast<size_t>(noted_.size()) * sizeof(Word), stream),
          "to begin a trace");
}

void Trace::print(cudaStream_t stream) const {
  if (!device()) return;
  std::vector<Word> noted(static_cast<size_t>(noted_.size()));
  check(cudaMemcpyAsync(noted.data(), device(), noted.size() * sizeof(Word), cudaMemcpyDeviceToHost, stream),
        "to give its trace");
  check(cudaStreamSynchronize(stream), "to give its trace");
  int kilohertz = 0;
  check(cudaDeviceGetAttribute(&kilohertz, cudaDevAttrClockRate, 0), "to tell its clock");
  const double microsecond = kilohertz / 1000.0;
  const char* const names[] = {"qkv", "attend", "attn_out", "mlp_in", "mlp_out", "head"};
  double waits[kStages + 1] = {}, works[kStages + 1] = {}, all = 0.0;
  int tokens = 0;
  const int stages = kStages * layers_ + 1;
  for (int pass = 0; pass < passes_; ++pass) {
    const Word* const own = noted.data() + trace_at(layers_, pass, 0);
    if (own[2 * stages - 1] < own[0] || own[0] == 0) continue;  // not a whole pass
    ++tokens;
    all += static_cast<double>(own[2 * stages - 1] - own[0]);
    for (int stage = 0; stage < stages; ++stage) {
      const int kind = stage == stages - 1 ? kStages : stage % kStages;
      works[kind] += static_cast<double>(own[2 * stage + 1] - own[2 * stage]);
      if (stage > 0) waits[kind] += static_cast<double>(own[2 * stage] - own[2 * stage - 1]);
    }
  }
  if (tokens == 0) return;
  std::fprintf(stderr,
               "persistent kernel, first block, %d passes: %.1f us each from embedding to head at %.0f MHz\n"
               "%-10s %12s %12s\n",
               tokens, all / tokens / microsecond, microsecond, "stage", "waiting us", "working us");
  for (int kind = 0; kind <= kStages; ++kind)
    std::fprintf(stderr, "%-10s %12.2f %12.2f\n", names[kind], waits[kind] / tokens / microsecond,
                 works[kind] / tokens / microsecond);
}

}  // namespace edge::cuda
