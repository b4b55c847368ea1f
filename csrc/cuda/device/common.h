// SPDX-License-Identifier: Apache-2.0
// What every kernel uses: stored number types, reductions of a warp, launching.
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <stdint.h>

#include "cuda/device/sizes.h"

namespace edge::cuda {

inline constexpr unsigned kAllLanes = 0xffffffffu;
inline constexpr float kLowest = -3.402823466e+38f;

// All shared memory is dynamic and laid out by the kernel.
extern __shared__ __align__(16) unsigned char edge_shared[];

// The thread's number, asked for anew: a long kernel with many stages would otherwise keep what all of them
// compute from it in registers that none has to spare.
__device__ inline int this_thread() {
#ifdef __CUDA_ARCH__
  int thread;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
  return thread & 255;  // as many as the kernels have that ask: known bits make its parts cheap
#else
  return static_cast<int>(threadIdx.x);
#endif
}

// Number types as they are stored. kVec of them fill 16 bytes; unpack widens 16 bytes exactly.
struct F32 {
  static constexpr int kVec = 4;
  __device__ static void unpack(const uint4& raw, float* out) {
    out[0] = __uint_as_float(raw.x);
    out[1] = __uint_as_float(raw.y);
    out[2] = __uint_as_float(raw.z);
    out[3] = __uint_as_float(raw.w);
  }
  __device__ static void put(void* row, int64_t i, float value) { static_cast<float*>(row)[i] = value; }
  __device__ static float get(const void* row, int64_t i) { return static_cast<const float*>(row)[i]; }
};

struct F16 {
  static constexpr int kVec = 8;
  __device__ static void unpack(const uint4& raw, float* out) {
    const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      out[2 * i] = __half2float(__ushort_as_half(static_cast<unsigned short>(words[i] & 0xffffu)));
      out[2 * i + 1] = __half2float(__ushort_as_half(static_cast<unsigned short>(words[i] >> 16)));
    }
  }
  // To nearest even; beyond the range the largest finite half, as on the CPU.
  __device__ static void put(void* row, int64_t i, float value) {
    static_cast<__half*>(row)[i] = __float2half_rn(fminf(fmaxf(value, -65504.0f), 65504.0f));
  }
  __device__ static float get(const void* row, int64_t i) {
    return __half2float(static_cast<const __half*>(row)[i]);
  }
};

// The upper half of a float; only for weights, which are finite.
struct BF16 {
  static constexpr int kVec = 8;
  __device__ static void unpack(const uint4& raw, float* out) {
    const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      out[2 * i] = __uint_as_float(words[i] << 16);
      out[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
    }
  }
  __device__ static void put(void* row, int64_t i, float value) {
    const uint32_t bits = __float_as_uint(value);
    static_cast<uint16_t*>(row)[i] = static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
  }
  __device__ static float get(const void* row, int64_t i) {
    return __uint_as_float(static_cast<uint32_t>(static_cast<const uint16_t*>(row)[i]) << 16);
  }
};

struct I8 {
  static constexpr int kVec = 16;
  // A byte b + 128 under the exponent of 2^23 is the float 2^23 + b + 128: two fast instructions, no convert.
  __device__ static void unpack(const uint4& raw, float* out) {
    const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint32_t shifted = words[i] ^ 0x80808080u;
#pragma unroll
      for (unsigned k = 0; k < 4; ++k)
        out[4 * i + k] = __uint_as_float(__byte_perm(shifted, 0x4b000000u, 0x7440u + k)) - 8388736.0f;
    }
  }
  __device__ static float get(const void* row, int64_t i) {
    return static_cast<float>(static_cast<const int8_t*>(row)[i]);
  }
};

constexpr uint32_t four_levels(int a, int b, int c, int d) {
  return static_cast<uint32_t>(a + 128) | static_cast<uint32_t>(b + 128) << 8 |
         static_cast<uint32_t>(c + 128) << 16 | static_cast<uint32_t>(d + 128) << 24;
}

// Two weights per byte in groups of 32 columns, which fill 16 bytes and share a scale (csrc/cpu/kernels.h has
// the levels and the order of the columns). unpack gives the level; a weight is level / 128 * scale.
struct I4 {
  static constexpr int kVec = 32;
  static constexpr uint32_t kLevels[4] = {four_levels(-127, -98, -78, -62), four_levels(-48, -36, -23, -11),
                                          four_levels(1, 12, 24, 37), four_levels(50, 65, 83, 105)};
  // Four levels + 128 for the four nibbles in the lower half of `nibbles`.
  __device__ static uint32_t levels(uint32_t nibbles) {
    const uint32_t low = __byte_perm(kLevels[0], kLevels[1], nibbles & 0x7777u);
    const uint32_t high = __byte_perm(kLevels[2], kLevels[3], nibbles & 0x7777u);
    return __byte_perm(low, high, 0x3210u | (nibbles & 0x8888u) >> 1);
  }
  __device__ static float widen(uint32_t levels, unsigned byte) {
    return __uint_as_float(__byte_perm(levels, 0x4b000000u, 0x7440u + byte)) - 8388736.0f;
  }
  __device__ static void unpack(const uint4& raw, float* out) {
    const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
    for (unsigned i = 0; i < 4; ++i)
#pragma unroll
      for (unsigned half = 0; half < 2; ++half) {
        const uint32_t four = levels(words[i] >> (16 * half));
        // Bytes 8a + 2j and 8a + 2j + 1: columns 16a + j, + 4, + 8 and + 12.
        const unsigned a = i / 2, j = i % 2 * 2 + half;
#pragma unroll
        for (unsigned k = 0; k < 4; ++k) out[16 * a + j + 4 * k] = widen(four, k);
      }
  }
  __device__ static float get(const void* row, int64_t i) {
    const int inside = static_cast<int>(i % kGroup4), a = inside / 16, e = inside / 8 % 2,
              high = inside / 4 % 2;
    const int byte = 8 * a + 2 * (inside % 4) + e;
    const unsigned pair = static_cast<const uint8_t*>(row)[i / kGroup4 * 16 + byte];
    return widen(levels(pair >> (4 * high) & 15u), 0);
  }
};

// The sum of a warp's values in every lane; the order of additions is fixed.
__device__ inline float warp_sum(float v) {
#pragma unroll
  for (int distance = kWarp / 2; distance > 0; distance /= 2) v += __shfl_xor_sync(kAllLanes, v, distance);
  return v;
}

// The sums of N values of every lane, with the bits of warp_sum: in lane L the one of value L * N / 32. Lanes
// share the values between them before each addition, so there are few of them, and all sums are made at
// once. N of the `SIZE` values are left, and lanes `DISTANCE` apart add.
template <int N, int DISTANCE = kWarp / 2, int SIZE>
__device__ inline float warp_sums(float (&v)[SIZE], int lane) {
  static_assert(N <= 2 * DISTANCE && (N & (N - 1)) == 0);
  if constexpr (N == 1) {
#pragma unroll
    for (int distance = DISTANCE; distance > 0; distance /= 2)
      v[0] += __shfl_xor_sync(kAllLanes, v[0], distance);
    return v[0];
  } else {
    const bool upper = (lane & DISTANCE) != 0;
    float other[N / 2];
#pragma unroll
    for (int i = 0; i < N / 2; ++i)
      other[i] = __shfl_xor_sync(kAllLanes, upper ? v[i] : v[i + N / 2], DISTANCE);
#pragma unroll
    for (int i = 0; i < N / 2; ++i) v[i] = (upper ? v[i + N / 2] : v[i]) + other[i];
    if constexpr (DISTANCE == 1)
      return v[0];
    else
      return warp_sums<N / 2, DISTANCE / 2>(v, lane);
  }
}

__device__ inline float warp_max(float v) {
#pragma unroll
  for (int distance = kWarp / 2; distance > 0; distance /= 2)
    v = fmaxf(v, __shfl_xor_sync(kAllLanes, v, distance));
  return v;
}

// Loads a kernel now: the runtime loads lazily, and a step that is being recorded is no time for that. To
// allow it more shared memory does not load it.
template <class... Params>
cudaError_t load(void (*kernel)(Params...)) {
  cudaFuncAttributes attributes{};
  return cudaFuncGetAttributes(&attributes, kernel);
}

template <class... Params>
cudaError_t load(void (*kernel)(Params...), size_t shared) {
  const cudaError_t status =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared));
  return status == cudaSuccess ? load(kernel) : status;
}

// With every block of the grid running at once, or not at all.
template <class... Params, class... Args>
cudaError_t launch_together(void (*kernel)(Params...), dim3 grid, int threads, size_t shared,
                            cudaStream_t stream, const Args&... args) {
  cudaLaunchAttribute together{};
  together.id = cudaLaunchAttributeCooperative;
  together.val.cooperative = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(threads), 1, 1);
  config.dynamicSmemBytes = shared;
  config.stream = stream;
  config.attrs = &together;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, kernel, args...);
}

template <class... Params, class... Args>
cudaError_t launch(void (*kernel)(Params...), dim3 grid, int threads, size_t shared, cudaStream_t stream,
                   const Args&... args) {
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(threads), 1, 1);
  config.dynamicSmemBytes = shared;
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, args...);
}

}  // namespace edge::cuda
