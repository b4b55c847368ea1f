// SPDX-License-Identifier: Apache-2.0
// Vector type of the 64-bit Arm levels: four floats, 32 registers.
#pragma once

#include <arm_neon.h>
#include <stdint.h>

#include "cpu/kernels.h"

namespace edge {
namespace {

typedef float32x4_t Vec;
constexpr int kLanes = 4;
#ifdef __ARM_FEATURE_DOTPROD
constexpr bool kQuickBytes = true;
#else
constexpr bool kQuickBytes = false;
#endif
constexpr int kRowTile = 4;   // queries that share one pass over cached keys and values
constexpr int kSoloOut = 4;   // weight rows per pass for one or two activation rows
constexpr int kTileOut = 4;   // and for more
constexpr int kTileRows = 5;  // of which so many at a time
constexpr int kTileOut4 = 1;  // weight rows of int4, of four activation rows

inline Vec load(const float* p) { return vld1q_f32(p); }
inline int16x8_t load_words(const int8_t* p) {
  int32_t four;
  __builtin_memcpy(&four, p, sizeof four);
  return vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(four)));
}
inline Vec load(const int8_t* p) { return vcvtq_f32_s32(vmovl_s16(vget_low_s16(load_words(p)))); }
inline Vec load(const uint16_t* p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
inline void store(float* p, Vec v) { vst1q_f32(p, v); }
inline Vec in_register(Vec v) {
  __asm__("" : "+w"(v));
  return v;
}
inline Vec set1(float x) { return vdupq_n_f32(x); }
inline Vec add(Vec a, Vec b) { return vaddq_f32(a, b); }
inline Vec sub(Vec a, Vec b) { return vsubq_f32(a, b); }
inline Vec mul(Vec a, Vec b) { return vmulq_f32(a, b); }
inline Vec div(Vec a, Vec b) { return vdivq_f32(a, b); }
inline Vec fma(Vec a, Vec b, Vec c) { return vfmaq_f32(c, a, b); }
// The second argument where one is not a number, as on other processors; FMAX would keep either.
inline Vec max(Vec a, Vec b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
inline Vec min(Vec a, Vec b) { return vbslq_f32(vcltq_f32(a, b), a, b); }
// 0 where x < limit, else v
inline Vec zero_lt(Vec v, Vec x, Vec limit) {
  return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(v), vcltq_f32(x, limit)));
}
inline Vec round_near(Vec x) { return vrndnq_f32(x); }
// 2^n for integral n in [-126, 127]
inline Vec times_pow2(Vec v, Vec n) {
  return mul(v, vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtnq_s32_f32(n), vdupq_n_s32(127)), 23)));
}
inline float hsum(Vec v) {
  const float32x2_t half = vadd_f32(vget_low_f32(v), vget_high_f32(v));
  return vget_lane_f32(half, 0) + vget_lane_f32(half, 1);
}
inline float hmax(Vec v) {
  const Vec half = max(v, vextq_f32(v, v, 2));
  const float a = vgetq_lane_f32(half, 0), b = vgetq_lane_f32(half, 1);
  return a > b ? a : b;
}
// Rounded to even; in range, or NaN, which becomes the lowest number.
inline void store_int8(int8_t* p, Vec v) {
  const int32x4_t whole = vbslq_s32(vceqq_f32(v, v), vcvtnq_s32_f32(v), vdupq_n_s32(INT32_MIN));
  const int16x4_t words = vqmovn_s32(whole);
  const int8x8_t bytes = vqmovn_s16(vcombine_s16(words, words));
  vst1_lane_s32(reinterpret_cast<int32_t*>(p), vreinterpret_s32_s8(bytes), 0);
}
inline void store_half(uint16_t* p, Vec v) {
  const Vec limit = set1(65504.0f);
  const Vec inside = max(sub(set1(0.0f), limit), min(limit, v));  // in this order NaN stays NaN
  vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(inside)));
}

// Four 32-bit sums, or as many pairs of 16-bit numbers or fours of bytes.
typedef int32x4_t Ints;
constexpr int kGemmRows = 8;                    // rows per tile of a product of many rows
constexpr int kFlashRows = 6, kFlashSums = 24;  // and of attention; its sums in registers
inline Ints zero_ints() { return vdupq_n_s32(0); }
inline Ints load_ints(const int32_t* p) { return vld1q_s32(p); }
inline void store_ints(int32_t* p, Ints v) { vst1q_s32(p, v); }
inline Ints load_pairs(const int16_t* p) { return vreinterpretq_s32_s16(vld1q_s16(p)); }
inline Ints set1_pair(const int16_t* p) {
  int32_t pair;
  __builtin_memcpy(&pair, p, sizeof pair);
  return vdupq_n_s32(pair);
}
inline Ints add_products(Ints sum, Ints a, Ints b) {
  const int16x8_t x = vreinterpretq_s16_s32(a), y = vreinterpretq_s16_s32(b);
  return vaddq_s32(sum, vpaddq_s32(vmull_s16(vget_low_s16(x), vget_low_s16(y)), vmull_high_s16(x, y)));
}
inline Vec to_floats(Ints v) { return vcvtq_f32_s32(v); }
inline Ints set1_int(int32_t x) { return vdupq_n_s32(x); }
inline Ints sub_ints(Ints a, Ints b) { return vsubq_s32(a, b); }
inline Ints mul_ints(Ints a, Ints b) { return vmulq_s32(a, b); }
// Rounded to even; in range.
inline void store_int16(int16_t* p, Vec v) { vst1_s16(p, vqmovn_s32(vcvtnq_s32_f32(v))); }

// The numbers of sixteen nibbles.
inline int8x16_t look_up(uint8x16_t nibbles, int8x16_t table) { return vqtbl1q_s8(table, nibbles); }
// Of a group's two looked-up halves, in column order: of every eight bytes the even ones, then the odd ones,
// of each the low nibbles and then the high ones.
struct GroupWords {
  int8x8_t even_low, even_high, odd_low, odd_high;
};
inline GroupWords look_up_words(const uint8_t* p, int8x16_t table) {
  const uint8x16_t bytes = vld1q_u8(p);
  const int8x16_t low = look_up(vandq_u8(bytes, vdupq_n_u8(15)), table);
  const int8x16_t high = look_up(vshrq_n_u8(bytes, 4), table);
  return {vget_low_s8(vuzp1q_s8(low, low)), vget_low_s8(vuzp1q_s8(high, high)),
          vget_low_s8(vuzp2q_s8(low, low)), vget_low_s8(vuzp2q_s8(high, high))};
}

// The weights of one int4 group without their scale, in column order.
inline void widen_group(const uint8_t* p, Vec (&w)[8]) {
  const GroupWords words = look_up_words(p, vld1q_s8(kCode4));
  const auto widen = [&](int8x8_t eight, int at) {
    const int16x8_t wide = vmovl_s8(eight);
    w[at] = vcvtq_n_f32_s32(vmovl_s16(vget_low_s16(wide)), 7);  // 1 / 128
    w[at + 4] = vcvtq_n_f32_s32(vmovl_high_s16(wide), 7);
  };
  widen(words.even_low, 0);
  widen(words.even_high, 1);
  widen(words.odd_low, 2);
  widen(words.odd_high, 3);
}
inline void widen_scales(const uint16_t* p, float* out) {
  for (int i = 0; i < 8; i += kLanes) store(out + i, load(p + i));
}

#ifdef __ARM_FEATURE_DOTPROD
#define EDGE_BYTE_PRODUCTS 1
// What is added to the weights of a panel: nothing, they are signed.
constexpr int32_t kPanelZero = 0;
// Four products each, of signed bytes.
inline Ints add_byte_products(Ints sum, Ints a, Ints b) {
  return vdotq_s32(sum, vreinterpretq_s8_s32(a), vreinterpretq_s8_s32(b));
}
// The numbers of one int4 group, four columns to a word; returns their sum.
inline int32_t look_up_group(const uint8_t* p, const int16_t* table, uint32_t* words) {
  const int8x16_t numbers = vcombine_s8(vmovn_s16(vld1q_s16(table)), vmovn_s16(vld1q_s16(table + 8)));
  const GroupWords of = look_up_words(p, numbers);
  int32_t sum = 0;
  const auto put = [&](int8x8_t eight, int at) {
    const uint32x2_t two = vreinterpret_u32_s8(eight);
    words[at] = vget_lane_u32(two, 0);
    words[at + 4] = vget_lane_u32(two, 1);
    sum += vaddlv_s8(eight);
  };
  put(of.even_low, 0);
  put(of.even_high, 1);
  put(of.odd_low, 2);
  put(of.odd_high, 3);
  return sum;
}
#endif

}  // namespace
}  // namespace edge
