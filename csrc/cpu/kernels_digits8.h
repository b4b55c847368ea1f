// SPDX-License-Identifier: Apache-2.0
// int8 weights times activations in digits (kernels_digits.h). With one row the memory is the limit, and this
// is as fast as widening; with the rows of a drafted pass it takes three instructions for 64 weights and a
// row, where widening takes four, and eight more for all rows.
#pragma once

#include <stdint.h>

#include "cpu/kernels.h"
#include "cpu/kernels_digits.h"
#include "cpu/kernels_tile.h"

namespace edge {
namespace {

#ifdef EDGE_BYTE_PRODUCTS

// Digits for int8 weights: chunks of columns in their order, and one start for the whole row.
float to_digits8(const float* x, int64_t n, int8_t* digits, int32_t* start) {
  float none = 0.0f;
  const float largest = largest_of(x, n, &none);
  const Vec factor = set1(largest > 0.0f ? kLargestInt / largest : 0.0f);
  const Ints offset = _mm512_set1_epi8(-128);  // 128, unsigned
  Ints sum[kDigits] = {zero_ints(), zero_ints(), zero_ints()};
  for (int64_t i = 0; i < n; i += kByteChunk, digits += kDigits * kByteChunk) {
    for (int64_t j = 0; j < kByteChunk; j += kLanes) {
      const int64_t left = n - i - j;
      const Vec v = left >= kLanes ? load(x + i + j) : left > 0 ? load_part(x + i + j, left) : set1(0.0f);
      Ints q = _mm512_cvtps_epi32(mul(v, factor));
      for (int64_t k = 0; k < kDigits; ++k)
        _mm_storeu_si128(reinterpret_cast<__m128i*>(digits + k * kByteChunk + j),
                         _mm512_cvtepi32_epi8(take_digit(q)));
    }
    for (int64_t k = 0; k < kDigits; ++k)
      sum[k] = add_byte_products(sum[k], offset, _mm512_loadu_si512(digits + k * kByteChunk));
  }
  for (int64_t k = 0; k < kDigits; ++k) store_ints(start + k * kLanes, sub_ints(zero_ints(), sum[k]));
  return largest / kLargestInt + none;
}

// One chunk of columns, `some` of them there, of OUT weight rows and the UPPER digits of ROWS activation
// rows.
template <int OUT, int ROWS, int UPPER>
inline void add_chunk(const int8_t* w, int64_t cols, __mmask64 some, const int8_t* digits, int64_t row_digits,
                      Ints (&sum)[OUT][ROWS][UPPER]) {
  const Ints offset = _mm512_set1_epi8(-128);
  Ints wide[OUT];
#pragma GCC unroll 16
  for (int o = 0; o < OUT; ++o)
    wide[o] = _mm512_xor_si512(offset, some == ~__mmask64{0} ? _mm512_loadu_si512(w + o * cols)
                                                             : _mm512_maskz_loadu_epi8(some, w + o * cols));
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
    for (int k = 0; k < UPPER; ++k) {
      const Ints digit = _mm512_loadu_si512(digits + r * row_digits + k * kByteChunk);
#pragma GCC unroll 16
      for (int o = 0; o < OUT; ++o) sum[o][r][k] = add_byte_products(sum[o][r][k], wide[o], digit);
    }
}

template <int UPPER>
inline Vec whole_sum(const Ints (&s)[UPPER]) {
  if constexpr (UPPER == 1) return mul(to_floats(s[0]), set1(65536.0f));
  if constexpr (UPPER == 2) return fma(to_floats(s[1]), set1(65536.0f), mul(to_floats(s[0]), set1(256.0f)));
  if constexpr (UPPER == 3)
    return add(fma(to_floats(s[2]), set1(65536.0f), mul(to_floats(s[1]), set1(256.0f))), to_floats(s[0]));
}

// OUT int8 weight rows x ROWS activation rows. Sums are of integers until a row is complete. `tile_rows`: of
// the tiles before this one.
template <int OUT, int ROWS, int UPPER>
inline void bytes_tile(const MatmulArgs& a, int64_t o0, int64_t r0, int tile_rows) {
  constexpr int64_t kSkipped = kDigits - UPPER;
  const DigitRows& x = *a.digits;
  const int8_t* w = static_cast<const int8_t*>(a.w) + o0 * a.cols;
  const int64_t row_digits = x.chunks * kDigits * kByteChunk, cols = a.cols;
  const int8_t* digits = x.digits + r0 * row_digits + kSkipped * kByteChunk;
  Ints sum[OUT][ROWS][UPPER];
#pragma GCC unroll 16
  for (int o = 0; o < OUT; ++o)
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
      for (int k = 0; k < UPPER; ++k)
        sum[o][r][k] = load_ints(x.start + ((r0 + r) * kDigits + kSkipped + k) * kDigitLanes);
  const int64_t whole = cols / kByteChunk * kByteChunk;
  int64_t i = 0;
  Ahead ahead(w, static_cast<const int8_t*>(a.w) + a.end * cols, a.next.data, kAheadBytes, r0, a.rows,
              tile_rows, whole / kByteChunk, OUT);
  for (; i < whole; i += kByteChunk, digits += kDigits * kByteChunk) {
    ahead.fetch<OUT>();
    add_chunk<OUT, ROWS, UPPER>(w + i, cols, ~__mmask64{0}, digits, row_digits, sum);
  }
  if (i < cols)
    add_chunk<OUT, ROWS, UPPER>(w + i, cols, (__mmask64{1} << (cols - i)) - 1, digits, row_digits, sum);
  const __m128 scale = _mm_maskz_loadu_ps((1 << OUT) - 1, a.scale + o0);
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r) {
    Vec total[OUT];
#pragma GCC unroll 16
    for (int o = 0; o < OUT; ++o) total[o] = whole_sum(sum[o][r]);
    put_sums(a, o0, r0 + r, total, _mm_mul_ps(_mm_set1_ps(x.scale[r0 + r]), scale));
  }
}

// OUT weight rows, one after the other, x one row of activations: the memory is the limit, and gives most
// where it is read in its own order.
template <int OUT, int UPPER>
inline void bytes_in_order(const MatmulArgs& a, int64_t o0) {
  constexpr int64_t kSkipped = kDigits - UPPER;
  const DigitRows& x = *a.digits;
  const int8_t* w = static_cast<const int8_t*>(a.w) + o0 * a.cols;
  const int64_t cols = a.cols, whole = cols / kByteChunk * kByteChunk;
  Ahead ahead(w, static_cast<const int8_t*>(a.w) + a.end * cols, a.next.data, kAheadBytes);
  Vec total[OUT];
#pragma GCC unroll 16
  for (int o = 0; o < OUT; ++o, w += cols) {
    Ints sum[1][1][UPPER];
#pragma GCC unroll 4
    for (int k = 0; k < UPPER; ++k) sum[0][0][k] = load_ints(x.start + (kSkipped + k) * kDigitLanes);
    const int8_t* digits = x.digits + kSkipped * kByteChunk;
    int64_t i = 0;
    for (; i < whole; i += kByteChunk, digits += kDigits * kByteChunk) {
      ahead.fetch<1>();
      add_chunk<1, 1, UPPER>(w + i, cols, ~__mmask64{0}, digits, 0, sum);
    }
    if (i < cols) add_chunk<1, 1, UPPER>(w + i, cols, (__mmask64{1} << (cols - i)) - 1, digits, 0, sum);
    total[o] = whole_sum(sum[0][0]);
  }
  const __m128 scale = _mm_maskz_loadu_ps((1 << OUT) - 1, a.scale + o0);
  put_sums(a, o0, 0, total, _mm_mul_ps(_mm_set1_ps(x.scale[0]), scale));
}

}  // namespace
}  // namespace edge

#include "cpu/kernels_digit_rows.h"

namespace edge {
namespace {

constexpr auto kToDigits8 = to_digits8;
constexpr auto kMatmulDigits8 = matmul_digits8;

#else

constexpr float (*kToDigits8)(const float*, int64_t, int8_t*, int32_t*) = nullptr;
constexpr void (*kMatmulDigits8)(const MatmulArgs&) = nullptr;

#endif

}  // namespace
}  // namespace edge
