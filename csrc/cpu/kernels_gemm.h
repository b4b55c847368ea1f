// SPDX-License-Identifier: Apache-2.0
// Products of many rows at once (the prefill), bound by arithmetic and not by reading the weights. Weights
// are laid out in panels first: kGemmOuts outputs side by side, so that one broadcast of an activation serves
// all of them and no sum is ever taken across a vector.
//
// Quantized weights are multiplied as 16-bit integers, two columns per instruction, with activations of as
// many levels as keep every sum inside 32 bits: sums are exact, in any order. On processors without dot
// product instructions this is as fast as bytes would be (a byte product needs two instructions for the same
// sums), and an activation has about 14 bits instead of 8. Where the bundle says that 8 bits will do, narrow
// products sum four columns per instruction on processors that can: in half the time.
#pragma once

#include <float.h>
#include <stdint.h>

#include "cpu/kernels.h"
#include "cpu/kernels_int4.h"

namespace edge {
namespace {

constexpr int kGemmVecs = 2;  // vectors of outputs per panel
constexpr int kGemmOuts = kGemmVecs * kLanes;
// Columns between two visits of a tile's sums: a panel of so many stays in the first cache.
template <class T>
constexpr int64_t kGemmDepth = sizeof(T) == 1 ? 768 : 384;

// The same lines of the columns that are visited next, or of the next panel: panels come from the third
// cache, faster than the processor fetches them by itself.
template <class T>
inline void fetch_next(const T* w, int64_t count) {
  constexpr int64_t kBytes = kGemmDepth<T> * kGemmOuts * static_cast<int64_t>(sizeof(T));
  for (int64_t i = 0; i < count * static_cast<int64_t>(sizeof(T)); i += kLine) fetch_behind(w, kBytes + i);
}

// A tile fills all registers: inside another function the compiler would spill a sum.
#define EDGE_APART __attribute__((noinline))

// One tile: ROWS rows x one panel, columns [from, to) of all. `sums` [ROWS][kGemmOuts] holds what earlier
// columns gave.
template <int ROWS>
EDGE_APART void gemm_sums(const int16_t* x, int64_t stride, const int16_t* panel, int64_t from, int64_t to,
                          int32_t* sums) {
  Ints sum[ROWS][kGemmVecs];
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 16
    for (int v = 0; v < kGemmVecs; ++v)
      sum[r][v] = from ? load_ints(sums + r * kGemmOuts + v * kLanes) : zero_ints();
  const int16_t* w = panel + from * kGemmOuts;
  for (int64_t k = from; k < to; k += 2, w += 2 * kGemmOuts) {
    fetch_next(w, 2 * kGemmOuts);
    Ints weight[kGemmVecs];
#pragma GCC unroll 16
    for (int v = 0; v < kGemmVecs; ++v) weight[v] = load_pairs(w + 2 * v * kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) {
      const Ints pair = set1_pair(x + r * stride + k);
#pragma GCC unroll 16
      for (int v = 0; v < kGemmVecs; ++v) sum[r][v] = add_products(sum[r][v], weight[v], pair);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 16
    for (int v = 0; v < kGemmVecs; ++v) store_ints(sums + r * kGemmOuts + v * kLanes, sum[r][v]);
}

#ifdef EDGE_BYTE_PRODUCTS
typedef int8_t Narrow;  // of a panel: kPanelZero more than the weight
constexpr uint32_t kPanelZeros = 0x01010101u * static_cast<uint32_t>(kPanelZero);

template <int ROWS>
EDGE_APART void gemm_sums(const int8_t* x, int64_t stride, const int8_t* panel, int64_t from, int64_t to,
                          int32_t* sums) {
  Ints sum[ROWS][kGemmVecs];
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 16
    for (int v = 0; v < kGemmVecs; ++v)
      sum[r][v] = from ? load_ints(sums + r * kGemmOuts + v * kLanes) : zero_ints();
  const int8_t* w = panel + from * kGemmOuts;
  for (int64_t k = from; k < to; k += 4, w += 4 * kGemmOuts) {
    fetch_next(w, 4 * kGemmOuts);
    Ints weight[kGemmVecs];
#pragma GCC unroll 16
    for (int v = 0; v < kGemmVecs; ++v)
      weight[v] = load_ints(reinterpret_cast<const int32_t*>(w + 4 * v * kLanes));
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) {
      int32_t four;
      __builtin_memcpy(&four, x + r * stride + k, sizeof four);
      const Ints row = set1_int(four);
#pragma GCC unroll 16
      for (int v = 0; v < kGemmVecs; ++v) sum[r][v] = add_byte_products(sum[r][v], weight[v], row);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 16
    for (int v = 0; v < kGemmVecs; ++v) store_ints(sums + r * kGemmOuts + v * kLanes, sum[r][v]);
}
#else
typedef int16_t Narrow;
constexpr uint32_t kPanelZeros = 0;
#endif

template <int ROWS>
EDGE_APART void gemm_sums(const float* x, int64_t stride, const float* panel, int64_t from, int64_t to,
                          float* sums) {
  Vec sum[ROWS][kGemmVecs];
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 16
    for (int v = 0; v < kGemmVecs; ++v)
      sum[r][v] = from ? load(sums + r * kGemmOuts + v * kLanes) : set1(0.0f);
  const float* w = panel + from * kGemmOuts;
  for (int64_t k = from; k < to; ++k, w += kGemmOuts) {
    fetch_next(w, kGemmOuts);
    Vec weight[kGemmVecs];
#pragma GCC unroll 16
    for (int v = 0; v < kGemmVecs; ++v) weight[v] = load(w + v * kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) {
      const Vec row = set1(x[r * stride + k]);
#pragma GCC unroll 16
      for (int v = 0; v < kGemmVecs; ++v) sum[r][v] = fma(weight[v], row, sum[r][v]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 16
    for (int v = 0; v < kGemmVecs; ++v) store(sums + r * kGemmOuts + v * kLanes, sum[r][v]);
}

template <class T, class S, int ROWS>
inline void gemm_rows(const GemmArgs& a, int64_t row, int64_t rows, int64_t from, int64_t to, S* sums) {
  if (rows == ROWS) {
    const T* x = static_cast<const T*>(a.x) + row * a.x_stride;
    gemm_sums<ROWS>(x, a.x_stride, static_cast<const T*>(a.panel), from, to, sums + row * kGemmOuts);
  } else if constexpr (ROWS > 1) {
    gemm_rows<T, S, ROWS - 1>(a, row, rows, from, to, sums);
  }
}

template <class T>
inline Vec scaled_sum(const GemmArgs& a, int64_t row, int v, const int32_t* sums) {
  Ints sum = load_ints(sums + v * kLanes);
#ifdef EDGE_BYTE_PRODUCTS
  // sum of (w + kPanelZero) x, less what that and the row's zero have added
  if constexpr (sizeof(T) == 1)
    sum = sub_ints(sub_ints(sum, set1_int(kPanelZero * a.x_sum[row])),
                   mul_ints(set1_int(a.x_zero[row]), load_ints(a.w_sum + v * kLanes)));
#endif
  return mul(to_floats(sum), mul(set1(a.x_scale[row]), load(a.scale + v * kLanes)));
}
template <class T>
inline Vec scaled_sum(const GemmArgs&, int64_t, int v, const float* sums) {
  return load(sums + v * kLanes);
}

// What becomes of the sums of one row.
template <class T, class S>
inline void gemm_finish(const GemmArgs& a, int64_t row, const S* sums) {
  float* y = a.y + row * a.y_stride;
  Vec out[kGemmVecs];
#pragma GCC unroll 16
  for (int v = 0; v < kGemmVecs; ++v) out[v] = add(scaled_sum<T>(a, row, v, sums), load(a.bias + v * kLanes));
  if (a.outs < kGemmOuts) {
    float some[kGemmOuts];
    for (int v = 0; v < kGemmVecs; ++v) store(some + v * kLanes, out[v]);
    for (int64_t o = 0; o < a.outs; ++o) y[o] = a.accumulate ? y[o] + some[o] : some[o];
    return;
  }
#pragma GCC unroll 16
  for (int v = 0; v < kGemmVecs; ++v)
    store(y + v * kLanes, a.accumulate ? add(load(y + v * kLanes), out[v]) : out[v]);
}

// The lines of y that a tile ends in: they lie far apart, and its sums would wait for them.
inline void fetch_ends(const GemmArgs& a, int64_t row, int64_t rows) {
  for (int64_t r = row; r < row + rows; ++r)
    for (int64_t o = 0; o < a.outs; o += kLine / 4) __builtin_prefetch(a.y + r * a.y_stride + o, 1);
}

// One panel of outputs for all rows. Each sum takes its columns in order, whatever the number of rows.
template <class T, class S>
void gemm(const GemmArgs& a) {
  S* sums = static_cast<S*>(a.sums);
  for (int64_t from = 0; from < a.cols; from += kGemmDepth<T>) {
    const int64_t to = from + kGemmDepth<T> < a.cols ? from + kGemmDepth<T> : a.cols;
    const bool last = to == a.cols;
    for (int64_t r = 0; r < a.rows; r += kGemmRows) {
      const int64_t n = a.rows - r < kGemmRows ? a.rows - r : kGemmRows;
      if (last) fetch_ends(a, r, n);
      gemm_rows<T, S, kGemmRows>(a, r, n, from, to, sums);
      for (int64_t i = r; last && i < r + n; ++i) gemm_finish<T, S>(a, i, sums + i * kGemmOuts);
    }
  }
}

// Scales and biases of a panel; outputs that it does not have are zeros.
inline void pack_ends(const PackArgs& a, int64_t o, float scale) {
  a.panel_scale[o] = scale;
  a.panel_bias[o] = a.bias && o < a.outs ? a.bias[o] : 0.0f;
}

// Column by column, so that a panel is written in order.
void pack_f32(const PackArgs& a) {
  float* panel = static_cast<float*>(a.panel);
  const float* w = static_cast<const float*>(a.w);
  for (int64_t k = 0; k < a.panel_cols; ++k, panel += kGemmOuts) {
    for (int64_t o = 0; o < a.outs; ++o) panel[o] = w[o * a.cols + k];
    for (int64_t o = a.outs; o < kGemmOuts; ++o) panel[o] = 0.0f;
  }
  for (int64_t o = 0; o < kGemmOuts; ++o) pack_ends(a, o, 1.0f);
}

// Columns that are laid out for one output after the other: a line of its weights is read in one go. Column
// by column, the lines of all outputs would push each other out of the first cache.
constexpr int64_t kPackCols = 64;
// How far ahead of that a row is fetched, in columns: then the next panel's row.
constexpr int64_t kPackAhead = 512;

// WIDTH columns of a panel's integers as one number of 32 bits.
template <int WIDTH>
inline uint32_t columns_of(const int8_t* w, int64_t count) {
  uint32_t all = 0;
  if (WIDTH == 4 && count >= WIDTH) {
    __builtin_memcpy(&all, w, sizeof all);
    return all;
  }
  for (int i = 0; i < WIDTH; ++i) {
    const int32_t one = i < count ? w[i] : 0;
    all |= (static_cast<uint32_t>(one) & (UINT32_MAX >> (32 - 32 / WIDTH))) << (i * 32 / WIDTH);
  }
  return all;
}

#ifdef EDGE_WORD_SQUARES
// kPackCols columns of kLanes outputs: squares of numbers, each turned in registers. To `sums`, where they
// are asked for, the numbers of each output are added.
template <int WIDTH>
inline void pack_squares(const int8_t* w, int64_t cols, uint32_t flip, uint32_t* out,
                         [[maybe_unused]] int32_t* sums) {
#pragma GCC unroll 4
  for (int64_t k = 0; k < kPackCols; k += WIDTH * kLanes, out += kLanes * kGemmOuts) {
    Ints square[kLanes];
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) {
      const int8_t* row = w + i * cols + k;
      square[i] = WIDTH == 2 ? widen_pairs(row) : load_ints(reinterpret_cast<const int32_t*>(row));
    }
    turn(square);
#ifdef EDGE_BYTE_PRODUCTS
    if (WIDTH == 4) {
      Ints sum = load_ints(sums);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) sum = add_byte_products(sum, set1_int(0x01010101), square[i]);
      store_ints(sums, sum);
    }
#endif
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i)
      store_ints(reinterpret_cast<int32_t*>(out + i * kGemmOuts), xor_ints(square[i], flip));
  }
}
#endif

// int8 weights as they are, with the bits of `flip` turned. Bytes are added up for each output.
template <int WIDTH>
inline void pack_whole(const PackArgs& a, uint32_t flip) {
  if (WIDTH == 4)
    for (int64_t o = 0; o < kGemmOuts; ++o) a.panel_sum[o] = 0;
  uint32_t* panel = static_cast<uint32_t*>(a.panel);
  const int8_t* w = static_cast<const int8_t*>(a.w);
  for (int64_t from = 0; from < a.panel_cols; from += kPackCols) {
    const int64_t to = from + kPackCols < a.panel_cols ? from + kPackCols : a.panel_cols;
    const int64_t ahead = from + kPackAhead;
    for (int64_t o = 0; o < kGemmOuts; ++o)
      fetch_behind(w, o * a.cols + ahead + (ahead < a.cols ? 0 : (kGemmOuts - 1) * a.cols));
    int64_t packed = 0;
#ifdef EDGE_WORD_SQUARES
    for (; from + kPackCols <= a.cols && packed + kLanes <= a.outs; packed += kLanes)
      pack_squares<WIDTH>(w + packed * a.cols + from, a.cols, flip, panel + from / WIDTH * kGemmOuts + packed,
                          a.panel_sum + packed);
#endif
    for (int64_t o = packed; o < kGemmOuts; ++o) {
      uint32_t* out = panel + from / WIDTH * kGemmOuts + o;
      const int8_t* row = w + (o < a.outs ? o : 0) * a.cols;
      for (int64_t i = from; WIDTH == 4 && o < a.outs && i < to && i < a.cols; ++i) a.panel_sum[o] += row[i];
      int64_t k = from;
      for (; o < a.outs && k + WIDTH <= to && k + WIDTH <= a.cols; k += WIDTH, out += kGemmOuts)
        *out = columns_of<WIDTH>(row + k, WIDTH) ^ flip;
      for (; k < to; k += WIDTH, out += kGemmOuts)
        *out = columns_of<WIDTH>(row + k, o < a.outs ? a.cols - k : 0) ^ flip;
    }
  }
  for (int64_t o = 0; o < kGemmOuts; ++o) pack_ends(a, o, o < a.outs ? a.scale[o] : 0.0f);
}

void pack_i8(const PackArgs& a) { pack_whole<2>(a, 0); }

// One group of int4 weights, each looked up, to WIDTH columns per number; returns the sum of bytes.
template <int WIDTH>
inline int32_t put_group(const uint8_t* w, const int16_t* table, uint32_t* out) {
#ifdef EDGE_BYTE_PRODUCTS
  if constexpr (WIDTH == 4) {
    uint32_t words[kGroup4 / 4];
    const int32_t sum = look_up_group(w, table, words);
    for (const uint32_t word : words) *out = word, out += kGemmOuts;
    return sum;
  }
#endif
  for (int first = 0; first < 16; first += 8)
    for (int odd = 0; odd < 2; ++odd)
      for (int shift = 0; shift < 8; shift += 4)
        for (int j = 0; j < 4; j += WIDTH, out += kGemmOuts) {
          uint32_t all = 0;
          for (int i = 0; i < WIDTH; ++i) {
            const int32_t one = table[w[first + 2 * (j + i) + odd] >> shift & 15];
            all |= (static_cast<uint32_t>(one) & (UINT32_MAX >> (32 - 32 / WIDTH))) << (i * 32 / WIDTH);
          }
          *out = all;
        }
  return 0;
}

// A row of int4 weights has many scales: it is rounded anew, to integers with one scale, of which the largest
// that the row's scales allow is `levels`. In a group there are only sixteen, so each is rounded once.
template <int WIDTH>
inline void pack_rounded(const PackArgs& a) {
  uint32_t* panel = static_cast<uint32_t*>(a.panel);
  const int64_t groups = a.cols / kGroup4;
  constexpr uint32_t kZero = WIDTH == 4 ? kPanelZeros : 0u;
  alignas(64) float codes[16];
  for (int i = 0; i < 16; ++i) codes[i] = static_cast<float>(kCode4[i]) / 128.0f;
  for (int64_t o = 0; o < kGemmOuts; ++o) {
    const int64_t cols = o < a.outs ? a.cols : 0;
    for (int64_t k = cols; k < a.panel_cols; k += WIDTH) panel[k / WIDTH * kGemmOuts + o] = kZero;
    pack_ends(a, o, 0.0f);
    a.panel_sum[o] = 0;
    if (o >= a.outs) continue;
    const uint8_t* w = static_cast<const uint8_t*>(a.w) + o * groups * kGroupBytes;
    const uint16_t* halves = a.group_scale + o * groups;
    float scales[kGroupRound], largest = 0.0f;
    const auto each = [&](auto group) {
      for (int64_t g = 0; g < groups; ++g) {
        if (g % kGroupRound == 0)
          load_scales(halves + g, groups - g < kGroupRound ? groups - g : kGroupRound, scales);
        group(g, scales[g % kGroupRound]);
      }
    };
    each([&](int64_t, float scale) {
      const float size = __builtin_fabsf(scale);
      largest = size > largest ? size : largest;
    });
    largest *= -codes[0];
    if (!(largest >= 1e-30f)) {  // all are zeros
      for (int64_t k = 0; k < cols; k += WIDTH) panel[k / WIDTH * kGemmOuts + o] = kZero;
      continue;
    }
    const float steps = a.levels / largest;
    int32_t sum = 0;
    each([&](int64_t g, float scale) {
      alignas(64) int16_t table[16];
      for (int i = 0; i < 16; i += kLanes)
        store_int16(table + i, mul(mul(load(codes + i), set1(scale)), set1(steps)));
      sum += put_group<WIDTH>(w + g * kGroupBytes, table, panel + g * kGroup4 / WIDTH * kGemmOuts + o);
    });
    a.panel_scale[o] = largest / a.levels;
    a.panel_sum[o] = sum;
  }
}

void pack_i4(const PackArgs& a) { pack_rounded<2>(a); }

#ifdef EDGE_BYTE_PRODUCTS
void pack_narrow_i8(const PackArgs& a) { pack_whole<4>(a, kPanelZeros); }
void pack_narrow_i4(const PackArgs& a) { pack_rounded<4>(a); }
#else
void pack_narrow_i8(const PackArgs& a) { pack_i8(a); }
void pack_narrow_i4(const PackArgs& a) { pack_rounded<2>(a); }
#endif

// y = round(x * levels / max |x|), to even, and zeros up to `padded`; returns the scale that undoes it, which
// is not a number where one of x is not finite.
float to_int16_row(const float* x, int16_t* y, int64_t n, int64_t padded, float levels) {
  const Vec zero = set1(0.0f);
  Vec top = zero, rest = zero;
  int64_t i = 0;
  const auto look = [&](Vec v) {
    top = max(top, max(v, sub(zero, v)));
    rest = fma(v, zero, rest);
  };
  for (; i + kLanes <= n; i += kLanes) look(load(x + i));
  if (i < n) look(load_part(x + i, n - i));
  const float largest = hmax(top), finite = hsum(rest);
  // Below this the quotient would overflow; all is zero then.
  const bool none = largest < 1e-30f || finite != 0.0f;
  const Vec steps = set1(none ? 0.0f : levels / largest);
  for (i = 0; !none && i + kLanes <= n; i += kLanes) store_int16(y + i, mul(load(x + i), steps));
  if (!none && i < n) {
    int16_t last[kLanes];
    store_int16(last, mul(load_part(x + i, n - i), steps));
    for (int64_t j = 0; i < n; ++i, ++j) y[i] = last[j];
  }
  for (; i < padded; ++i) y[i] = 0;
  return finite != 0.0f ? finite : none ? 0.0f : largest / levels;
}

inline void store_narrow(int8_t* p, Vec v) { store_int8(p, v); }
inline void store_narrow(int16_t* p, Vec v) { store_int16(p, v); }

// 256 levels between the least and the largest of x and 0, both of them among them.
NarrowRow to_narrow_row(const float* x, void* out, int64_t n, int64_t padded) {
  Narrow* y = static_cast<Narrow*>(out);
  const Vec none = set1(0.0f);
  Vec low = none, high = none, rest = none;
  int64_t i = 0;
  const auto look = [&](Vec v) {
    low = min(low, v);
    high = max(high, v);
    rest = fma(v, none, rest);
  };
  for (; i + kLanes <= n; i += kLanes) look(load(x + i));
  if (i < n) look(load_part(x + i, n - i));
  const float top = hmax(high), least = -hmax(sub(none, low)), finite = hsum(rest);
  const float range = top - least;
  // Below this the quotient would overflow; all is zero then. Above the largest float the scale would not do.
  const bool bad = finite != 0.0f || !(range <= FLT_MAX);
  const bool tiny = range < 1e-30f;
  const float steps = bad || tiny ? 0.0f : 255.0f / range;
  const float zero = __builtin_rintf(-least * steps) - 128.0f;
  // Bytes keep their zero, for the product's end to take off; wider numbers are less it already.
  const float shift = sizeof(Narrow) == 1 ? 0.0f : zero;
  const Vec first = set1(-128.0f - shift), last = set1(127.0f - shift);
  const Vec origin = set1(zero - shift), step = set1(steps);
  const auto narrow = [&](Vec v) { return max(first, min(last, add(round_near(mul(v, step)), origin))); };
  Vec sum = none;
  for (i = 0; i + kLanes <= n; i += kLanes) {
    const Vec v = narrow(load(x + i));
    sum = add(sum, v);
    store_narrow(y + i, v);
  }
  float rest_sum = 0.0f;
  if (i < n) {
    float last_part[kLanes];
    Narrow stored[kLanes];
    const Vec v = narrow(load_part(x + i, n - i));
    store(last_part, v);
    store_narrow(stored, v);
    for (int64_t j = 0; i < n; ++i, ++j) y[i] = stored[j], rest_sum += last_part[j];
  }
  for (; i < padded; ++i) y[i] = 0;
  if (bad) return {__builtin_nanf(""), 0, 0};
  if (tiny) return {0.0f, 0, 0};
  return {range / 255.0f, static_cast<int32_t>(zero), static_cast<int32_t>(hsum(sum) + rest_sum)};
}

#undef EDGE_APART

}  // namespace
}  // namespace edge
