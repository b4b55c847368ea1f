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
// a lane meets. And they begin as the bits of a float whose mantissa they count up, each digit's of another
// size: read as that float, a sum is kSumBase[k] more than itself in steps of 256, without a conversion. It
// stays inside the mantissa: 8 products are less than 2^19 either way, and there is room for 2^22.
constexpr int32_t kSumBits[kDigits] = {0x47400000, 0x4b400000, 0x4f400000};  // 1.5 * 2^15, 2^23 and 2^31
constexpr float kSumBase[kDigits] = {49152.0f, 12582912.0f, 3221225472.0f};

inline void begin_sums(const int8_t* digits, int32_t* start) {
  const Ints offset = _mm512_set1_epi8(-128);  // 128, unsigned
  for (int64_t k = 0; k < kDigits; ++k) {
    Ints sum = zero_ints();
    for (int64_t half = 0; half < 2; ++half)
      sum = add_byte_products(sum, offset, _mm512_loadu_si512(digits + (2 * k + half) * kChunkBytes));
    store_ints(start + k * kLanes, sub_ints(set1_int(kSumBits[k]), sum));
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
  return largest / kLargestInt + none;
}

// The weights of a chunk in unsigned bytes, of the low and of the high nibbles; of less than kChunkGroups
// groups the rest is anything finite. The permutation looks at six bits, and finds every code four times.
inline void widen_chunk(const uint8_t* p, int64_t groups, Ints (&w)[2]) {
  const Ints table =
      _mm512_sub_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(kCode4))),
                      _mm512_set1_epi8(-128));
  const Ints bytes = groups == kChunkGroups
                         ? _mm512_loadu_si512(p)
                         : _mm512_maskz_loadu_epi8((uint64_t{1} << groups * kGroupBytes) - 1, p);
  w[0] = _mm512_permutexvar_epi8(bytes, table);
  w[1] = _mm512_permutexvar_epi8(_mm512_srli_epi16(bytes, 4), table);
}

// The scale of each lane's group.
inline Vec chunk_scales(const uint16_t* p, int64_t groups) {
  const __m128i halves = groups == kChunkGroups
                             ? _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))
                             : _mm_maskz_loadu_epi16(static_cast<__mmask8>((1 << groups) - 1), p);
  const Ints lane = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
  return _mm512_permutexvar_ps(lane, _mm512_castps128_ps512(_mm_cvtph_ps(halves)));
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
  constexpr __mmask8 kSome = (1 << OUT) - 1;
  const __m128 sums =
      OUT == 1 ? _mm_set_ss(hsum(total[0])) : hsum4(total[0], total[1 % OUT], total[2 % OUT], total[3 % OUT]);
  __m128 y = _mm_mul_ps(sums, scale);
  if (a.bias) y = _mm_add_ps(y, _mm_maskz_loadu_ps(kSome, a.bias + o));
  float* to = a.y + r * a.y_stride + o;
  if (a.accumulate) y = _mm_add_ps(_mm_maskz_loadu_ps(kSome, to), y);
  _mm_mask_storeu_ps(to, kSome, y);
}

// What the sums of the UPPER digits, from the lowest of them up, say of the activations, in steps of 256.
template <int UPPER>
inline Vec chunk_sum(const Ints (&sum)[UPPER]) {
  constexpr int kLowest = kDigits - UPPER;
  constexpr float kBase =
      kSumBase[2] + (kLowest < 2 ? kSumBase[1] : 0.0f) + (kLowest < 1 ? kSumBase[0] : 0.0f);
  Vec total = sub(_mm512_castsi512_ps(sum[UPPER - 1]), set1(kBase));  // exact
#pragma GCC unroll 4
  for (int k = UPPER - 2; k >= 0; --k) total = add(total, _mm512_castsi512_ps(sum[k]));
  return total;
}

// `groups` groups, at most a chunk, of OUT weight rows x the UPPER digits of ROWS activation rows. Digits are
// loaded once for all weight rows.
template <int OUT, int ROWS, int UPPER>
inline void add_groups(const uint8_t* w, const uint16_t* scale, int64_t row_groups, int64_t groups,
                       const int8_t* digits, const int32_t* start, int64_t row_chunks,
                       Vec (&total)[OUT][ROWS]) {
  constexpr int kLowest = kDigits - UPPER;
  Ints wide[OUT][2];
  Vec s[OUT];
#pragma GCC unroll 16
  for (int o = 0; o < OUT; ++o) {
    widen_chunk(w + o * row_groups * kGroupBytes, groups, wide[o]);
    s[o] = chunk_scales(scale + o * row_groups, groups);
  }
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r) {
    Ints sum[OUT][UPPER];
#pragma GCC unroll 4
    for (int k = 0; k < UPPER; ++k) {
      const int32_t* from = start + r * row_chunks * kChunkSums + (kLowest + k) * kLanes;
      const int8_t* of = digits + r * row_chunks * kChunkDigits + 2 * (kLowest + k) * kChunkBytes;
      const Ints low = in_register(_mm512_loadu_si512(of));
      const Ints high = in_register(_mm512_loadu_si512(of + kChunkBytes));
#pragma GCC unroll 16
      for (int o = 0; o < OUT; ++o)
        sum[o][k] = add_byte_products(add_byte_products(load_ints(from), wide[o][0], low), wide[o][1], high);
    }
#pragma GCC unroll 16
    for (int o = 0; o < OUT; ++o) total[o][r] = fma(s[o], chunk_sum(sum[o]), total[o][r]);
  }
}

// OUT weight rows x the UPPER digits of ROWS activation rows. Each sum takes the chunks in order, whatever
// OUT and ROWS are. `tile_rows`: of the tiles before this one.
template <int OUT, int ROWS, int UPPER>
inline void digits_tile(const MatmulArgs& a, int64_t o0, int64_t r0, int tile_rows) {
  const DigitRows& x = *a.digits;
  const int64_t groups = a.cols / kGroup4, chunks = x.chunks;
  const uint8_t* w = static_cast<const uint8_t*>(a.w) + o0 * groups * kGroupBytes;
  const uint16_t* scale = a.group_scale + o0 * groups;
  const int8_t* digits = x.digits + r0 * chunks * kChunkDigits;
  const int32_t* start = x.start + r0 * chunks * kChunkSums;
  Vec total[OUT][ROWS];
#pragma GCC unroll 16
  for (int o = 0; o < OUT; ++o)
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) total[o][r] = set1(0.0f);
  GroupsAhead ahead(a, w, scale, r0, tile_rows, groups / kChunkGroups, OUT);
  int64_t g = 0;
  for (; g + kChunkGroups <= groups; g += kChunkGroups, digits += kChunkDigits, start += kChunkSums) {
    ahead.fetch<OUT>(OUT * (g + kChunkGroups));
    add_groups<OUT, ROWS, UPPER>(w + g * kGroupBytes, scale + g, groups, kChunkGroups, digits, start, chunks,
                                 total);
  }
  if (g < groups)
    add_groups<OUT, ROWS, UPPER>(w + g * kGroupBytes, scale + g, groups, groups - g, digits, start, chunks,
                                 total);
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r) {
    Vec sums[OUT];
#pragma GCC unroll 16
    for (int o = 0; o < OUT; ++o) sums[o] = total[o][r];
    put_sums(a, o0, r0 + r, sums, _mm_set1_ps(x.scale[r0 + r] * 2.0f));  // 256, and codes are 128ths
  }
}

// The tile of `n` rows, ROWS at most.
template <int UPPER, int ROWS>
inline void digits_some(const MatmulArgs& a, int64_t o, int64_t r, int64_t n, int tile_rows) {
  if constexpr (ROWS > 1)
    if (n < ROWS) return digits_some<UPPER, ROWS - 1>(a, o, r, n, tile_rows);
  digits_tile<2, ROWS, UPPER>(a, o, r, tile_rows);
}

// Several rows go two weight rows at a time: then the sums of eight stay in registers. And they go through
// some weight rows before the next eight do: the digits of more do not fit into the first cache.
constexpr int kTileRowsDigits = 8;
constexpr int64_t kDigitsBlock = 16;

template <int UPPER>
void matmul_upper_digits(const MatmulArgs& a) {
  int64_t o = a.begin;
  if (a.rows == 1) {
    for (; o + kSoloOut <= a.end; o += kSoloOut) digits_tile<kSoloOut, 1, UPPER>(a, o, 0, 1);
    for (; o < a.end; ++o) digits_tile<1, 1, UPPER>(a, o, 0, 1);
    return;
  }
  const int64_t tiles = (a.rows + kTileRowsDigits - 1) / kTileRowsDigits, each = (a.rows + tiles - 1) / tiles;
  for (int64_t begin = a.begin; begin < a.end; begin += kDigitsBlock) {
    const int64_t end = begin + kDigitsBlock < a.end ? begin + kDigitsBlock : a.end;
    for (int64_t r = 0; r < a.rows; r += each) {
      const int64_t rows = each < a.rows - r ? each : a.rows - r;
      const int tile_rows = static_cast<int>(each);
      for (o = begin; o + 2 <= end; o += 2) digits_some<UPPER, kTileRowsDigits>(a, o, r, rows, tile_rows);
      for (int64_t row = r; o < end && row < r + rows; ++row) digits_tile<1, 1, UPPER>(a, o, row, 1);
    }
  }
}

void matmul_digits(const MatmulArgs& a) {
  with_upper(a, [&](auto upper) { matmul_upper_digits<decltype(upper)::value>(a); });
}

constexpr auto kToDigits = to_digits;
constexpr auto kMatmulDigits = matmul_digits;

#else

constexpr float (*kToDigits)(const float*, int64_t, int8_t*, int32_t*) = nullptr;
constexpr void (*kMatmulDigits)(const MatmulArgs&) = nullptr;

#endif

}  // namespace
}  // namespace edge
