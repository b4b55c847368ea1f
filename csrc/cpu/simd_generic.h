// SPDX-License-Identifier: Apache-2.0
// Vector type of the generic level: four floats through the compiler's portable vector extension, which GCC
// and Clang lower to SSE2, NEON or plain scalar code. No intrinsics.
#pragma once

#include <stdint.h>
#include <string.h>

#include "cpu/kernels.h"

namespace edge {
namespace {

typedef float Vec __attribute__((vector_size(16)));
typedef int32_t VecInt __attribute__((vector_size(16)));
typedef int8_t VecByte __attribute__((vector_size(4)));
typedef uint16_t VecHalf __attribute__((vector_size(8)));

constexpr int kLanes = 4;
constexpr bool kQuickBytes = false;
constexpr int kRowTile = 2;   // queries that share one pass over cached keys and values
constexpr int kSoloOut = 4;   // weight rows per pass for one or two activation rows
constexpr int kTileOut = 2;   // and for more
constexpr int kTileRows = 4;  // of which so many at a time
constexpr int kTileOut4 = 1;  // weight rows of int4, of four activation rows

inline Vec load(const float* p) {
  Vec v;
  memcpy(&v, p, sizeof v);
  return v;
}
inline Vec load(const int8_t* p) {
  VecByte v;
  memcpy(&v, p, sizeof v);
  return __builtin_convertvector(v, Vec);
}
inline Vec load(const uint16_t* p) {
  // Shift exponent and mantissa into place, then let one multiplication rebias the exponent; this is exact
  // for every finite half, subnormal ones included.
  VecHalf h;
  memcpy(&h, p, sizeof h);
  const VecInt bits = __builtin_convertvector(h, VecInt);
  const VecInt magnitude = (bits & 0x7fff) << 13, sign = (bits & 0x8000) << 16;
  const Vec scaled = (Vec)magnitude * 0x1p112f;
  return (Vec)((VecInt)scaled | sign);
}
inline void store(float* p, Vec v) { memcpy(p, &v, sizeof v); }
inline Vec in_register(Vec v) { return v; }
inline Vec set1(float x) { return Vec{x, x, x, x}; }
inline Vec add(Vec a, Vec b) { return a + b; }
inline Vec sub(Vec a, Vec b) { return a - b; }
inline Vec mul(Vec a, Vec b) { return a * b; }
inline Vec div(Vec a, Vec b) { return a / b; }
inline Vec fma(Vec a, Vec b, Vec c) { return a * b + c; }
inline Vec max(Vec a, Vec b) {
  const VecInt m = a > b;
  return (Vec)(((VecInt)a & m) | ((VecInt)b & ~m));
}
inline Vec min(Vec a, Vec b) {
  const VecInt m = a < b;
  return (Vec)(((VecInt)a & m) | ((VecInt)b & ~m));
}
// 0 where x < limit, else v
inline Vec zero_lt(Vec v, Vec x, Vec limit) {
  const VecInt m = x < limit;
  return (Vec)((VecInt)v & ~m);
}
// Nearest integer of |x| < 2^22 by adding and subtracting 1.5 * 2^23.
inline Vec round_near(Vec x) {
  const Vec magic = set1(12582912.0f);
  return (x + magic) - magic;
}
// 2^n for integral n in [-126, 127]
inline Vec times_pow2(Vec v, Vec n) {
  return mul(v, (Vec)((__builtin_convertvector(n, VecInt) + 127) << 23));
}
inline float hsum(Vec v) { return (v[0] + v[2]) + (v[1] + v[3]); }
inline float hmax(Vec v) {
  const float a = v[0] > v[2] ? v[0] : v[2], b = v[1] > v[3] ? v[1] : v[3];
  return a > b ? a : b;
}

// Rounded to even; in range, or NaN.
inline void store_int8(int8_t* p, Vec v) {
  const Vec whole = round_near(v);
  // Beyond the range only beside what is not a number (to_int8_row), and to be cast nowhere.
  for (int i = 0; i < kLanes; ++i)
    p[i] = whole[i] >= -127.0f && whole[i] <= 127.0f ? static_cast<int8_t>(whole[i]) : int8_t{-128};
}
inline uint16_t half_of(float x) {
  uint32_t bits;
  if (x > 65504.0f) x = 65504.0f;
  if (x < -65504.0f) x = -65504.0f;
  memcpy(&bits, &x, sizeof bits);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  uint32_t mag = bits & 0x7fffffffu;
  if (mag > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (mag < 0x38800000u) {
    // Subnormal half: adding 0.5 aligns the mantissa so that the float addition does the rounding.
    float f;
    memcpy(&f, &mag, sizeof f);
    f += 0.5f;
    memcpy(&mag, &f, sizeof mag);
    return static_cast<uint16_t>(sign | (mag - 0x3f000000u));
  }
  mag += 0xfffu + ((mag >> 13) & 1u);
  return static_cast<uint16_t>(sign | ((mag - 0x38000000u) >> 13));
}
inline void store_half(uint16_t* p, Vec v) {
  for (int i = 0; i < kLanes; ++i) p[i] = half_of(v[i]);
}

// Four 32-bit sums, or as many pairs of 16-bit numbers: the first of a pair in the lower half.
typedef VecInt Ints;
constexpr int kGemmRows = 4;                    // rows per tile of a product of many rows
constexpr int kFlashRows = 3, kFlashSums = 12;  // and of attention; its sums in registers
inline Ints zero_ints() { return Ints{}; }
inline Ints load_ints(const int32_t* p) {
  Ints v;
  memcpy(&v, p, sizeof v);
  return v;
}
inline void store_ints(int32_t* p, Ints v) { memcpy(p, &v, sizeof v); }
inline Ints load_pairs(const int16_t* p) {
  Ints v;
  for (int i = 0; i < kLanes; ++i)
    v[i] = static_cast<int32_t>(static_cast<uint16_t>(p[2 * i]) | static_cast<uint32_t>(p[2 * i + 1]) << 16);
  return v;
}
inline Ints set1_pair(const int16_t* p) {
  const auto pair = static_cast<int32_t>(static_cast<uint16_t>(p[0]) | static_cast<uint32_t>(p[1]) << 16);
  return Ints{pair, pair, pair, pair};
}
inline Ints add_products(Ints sum, Ints a, Ints b) {
  return sum + ((a << 16) >> 16) * ((b << 16) >> 16) + (a >> 16) * (b >> 16);
}
inline Vec to_floats(Ints v) { return __builtin_convertvector(v, Vec); }
// Rounded to even; in range.
inline void store_int16(int16_t* p, Vec v) {
  const Vec whole = round_near(v);
  for (int i = 0; i < kLanes; ++i) p[i] = static_cast<int16_t>(whole[i]);
}

// The weights of one int4 group without their scale, in column order.
inline void widen_group(const uint8_t* p, Vec (&w)[8]) {
  for (int v = 0; v < 8; ++v)
    for (int j = 0; j < kLanes; ++j) {
      const int byte = p[8 * (v / 4) + 2 * j + v / 2 % 2];
      w[v][j] = static_cast<float>(kCode4[v % 2 ? byte >> 4 : byte & 15]) * (1.0f / 128.0f);
    }
}
inline void widen_scales(const uint16_t* p, float* out) {
  for (int i = 0; i < 8; i += kLanes) store(out + i, load(p + i));
}

}  // namespace
}  // namespace edge
