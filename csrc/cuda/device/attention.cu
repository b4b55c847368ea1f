// SPDX-License-Identifier: Apache-2.0
// Launching attention, evidence and the prefix.
#include "cuda/device/attention.cuh"

namespace edge::cuda {
namespace {

template <class C, int ROWS>
__global__ void __launch_bounds__(kAttendThreads, 1) attend(const AttendArgs a) {
  if (a.state->end) return;
  const int head = static_cast<int>(blockIdx.x), block = static_cast<int>(blockIdx.y);
  // A replayed graph has blocks for the keys to come.
  if (block * kKeyBlock >= a.state->keys + a.rows) return;
  Held<C> held{};
  fetch_known<C>(a, head, block, held);
  attend_block<C, ROWS>(a, head, block, true, held);
}

template <class C, int ROWS>
cudaError_t launch_rows(const AttendArgs& a, int blocks, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(a.heads), static_cast<unsigned>(blocks), 1);
  return launch(attend<C, ROWS>, grid, kAttendThreads, attend_shared<C, ROWS>(a.stride), stream, a);
}

template <class C>
cudaError_t launch_cache(const AttendArgs& a, int blocks, cudaStream_t stream) {
  return a.rows == 1 ? launch_rows<C, 1>(a, blocks, stream) : launch_rows<C, 4>(a, blocks, stream);
}

__global__ void evidence(const EvidenceArgs a) {
  if (a.state->end) return;
  evidence_unit(a, static_cast<int>(blockIdx.x));
}

template <class C>
__global__ void store_prefix(const PrefixArgs a) {
  const int warps = static_cast<int>(blockDim.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t task = static_cast<int64_t>(blockIdx.x) * warps + threadIdx.x / kWarp;
  if (task >= static_cast<int64_t>(a.heads) * a.length) return;
  const int64_t at = task / a.length * a.capacity + task % a.length;
  store_row<C>(a.keys + task * a.head_dim, a.cache.keys, a.cache.key_scales, at, a.head_dim, a.stride, lane);
  store_row<C>(a.values + task * a.head_dim, a.cache.values, a.cache.value_scales, at, a.head_dim, a.stride,
               lane);
}

template <class C, int ROWS>
cudaError_t prepare_rows() {
  return load(attend<C, ROWS>, most_attend_shared<C, ROWS>());
}

}  // namespace

cudaError_t prepare_attention() {
  for (const cudaError_t status :
       {prepare_rows<F32, 1>(), prepare_rows<F32, 4>(), prepare_rows<F16, 1>(), prepare_rows<F16, 4>(),
        prepare_rows<I8, 1>(), prepare_rows<I8, 4>(), load(evidence)})
    if (status != cudaSuccess) return status;
  return cudaSuccess;
}

cudaError_t launch_attend(int cache_type, const AttendArgs& a, int blocks, cudaStream_t stream) {
  if (cache_type == EDGE_CUDA_F32) return launch_cache<F32>(a, blocks, stream);
  if (cache_type == EDGE_CUDA_F16) return launch_cache<F16>(a, blocks, stream);
  return launch_cache<I8>(a, blocks, stream);
}

cudaError_t launch_evidence(const EvidenceArgs& a, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>((a.prefix + kAttendThreads - 1) / kAttendThreads), 1, 1);
  return launch(evidence, grid, kAttendThreads, 0, stream, a);
}

cudaError_t launch_prefix(int cache_type, const PrefixArgs& a, cudaStream_t stream) {
  const int64_t tasks = static_cast<int64_t>(a.heads) * a.length;
  const dim3 grid(static_cast<unsigned>((tasks + kAttendWarps - 1) / kAttendWarps), 1, 1);
  if (cache_type == EDGE_CUDA_F32) return launch(store_prefix<F32>, grid, kAttendThreads, 0, stream, a);
  if (cache_type == EDGE_CUDA_F16) return launch(store_prefix<F16>, grid, kAttendThreads, 0, stream, a);
  return launch(store_prefix<I8>, grid, kAttendThreads, 0, stream, a);
}

}  // namespace edge::cuda
