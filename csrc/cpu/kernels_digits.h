// SPDX-License-Identifier: Apache-2.0
// int4 weights times activations, as products of bytes. Widening a weight to float32 costs three instructions
// for every sixteen of them, which is slower than the memory; a look-up in bytes serves 64 at once. So that
// nothing is lost, a row of activations is written as integers of 24 bits (a step is 1.2e-7 of its largest
// value), and these as three signed digits of 8 bits, each multiplied exactly.
#pragma once

#include <stdint.h>

#include "cpu/kernels.h"
#include "cpu/kernels_int4.h"
#include "cpu/kernels_tile.h"

namespace edge {
namespace {

#ifdef EDGE_BYTE_PRODUCTS

constexpr int64_t kChunkGroups = kDigitChunk / kGroup4;
constexpr int64_t kChunkBytes = kDigitChunk / 2;  // of weights
// Of a row: kDigits times the columns of the low nibbles, then of the high ones, in the order of the bytes.
constexpr int64_t kChunkDigits = kDigits * kDigitChunk;
constexpr int64_t kChunkSums = kDigits * kLanes;
constexpr float kLargestInt = 8355000.0f;  // 127 * (65536 + 256 + 1) and a little room

// The signed low byte of each lane, which is taken off and shifted out.
inline Ints take_digit(Ints& q) {
  const Ints digit = _mm512_srai_epi32(_mm512_slli_epi32(q, 24), 24);
  q = _mm512_srai_epi32(_mm512_sub_epi32(q, digit), 8);
  return digit;
}

// Weights go into the products as unsigned bytes, 128 too large: the sums begin at -128 times the digits that
// a lane meets.
inline void begin_sums(const int8_t* digits, int32_t* start) {
  const Ints offset = _mm512_set1_epi8(-128);  // 128, unsigned
  for (int64_t k = 0; k < kDigits; ++k) {
    Ints sum = zero_ints();
    for (int64_t half = 0; half < 2; ++half)
      sum = add_byte_products(sum, offset, _mm512_loadu_si512(digits + (2 * k + half) * kChunkBytes));
    store_ints(start + k * kLanes, sub_ints(zero_ints(), sum));
  }
}

// The largest size, and in `none` zero, or what is not a number where one of x is not finite.
inline float largest_of(const float* x, int64_t n, float* none) {
  Vec top = set1(0.0f), unfit = set1(0.0f);
  const auto look = [&](Vec v) {
    top = max(top, max(v, sub(set1(0.0f), v)));
    unfit = add(unfit, sub(v, v));
  };
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) look(load(x + i));
  if (i < n) look(load_part(x + i, n - i));
  *none = hsum(unfit);
  return hmax(top);
}

float to_digits(const float* x, int64_t n, int8_t* digits, int32_t* start) {
  float none = 0.0f;
  const float largest = largest_of(x, n, &none);
  const Vec factor = set1(largest > 0.0f ? kLargestInt / largest : 0.0f);
  const int64_t groups = n / kGroup4;
  for (int64_t g = 0; g < groups; g += kChunkGroups, digits += kChunkDigits, start += kChunkSums) {
    for (int64_t i = 0; i < kChunkGroups; ++i) {
      Vec in[2] = {set1(0.0f), set1(0.0f)};
      if (g + i < groups) loose_group(x + (g + i) * kGroup4, in);
      for (int64_t half = 0; half < 2; ++half) {
        Ints q = _mm512_cvtps_epi32(mul(in[half], factor));
        for (int64_t k = 0; k < kDigits; ++k) {
          int8_t* to = digits + (2 * k + half) * kChunkBytes + i * kGroupBytes;
          _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(take_digit(q)));
        }
      }
    }
    begin_sums(digits, start);
  }
  return largest / kLargestInt / 128.0f + none;
}

// The weights of a chunk in unsigned bytes, of the low and of the high nibbles; of less than kChunkGroups
// groups the rest is anything finite.
inline void widen_chunk(const uint8_t* p, int64_t groups, Ints (&w)[2]) {
  const Ints table =
      _mm512_sub_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(kCode4))),
                      _mm512_set1_epi8(-128));
  const Ints low = _mm512_set1_epi8(15);
  const Ints bytes = groups == kChunkGroups
                         ? _mm512_loadu_si512(p)
                         : _mm512_maskz_loadu_epi8((uint64_t{1} << groups * kGroupBytes) - 1, p);
  w[0] = _mm512_shuffle_epi8(table, _mm512_and_si512(bytes, low));
  w[1] = _mm512_shuffle_epi8(table, _mm512_and_si512(_mm512_srli_epi16(bytes, 4), low));
}

// The scale of each lane's group.
inline Vec chunk_scales(const uint16_t* p, int64_t groups) {
  const __m128i halves = groups == kChunkGroups
                             ? _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))
                             : _mm_maskz_loadu_epi16(static_cast<__mmask8>((1 << groups) - 1), p);
  const Ints lane = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
  return _mm512_permutexvar_ps(lane, _mm512_castps128_ps512(_mm_cvtph_ps(halves)));
}

// One chunk of one weight row with one row of activations, in 1/128 of the activations' step.
inline Vec chunk_product(const Ints (&w)[2], const int8_t* digits, const int32_t* start) {
  Ints sum[kDigits];
#pragma GCC unroll 4
  for (int64_t k = 0; k < kDigits; ++k) {
    sum[k] = load_ints(start + k * kLanes);
#pragma GCC unroll 2
    for (int64_t half = 0; half < 2; ++half)
      sum[k] = add_byte_products(sum[k], w[half], _mm512_loadu_si512(digits + (2 * k + half) * kChunkBytes));
  }
  const Ints upper = _mm512_add_epi32(_mm512_slli_epi32(sum[2], 8), sum[1]);
  return fma(to_floats(upper), set1(256.0f), to_floats(sum[0]));
}

// The sums of four vectors, each added up as hsum does.
inline __m128 hsum4(Vec a, Vec b, Vec c, Vec d) {
  const auto quarter = [](Vec v) {
    const __m256 w = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    return _mm_add_ps(_mm256_castps256_ps128(w), _mm256_extractf128_ps(w, 1));
  };
  const __m128 i = quarter(a), j = quarter(b), k = quarter(c), l = quarter(d);
  const __m128 first = _mm_add_ps(_mm_movelh_ps(i, j), _mm_movehl_ps(j, i));
  const __m128 second = _mm_add_ps(_mm_movelh_ps(k, l), _mm_movehl_ps(l, k));
  return _mm_add_ps(_mm_shuffle_ps(first, second, 0x88), _mm_shuffle_ps(first, second, 0xdd));
}

// Row r of the outputs o to o + OUT, from the vectors that add up to them.
template <int OUT>
inline void put_sums(const MatmulArgs& a, int64_t o, int64_t r, const Vec (&total)[OUT], __m128 scale) {
  static_assert(OUT == 1 || OUT == 4);
  constexpr __mmask8 kSome = (1 << OUT) - 1;
  const __m128 sums =
      OUT == 4 ? hsum4(total[0], total[1 % OUT], total[2 % OUT], total[3 % OUT]) : _mm_set_ss(hsum(total[0]));
  __m128 y = _mm_mul_ps(sums, scale);
  if (a.bias) y = _mm_add_ps(y, _mm_maskz_loadu_ps(kSome, a.bias + o));
  float* to = a.y + r * a.y_stride + o;
  if (a.accumulate) y = _mm_add_ps(_mm_maskz_loadu_ps(kSome, to), y);
  _mm_mask_storeu_ps(to, kSome, y);
}

// OUT weight rows x ROWS activation rows. Each sum takes the chunks in order, whatever OUT and ROWS are.
template <int OUT, int ROWS>
inline void digits_tile(const MatmulArgs& a, int64_t o0, int64_t r0) {
  const DigitRows& x = *a.digits;
  const int64_t groups = a.cols / kGroup4;
  const uint8_t* w = static_cast<const uint8_t*>(a.w) + o0 * groups * kGroupBytes;
  const uint16_t* scale = a.group_scale + o0 * groups;
  const int8_t* digits = x.digits + r0 * x.chunks * kChunkDigits;
  const int32_t* start = x.start + r0 * x.chunks * kChunkSums;
  Vec sum[OUT][ROWS];
#pragma GCC unroll 16
  for (int o = 0; o < OUT; ++o)
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) sum[o][r] = set1(0.0f);
  GroupsAhead ahead(a, w, scale);
  for (int64_t g = 0; g < groups; g += kChunkGroups) {
    const int64_t n = groups - g < kChunkGroups ? groups - g : kChunkGroups;
    if (r0 == 0) ahead.fetch<OUT>(OUT * (g + n));
#pragma GCC unroll 16
    for (int o = 0; o < OUT; ++o) {
      Ints wide[2];
      widen_chunk(w + (o * groups + g) * kGroupBytes, n, wide);
      const Vec s = chunk_scales(scale + o * groups + g, n);
#pragma GCC unroll 16
      for (int r = 0; r < ROWS; ++r)
        sum[o][r] = fma(
            s, chunk_product(wide, digits + r * x.chunks * kChunkDigits, start + r * x.chunks * kChunkSums),
            sum[o][r]);
    }
    digits += kChunkDigits;
    start += kChunkSums;
  }
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r) {
    Vec total[OUT];
#pragma GCC unroll 16
    for (int o = 0; o < OUT; ++o) total[o] = sum[o][r];
    put_sums(a, o0, r0 + r, total, _mm_set1_ps(x.scale[r0 + r]));
  }
}

template <int OUT>
inline void digits_rows(const MatmulArgs& a, int64_t o) {
  int64_t r = 0;
  for (; r + 4 <= a.rows; r += 4) digits_tile<OUT, 4>(a, o, r);
  if (a.rows - r >= 2) digits_tile<OUT, 2>(a, o, r), r += 2;
  if (a.rows - r == 1) digits_tile<OUT, 1>(a, o, r);
}

void matmul_digits(const MatmulArgs& a) {
  int64_t o = a.begin;
  for (; o + kSoloOut <= a.end; o += kSoloOut) digits_rows<kSoloOut>(a, o);
  for (; o < a.end; ++o) digits_rows<1>(a, o);
}

constexpr auto kToDigits = to_digits;
constexpr auto kMatmulDigits = matmul_digits;

#else

constexpr float (*kToDigits)(const float*, int64_t, int8_t*, int32_t*) = nullptr;
constexpr void (*kMatmulDigits)(const MatmulArgs&) = nullptr;

#endif

}  // namespace
}  // namespace edge
