// SPDX-License-Identifier: Apache-2.0
// Products with activations in digits (kernels_digits.h) where the processor multiplies signed bytes sixteen
// at a time: weights go in as they are, so that no sum has an offset to begin with.
#pragma once

#include <stdint.h>

#include "cpu/kernels.h"
#include "cpu/kernels_int4.h"
#include "cpu/kernels_tile.h"

namespace edge {
namespace {

constexpr float kLargestInt = 8355000.0f;  // 127 * (65536 + 256 + 1) and a little room
constexpr int64_t kDotBytes = 16;          // of an instruction

// The numbers of a row and how large a step is; not a number where one of x is not finite.
class Rounded {
 public:
  Rounded(const float* x, int64_t n) : x_(x), n_(n) {
    Vec top = set1(0.0f), unfit = set1(0.0f);
    for (int64_t i = 0; i < n; i += kLanes) {
      const Vec v = i + kLanes <= n ? load(x + i) : load_part(x + i, n - i);
      top = max(top, vabsq_f32(v));
      unfit = add(unfit, sub(v, v));
    }
    const float largest = hmax(top), none = hsum(unfit);
    step_ = largest / kLargestInt + none;
    factor_ = largest > 0.0f && none == 0.0f ? kLargestInt / largest : 0.0f;
  }
  float step() const { return step_; }
  // Of column i, 0 behind the last one, and where the step is not a number.
  int32_t at(int64_t i) const {
    return i < n_ && factor_ > 0.0f ? static_cast<int32_t>(__builtin_rintf(x_[i] * factor_)) : 0;
  }

 private:
  const float* x_;
  int64_t n_;
  float step_, factor_;
};

// The signed low byte, which is taken off and shifted out.
inline int8_t take_digit(int32_t& q) {
  const auto digit = static_cast<int8_t>(static_cast<uint32_t>(q) & 255u);
  q = (q - digit) >> 8;
  return digit;
}

float to_digits8(const float* x, int64_t n, int8_t* digits, int32_t*) {
  const Rounded row(x, n);
  for (int64_t i = 0; i < n; i += kByteChunk, digits += kDigits * kByteChunk)
    for (int64_t j = 0; j < kByteChunk; ++j) {
      int32_t q = row.at(i + j);
      for (int64_t k = 0; k < kDigits; ++k) digits[k * kByteChunk + j] = take_digit(q);
    }
  return row.step();
}

// In the order of an int4 group's bytes: byte 8a + 2j + e holds column 16a + 8e + j and, above, that + 4.
float to_digits(const float* x, int64_t n, int8_t* digits, int32_t*) {
  const Rounded row(x, n);
  for (int64_t first = 0; first < n; first += kDigitChunk, digits += kDigits * kDigitChunk)
    for (int64_t group = 0; group < kDigitChunk / kGroup4; ++group)
      for (int64_t byte = 0; byte < kGroupBytes; ++byte)
        for (int64_t half = 0; half < 2; ++half) {
          const int64_t column = byte / 8 * 16 + byte % 2 * 8 + byte % 8 / 2 + half * 4;
          int32_t q = row.at(first + group * kGroup4 + column);
          for (int64_t k = 0; k < kDigits; ++k)
            digits[(2 * k + half) * kDigitChunk / 2 + group * kGroupBytes + byte] = take_digit(q);
        }
  return row.step();
}

// Sums of the digits from the top one down, in steps of the row.
template <int UPPER>
inline float whole_sum(const Ints (&sum)[UPPER]) {
  int64_t whole = 0;
  for (int k = UPPER - 1; k >= 0; --k) whole = whole * 256 + vaddvq_s32(sum[k]);
  return static_cast<float>(whole << 8 * (kDigits - UPPER));
}

// OUT int8 weight rows x the UPPER digits of ROWS activation rows.
template <int OUT, int ROWS, int UPPER>
inline void bytes_tile(const MatmulArgs& a, int64_t o0, int64_t r0, int tile_rows) {
  const DigitRows& x = *a.digits;
  const int8_t* w = static_cast<const int8_t*>(a.w) + o0 * a.cols;
  const int64_t row_digits = x.chunks * kDigits * kByteChunk, cols = a.cols;
  const int8_t* digits = x.digits + r0 * row_digits + (kDigits - UPPER) * kByteChunk;
  Ints sum[OUT][ROWS][UPPER];
#pragma GCC unroll 16
  for (int o = 0; o < OUT; ++o)
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
      for (int k = 0; k < UPPER; ++k) sum[o][r][k] = zero_ints();
  // Sixteen columns, of which `some` are there.
  const auto step = [&](const int8_t* at, const int8_t* of, int64_t some) {
    Ints weight[OUT];
#pragma GCC unroll 16
    for (int o = 0; o < OUT; ++o) {
      int8_t rest[kDotBytes] = {};
      const int8_t* from = at + o * cols;
      for (int64_t i = 0; some < kDotBytes && i < some; ++i) rest[i] = from[i];
      weight[o] = vreinterpretq_s32_s8(vld1q_s8(some < kDotBytes ? rest : from));
    }
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
      for (int k = 0; k < UPPER; ++k) {
        const Ints digit = vreinterpretq_s32_s8(vld1q_s8(of + r * row_digits + k * kByteChunk));
#pragma GCC unroll 16
        for (int o = 0; o < OUT; ++o) sum[o][r][k] = add_byte_products(sum[o][r][k], weight[o], digit);
      }
  };
  const int64_t whole = cols / kByteChunk * kByteChunk;
  Ahead ahead(w, static_cast<const int8_t*>(a.w) + a.end * cols, a.next.data, kAheadBytes, r0, a.rows,
              tile_rows, whole / kByteChunk, OUT);
  int64_t i = 0;
  for (; i < whole; i += kByteChunk, digits += kDigits * kByteChunk) {
    ahead.fetch<OUT>();
#pragma GCC unroll 4
    for (int64_t j = 0; j < kByteChunk; j += kDotBytes) step(w + i + j, digits + j, kDotBytes);
  }
  for (; i < cols; i += kDotBytes, digits += kDotBytes)
    step(w + i, digits, cols - i < kDotBytes ? cols - i : kDotBytes);
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 16
    for (int o = 0; o < OUT; ++o)
      put_sum(a, o0 + o, r0 + r, whole_sum(sum[o][r]) * x.scale[r0 + r] * a.scale[o0 + o]);
}

template <int OUT, int UPPER>
inline void bytes_in_order(const MatmulArgs& a, int64_t o) {
  bytes_tile<OUT, 1, UPPER>(a, o, 0, 1);
}

}  // namespace
}  // namespace edge

#include "cpu/kernels_digit_rows.h"

namespace edge {
namespace {

// What the sums of a group's upper digits say, in steps of the row.
template <int UPPER>
inline Vec group_sum(const Ints (&sum)[UPPER]) {
  if constexpr (UPPER == 1) return mul(to_floats(sum[0]), set1(65536.0f));
  if constexpr (UPPER == 2) return mul(to_floats(vaddq_s32(vshlq_n_s32(sum[1], 8), sum[0])), set1(256.0f));
  if constexpr (UPPER == 3) {
    const Ints upper = vaddq_s32(vshlq_n_s32(sum[2], 8), sum[1]);
    return fma(to_floats(upper), set1(256.0f), to_floats(sum[0]));
  }
}

// OUT int4 weight rows x the UPPER digits of ROWS activation rows. Each sum takes the groups in order,
// whatever OUT and ROWS are.
template <int OUT, int ROWS, int UPPER>
inline void digits_tile(const MatmulArgs& a, int64_t o0, int64_t r0) {
  constexpr int kLowest = kDigits - UPPER;
  const DigitRows& x = *a.digits;
  const int64_t groups = a.cols / kGroup4, row_digits = x.chunks * kDigits * kDigitChunk;
  const uint8_t* w = static_cast<const uint8_t*>(a.w) + o0 * groups * kGroupBytes;
  const uint16_t* halves = a.group_scale + o0 * groups;
  const int8_t* digits = x.digits + r0 * row_digits;
  const int8x16_t table = vld1q_s8(kCode4);
  Vec sum[OUT][ROWS];
#pragma GCC unroll 16
  for (int o = 0; o < OUT; ++o)
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) sum[o][r] = set1(0.0f);
  GroupsAhead ahead(a, w, halves);
  for (int64_t first = 0; first < groups; first += kGroupRound) {
    const int64_t n = groups - first < kGroupRound ? groups - first : kGroupRound;
    if (r0 == 0) ahead.fetch<2 * OUT>(OUT * (first + n));
    float scales[OUT][kGroupRound];
#pragma GCC unroll 16
    for (int o = 0; o < OUT; ++o) load_scales(halves + o * groups + first, n, scales[o]);
    for (int64_t g = first; g < first + n; ++g) {
      const int8_t* of = digits + g / 4 * kDigits * kDigitChunk + g % 4 * kGroupBytes;
#pragma GCC unroll 16
      for (int o = 0; o < OUT; ++o) {
        const uint8x16_t packed = vld1q_u8(w + (o * groups + g) * kGroupBytes);
        const int8x16_t wide[2] = {look_up(vandq_u8(packed, vdupq_n_u8(15)), table),
                                   look_up(vshrq_n_u8(packed, 4), table)};
        const Vec scale = set1(scales[o][g - first]);
#pragma GCC unroll 16
        for (int r = 0; r < ROWS; ++r) {
          Ints part[UPPER];
#pragma GCC unroll 4
          for (int64_t k = 0; k < UPPER; ++k) {
            part[k] = zero_ints();
#pragma GCC unroll 2
            for (int64_t half = 0; half < 2; ++half)
              part[k] =
                  vdotq_s32(part[k], wide[half],
                            vld1q_s8(of + r * row_digits + (2 * (kLowest + k) + half) * kDigitChunk / 2));
          }
          sum[o][r] = fma(scale, group_sum(part), sum[o][r]);
        }
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 16
    for (int o = 0; o < OUT; ++o) put_sum(a, o0 + o, r0 + r, hsum(sum[o][r]) * (x.scale[r0 + r] / 128.0f));
}

template <int OUT, int UPPER>
inline void digits_rows(const MatmulArgs& a, int64_t o) {
  int64_t r = 0;
  for (; r + 2 <= a.rows; r += 2) digits_tile<OUT, 2, UPPER>(a, o, r);
  if (r < a.rows) digits_tile<OUT, 1, UPPER>(a, o, r);
}

template <int UPPER>
void matmul_upper_digits(const MatmulArgs& a) {
  int64_t o = a.begin;
  for (; o + kSoloOut <= a.end; o += kSoloOut) digits_rows<kSoloOut, UPPER>(a, o);
  for (; o < a.end; ++o) digits_rows<1, UPPER>(a, o);
}

void matmul_digits(const MatmulArgs& a) {
  with_upper(a, [&](auto upper) { matmul_upper_digits<decltype(upper)::value>(a); });
}

constexpr auto kToDigits = to_digits;
constexpr auto kMatmulDigits = matmul_digits;
constexpr auto kToDigits8 = to_digits8;
constexpr auto kMatmulDigits8 = matmul_digits8;

}  // namespace
}  // namespace edge
