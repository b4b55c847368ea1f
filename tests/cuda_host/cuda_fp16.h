// SPDX-License-Identifier: Apache-2.0
// Test only: halves on the host.
#pragma once

#include <cuda_runtime.h>

struct __half {
  unsigned short bits;
};

inline __half __ushort_as_half(unsigned short bits) { return {bits}; }

inline float __half2float(__half h) {
  const unsigned sign = (h.bits & 0x8000u) << 16, exponent = h.bits >> 10 & 31, fraction = h.bits & 0x3ffu;
  if (exponent == 31) return __uint_as_float(sign | 0x7f800000u | fraction << 13);
  if (exponent == 0) {
    const float small = static_cast<float>(fraction) * 0x1p-24f;
    return sign ? -small : small;
  }
  return __uint_as_float(sign | (exponent + 112) << 23 | fraction << 13);
}

// To nearest even; by the caller within the range of a half.
inline __half __float2half_rn(float x) {
  const unsigned short sign = static_cast<unsigned short>(__float_as_uint(x) >> 16 & 0x8000u);
  const float size = fabsf(x);
  if (size != size) return {static_cast<unsigned short>(sign | 0x7e00u)};
  int exponent;
  frexpf(size, &exponent);
  // Steps of 2^-24 below the normal halves, of 2^(exponent - 11) above.
  const int step = exponent - 11 < -24 ? -24 : exponent - 11;
  const float rounded = ldexpf(rintf(ldexpf(size, -step)), step);
  if (rounded < 0x1p-14f)
    return {static_cast<unsigned short>(sign | static_cast<unsigned>(rounded * 0x1p24f))};
  const unsigned bits = __float_as_uint(rounded);
  return {static_cast<unsigned short>(sign | ((bits >> 23) - 112) << 10 | (bits >> 13 & 0x3ffu))};
}
