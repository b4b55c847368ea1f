// SPDX-License-Identifier: Apache-2.0
// Vector type of the AVX2 + FMA + F16C level: eight floats.
#pragma once

#include <immintrin.h>
#include <stdint.h>

#include "cpu/kernels.h"

namespace edge {
namespace {

typedef __m256 Vec;
constexpr int kLanes = 8;
constexpr bool kQuickBytes = true;
constexpr int kRowTile = 4;   // queries that share one pass over cached keys and values
constexpr int kSoloOut = 4;   // weight rows per pass for one or two activation rows
constexpr int kTileOut = 3;   // and for more
constexpr int kTileRows = 4;  // of which so many at a time
constexpr int kTileOut4 = 1;  // weight rows of int4, of four activation rows

inline Vec load(const float* p) { return _mm256_loadu_ps(p); }
inline Vec load(const int8_t* p) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
inline Vec load(const uint16_t* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline void store(float* p, Vec v) { _mm256_storeu_ps(p, v); }
inline Vec in_register(Vec v) {
  __asm__("" : "+x"(v));
  return v;
}
inline Vec set1(float x) { return _mm256_set1_ps(x); }
inline Vec add(Vec a, Vec b) { return _mm256_add_ps(a, b); }
inline Vec sub(Vec a, Vec b) { return _mm256_sub_ps(a, b); }
inline Vec mul(Vec a, Vec b) { return _mm256_mul_ps(a, b); }
inline Vec div(Vec a, Vec b) { return _mm256_div_ps(a, b); }
inline Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
inline Vec max(Vec a, Vec b) { return _mm256_max_ps(a, b); }
inline Vec min(Vec a, Vec b) { return _mm256_min_ps(a, b); }
inline Vec zero_lt(Vec v, Vec x, Vec limit) { return _mm256_and_ps(v, _mm256_cmp_ps(x, limit, _CMP_NLT_UQ)); }
inline Vec round_near(Vec x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline Vec times_pow2(Vec v, Vec n) {
  const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
  return mul(v, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
}
inline float hsum(Vec v) {
  const __m128 a = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  const __m128 b = _mm_add_ps(a, _mm_movehl_ps(a, a));
  return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}
inline float hmax(Vec v) {
  const __m128 a = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  const __m128 b = _mm_max_ps(a, _mm_movehl_ps(a, a));
  return _mm_cvtss_f32(_mm_max_ss(b, _mm_movehdup_ps(b)));
}
// Rounded to even; in range, or NaN.
inline void store_int8(int8_t* p, Vec v) {
  const __m256i whole = _mm256_cvtps_epi32(v);
  const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(words, words));
}
inline void store_half(uint16_t* p, Vec v) {
  const Vec limit = set1(65504.0f);
  const Vec inside = max(min(v, limit), sub(_mm256_setzero_ps(), limit));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(inside, _MM_FROUND_TO_NEAREST_INT));
}

// Eight 32-bit sums, or as many pairs of 16-bit numbers.
typedef __m256i Ints;
constexpr int kGemmRows = 6;                    // rows per tile of a product of many rows
constexpr int kFlashRows = 6, kFlashSums = 12;  // and of attention; its sums in registers
inline Ints zero_ints() { return _mm256_setzero_si256(); }
inline Ints load_ints(const int32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
inline void store_ints(int32_t* p, Ints v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v); }
inline Ints load_pairs(const int16_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
inline Ints set1_pair(const int16_t* p) {
  int32_t pair;
  __builtin_memcpy(&pair, p, sizeof pair);
  return _mm256_set1_epi32(pair);
}
inline Ints add_products(Ints sum, Ints a, Ints b) { return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b)); }
// A square of 32-bit words, turned over its diagonal.
#define EDGE_WORD_SQUARES 1
inline void turn(Ints (&v)[kLanes]) {
  Ints w[kLanes];
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; i += 4) {  // quarters: squares of four
    const Ints a = _mm256_unpacklo_epi32(v[i], v[i + 1]), b = _mm256_unpackhi_epi32(v[i], v[i + 1]);
    const Ints c = _mm256_unpacklo_epi32(v[i + 2], v[i + 3]), d = _mm256_unpackhi_epi32(v[i + 2], v[i + 3]);
    w[i] = _mm256_unpacklo_epi64(a, c), w[i + 1] = _mm256_unpackhi_epi64(a, c);
    w[i + 2] = _mm256_unpacklo_epi64(b, d), w[i + 3] = _mm256_unpackhi_epi64(b, d);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 4; ++i) {  // and the square of those
    v[i] = _mm256_permute2x128_si256(w[i], w[i + 4], 0x20);
    v[i + 4] = _mm256_permute2x128_si256(w[i], w[i + 4], 0x31);
  }
}
inline Ints xor_ints(Ints a, uint32_t b) {
  return _mm256_xor_si256(a, _mm256_set1_epi32(static_cast<int32_t>(b)));
}
// Bytes as numbers of 16 bits, two to a word.
inline Ints widen_pairs(const int8_t* p) {
  return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline Vec to_floats(Ints v) { return _mm256_cvtepi32_ps(v); }
// Rounded to even; in range.
inline void store_int16(int16_t* p, Vec v) {
  const __m256i whole = _mm256_cvtps_epi32(v);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                   _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1)));
}

// A bfloat16 holds a level of kCode4 exactly, and its two bytes come from two table look-ups; in the upper
// half of a 32-bit lane it is the float.
struct CodeBytes {
  uint8_t high[16], low[16];
};
constexpr CodeBytes code_bytes() {
  CodeBytes t{};
  for (int i = 0; i < 16; ++i) {
    const uint32_t bits = __builtin_bit_cast(uint32_t, static_cast<float>(kCode4[i]) / 128.0f);
    t.high[i] = static_cast<uint8_t>(bits >> 24);
    t.low[i] = static_cast<uint8_t>(bits >> 16);
  }
  return t;
}
alignas(16) constexpr CodeBytes kCodeBytes = code_bytes();

// The weights of one int4 group without their scale, in column order.
inline void widen_group(const uint8_t* p, Vec (&w)[4]) {
  const __m256i high_table =
      _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(kCodeBytes.high)));
  const __m256i low_table =
      _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(kCodeBytes.low)));
  const __m256i bytes = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  // Low nibbles to the lower half, high nibbles to the upper one.
  const __m256i shifted = _mm256_srlv_epi32(bytes, _mm256_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4));
  const __m256i nibbles = _mm256_and_si256(shifted, _mm256_set1_epi8(15));
  const __m256i high = _mm256_shuffle_epi8(high_table, nibbles);
  const __m256i low = _mm256_shuffle_epi8(low_table, nibbles);
  const __m256i first = _mm256_unpacklo_epi8(low, high), second = _mm256_unpackhi_epi8(low, high);
  const __m256i upper = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
  w[0] = _mm256_castsi256_ps(_mm256_slli_epi32(first, 16));
  w[1] = _mm256_castsi256_ps(_mm256_and_si256(first, upper));
  w[2] = _mm256_castsi256_ps(_mm256_slli_epi32(second, 16));
  w[3] = _mm256_castsi256_ps(_mm256_and_si256(second, upper));
}
inline void widen_scales(const uint16_t* p, float* out) { store(out, load(p)); }

}  // namespace
}  // namespace edge
