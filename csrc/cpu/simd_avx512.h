// SPDX-License-Identifier: Apache-2.0
// Vector type of the AVX-512 levels: sixteen floats.
#pragma once

#include <immintrin.h>
#include <stdint.h>

#include "cpu/kernels.h"

namespace edge {
namespace {

typedef __m512 Vec;
constexpr int kLanes = 16;
constexpr bool kQuickBytes = true;
constexpr int kRowTile = 8;   // queries that share one pass over cached keys and values
constexpr int kSoloOut = 4;   // weight rows per pass for one or two activation rows
constexpr int kTileOut = 4;   // and for more
constexpr int kTileRows = 6;  // of which so many at a time
constexpr int kTileOut4 = 3;  // weight rows of int4, of four activation rows

inline Vec load(const float* p) { return _mm512_loadu_ps(p); }
inline Vec load(const int8_t* p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
inline Vec load(const uint16_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline void store(float* p, Vec v) { _mm512_storeu_ps(p, v); }
inline Vec in_register(Vec v) {
  __asm__("" : "+v"(v));
  return v;
}
inline Vec set1(float x) { return _mm512_set1_ps(x); }
inline Vec add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
inline Vec sub(Vec a, Vec b) { return _mm512_sub_ps(a, b); }
inline Vec mul(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
inline Vec div(Vec a, Vec b) { return _mm512_div_ps(a, b); }
inline Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
inline Vec max(Vec a, Vec b) { return _mm512_max_ps(a, b); }
inline Vec min(Vec a, Vec b) { return _mm512_min_ps(a, b); }
inline Vec zero_lt(Vec v, Vec x, Vec limit) {
  return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, limit, _CMP_NLT_UQ), v);
}
inline Vec round_near(Vec x) {
  return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
inline Vec times_pow2(Vec v, Vec n) { return _mm512_scalef_ps(v, n); }
inline float hsum(Vec v) {
  const __m256 lo = _mm512_castps512_ps256(v), hi = _mm512_extractf32x8_ps(v, 1);
  const __m256 w = _mm256_add_ps(lo, hi);
  const __m128 a = _mm_add_ps(_mm256_castps256_ps128(w), _mm256_extractf128_ps(w, 1));
  const __m128 b = _mm_add_ps(a, _mm_movehl_ps(a, a));
  return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}
inline float hmax(Vec v) {
  const __m256 w = _mm256_max_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
  const __m128 a = _mm_max_ps(_mm256_castps256_ps128(w), _mm256_extractf128_ps(w, 1));
  const __m128 b = _mm_max_ps(a, _mm_movehl_ps(a, a));
  return _mm_cvtss_f32(_mm_max_ss(b, _mm_movehdup_ps(b)));
}
// Rounded to even; in range, or NaN.
inline void store_int8(int8_t* p, Vec v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(v)));
}
inline void store_half(uint16_t* p, Vec v) {
  const Vec limit = set1(65504.0f);
  const Vec inside = max(min(v, limit), sub(_mm512_setzero_ps(), limit));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(inside, _MM_FROUND_TO_NEAREST_INT));
}

// Sixteen 32-bit sums, or as many pairs of 16-bit numbers.
typedef __m512i Ints;
constexpr int kGemmRows = 12;                    // rows per tile of a product of many rows
constexpr int kFlashRows = 12, kFlashSums = 24;  // and of attention; its sums in registers
inline Ints zero_ints() { return _mm512_setzero_si512(); }
inline Ints load_ints(const int32_t* p) { return _mm512_loadu_si512(p); }
inline void store_ints(int32_t* p, Ints v) { _mm512_storeu_si512(p, v); }
inline Ints load_pairs(const int16_t* p) { return _mm512_loadu_si512(p); }
inline Ints set1_pair(const int16_t* p) {
  int32_t pair;
  __builtin_memcpy(&pair, p, sizeof pair);
  return _mm512_set1_epi32(pair);
}
inline Ints add_products(Ints sum, Ints a, Ints b) {
#ifdef __AVX512VNNI__
  // Not the intrinsic: around that GCC 12 copies every sum, and spills half of a tile's to the stack.
  __asm__("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
  return sum;
#else
  return _mm512_add_epi32(sum, _mm512_madd_epi16(a, b));
#endif
}
// A square of 32-bit words, turned over its diagonal.
#define EDGE_WORD_SQUARES 1
inline void turn(Ints (&v)[kLanes]) {
  Ints w[kLanes];
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; i += 4) {  // quarters: squares of four
    const Ints a = _mm512_unpacklo_epi32(v[i], v[i + 1]), b = _mm512_unpackhi_epi32(v[i], v[i + 1]);
    const Ints c = _mm512_unpacklo_epi32(v[i + 2], v[i + 3]), d = _mm512_unpackhi_epi32(v[i + 2], v[i + 3]);
    w[i] = _mm512_unpacklo_epi64(a, c), w[i + 1] = _mm512_unpackhi_epi64(a, c);
    w[i + 2] = _mm512_unpacklo_epi64(b, d), w[i + 3] = _mm512_unpackhi_epi64(b, d);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 4; ++i) {  // and the square of those
    const Ints a = _mm512_shuffle_i32x4(w[i], w[i + 4], 0x88), b = _mm512_shuffle_i32x4(w[i], w[i + 4], 0xdd);
    const Ints c = _mm512_shuffle_i32x4(w[i + 8], w[i + 12], 0x88);
    const Ints d = _mm512_shuffle_i32x4(w[i + 8], w[i + 12], 0xdd);
    v[i] = _mm512_shuffle_i32x4(a, c, 0x88), v[i + 8] = _mm512_shuffle_i32x4(a, c, 0xdd);
    v[i + 4] = _mm512_shuffle_i32x4(b, d, 0x88), v[i + 12] = _mm512_shuffle_i32x4(b, d, 0xdd);
  }
}
inline Ints xor_ints(Ints a, uint32_t b) {
  return _mm512_xor_si512(a, _mm512_set1_epi32(static_cast<int32_t>(b)));
}
// The first halves, or bytes, of all words, then the next ones.
#define EDGE_WORD_PARTS 1
inline void store_parts(uint16_t* p, Ints v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(v));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + kLanes),
                      _mm512_cvtepi32_epi16(_mm512_srli_epi32(v, 16)));
}
inline void store_parts(int8_t* p, Ints v) {
  const __m512i order =
      _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
  const __m512i quarters = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  _mm512_storeu_si512(p, _mm512_permutexvar_epi32(quarters, _mm512_shuffle_epi8(v, order)));
}
// Bytes as numbers of 16 bits, two to a word.
inline Ints widen_pairs(const int8_t* p) {
  return _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline Vec to_floats(Ints v) { return _mm512_cvtepi32_ps(v); }
inline Ints set1_int(int32_t x) { return _mm512_set1_epi32(x); }
inline Ints sub_ints(Ints a, Ints b) { return _mm512_sub_epi32(a, b); }
inline Ints mul_ints(Ints a, Ints b) { return _mm512_mullo_epi32(a, b); }
#ifdef __AVX512VNNI__
#define EDGE_BYTE_PRODUCTS 1
// What is added to the weights of a panel, which so are unsigned.
constexpr int32_t kPanelZero = 128;
inline Ints in_register(Ints v) {
  __asm__("" : "+v"(v));
  return v;
}
// Four products each: unsigned times signed bytes. Not the intrinsic, as above.
inline Ints add_byte_products(Ints sum, Ints a, Ints b) {
  __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(a), "vm"(b));
  return sum;
}
// The numbers of one int4 group, kPanelZero added to each, four columns to a word; returns their sum without
// it.
inline int32_t look_up_group(const uint8_t* p, const int16_t* table, uint32_t* words) {
  const __m128i numbers = _mm_xor_si128(
      _mm256_cvtepi16_epi8(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(table))), _mm_set1_epi8(-128));
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)), low = _mm_set1_epi8(15);
  const __m128i even_odd = _mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15);
  const auto look_up = [&](__m128i nibbles) {
    return _mm_shuffle_epi8(_mm_shuffle_epi8(numbers, _mm_and_si128(nibbles, low)), even_odd);
  };
  const __m128i first = look_up(bytes), second = look_up(_mm_srli_epi16(bytes, 4));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(words), _mm_unpacklo_epi32(first, second));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(words + 4), _mm_unpackhi_epi32(first, second));
  const __m128i none = _mm_setzero_si128();
  const __m128i sum = _mm_add_epi64(_mm_sad_epu8(first, none), _mm_sad_epu8(second, none));
  return _mm_cvtsi128_si32(sum) + _mm_extract_epi32(sum, 2) - 128 * static_cast<int32_t>(kGroup4);
}
#endif
// Rounded to even; in range.
inline void store_int16(int16_t* p, Vec v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(v)));
}

// The weights of one int4 group without their scale, in column order: a permutation looks sixteen nibbles up
// at a time and ignores the bits above them.
inline void widen_group(const uint8_t* p, Vec (&w)[2]) {
  const __m512 table = _mm512_mul_ps(
      _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(kCode4)))),
      set1(1.0f / 128.0f));
  const __m512i bytes = _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  const __m512i shift = _mm512_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12);
  // The j-th two bytes of each half to the j-th lane of each quarter.
  w[0] = _mm512_permutexvar_ps(_mm512_srlv_epi32(_mm512_unpacklo_epi16(bytes, bytes), shift), table);
  w[1] = _mm512_permutexvar_ps(_mm512_srlv_epi32(_mm512_unpackhi_epi16(bytes, bytes), shift), table);
}
// The same in the order that costs least: lane i of w[n] is nibble n of byte i. `loose_group` puts a group's
// activations in that order, once for all weight rows of a tile.
#define EDGE_LOOSE_GROUPS 1
inline void widen_loose(const uint8_t* p, Vec (&w)[2]) {
  const __m512 table = _mm512_mul_ps(
      _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(kCode4)))),
      set1(1.0f / 128.0f));
  const __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  w[0] = _mm512_permutexvar_ps(bytes, table);
  w[1] = _mm512_permutexvar_ps(_mm512_srli_epi32(bytes, 4), table);
}
inline void loose_group(const float* x, Vec (&in)[2]) {
  const __m512i low = _mm512_setr_epi32(0, 8, 1, 9, 2, 10, 3, 11, 16, 24, 17, 25, 18, 26, 19, 27);
  const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(4));
  const __m512 first = load(x), second = load(x + kLanes);
  in[0] = _mm512_permutex2var_ps(first, low, second);
  in[1] = _mm512_permutex2var_ps(first, high, second);
}
inline void widen_scales(const uint16_t* p, float* out) {
  _mm256_storeu_ps(out, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}

}  // namespace
}  // namespace edge
