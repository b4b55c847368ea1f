// SPDX-License-Identifier: Apache-2.0
// int4 weights in groups of kGroup4 columns with a scale each. Widening costs more here than memory does, so
// it is done once for all rows of a tile, and the scale is applied to the sum of a group, not to each weight.
#pragma once

#include <stdint.h>

#include "cpu/kernels.h"
#include "cpu/kernels_tile.h"

namespace edge {
namespace {

struct Int4 {};
template <class W>
constexpr bool kIsInt4 = false;
template <>
constexpr bool kIsInt4<Int4> = true;

constexpr int64_t kGroupBytes = kGroup4 / 2;
constexpr int kGroupVecs4 = static_cast<int>(kGroup4) / kLanes;
// Groups per round: their scales are widened together.
constexpr int64_t kGroupRound = 8;
static_assert(kGroupRound * kGroupBytes % kLine == 0);

// The scales of `n` groups, at most kGroupRound.
inline void load_scales(const uint16_t* p, int64_t n, float* out) {
  if (n < kGroupRound) {
    uint16_t rest[kGroupRound] = {};
    for (int64_t i = 0; i < n; ++i) rest[i] = p[i];
    widen_scales(rest, out);
  } else {
    widen_scales(p, out);
  }
}

// OUT weight rows x ROWS activation rows, `n` groups from column k on. Each sum takes the groups in order,
// and the columns of a group in one order, whatever OUT and ROWS are.
template <int OUT, int ROWS>
inline void int4_round(const MatmulArgs& a, const uint8_t* w, const uint16_t* scale, const float* x,
                       int64_t n, Vec (&sum)[OUT][ROWS]) {
  const int64_t groups = a.cols / kGroup4;
  alignas(64) float scales[OUT][kGroupRound];
#pragma GCC unroll 16
  for (int o = 0; o < OUT; ++o) load_scales(scale + o * groups, n, scales[o]);
  for (int64_t g = 0; g < n; ++g) {
#ifdef EDGE_LOOSE_GROUPS
    Vec in[ROWS][kGroupVecs4];
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) loose_group(x + r * a.x_stride + g * kGroup4, in[r]);
#endif
#pragma GCC unroll 16
    for (int o = 0; o < OUT; ++o) {
      Vec wide[kGroupVecs4], part[ROWS];
      const uint8_t* packed = w + (o * groups + g) * kGroupBytes;
#ifdef EDGE_LOOSE_GROUPS
      widen_loose(packed, wide);
#else
      widen_group(packed, wide);
#endif
#pragma GCC unroll 16
      for (int c = 0; c < kGroupVecs4; ++c)
#pragma GCC unroll 16
        for (int r = 0; r < ROWS; ++r) {
#ifdef EDGE_LOOSE_GROUPS
          const Vec columns = in[r][c];
#else
          const Vec columns = load(x + r * a.x_stride + g * kGroup4 + c * kLanes);
#endif
          part[r] = c == 0 ? mul(wide[c], columns) : fma(wide[c], columns, part[r]);
        }
      const Vec s = set1(scales[o][g]);
#pragma GCC unroll 16
      for (int r = 0; r < ROWS; ++r) sum[o][r] = fma(s, part[r], sum[o][r]);
    }
  }
}

// What a tile of int4 rows fetches: weights ahead of it, and the scales that go with them.
class GroupsAhead {
 public:
  GroupsAhead(const MatmulArgs& a, const uint8_t* w, const uint16_t* scale)
      : weights_(w, static_cast<const uint8_t*>(a.w) + a.end * (a.cols / kGroup4) * kGroupBytes, a.next.data,
                 kAheadBytes),
        scales_(scale, a.group_scale + a.end * (a.cols / kGroup4), a.next.group_scale,
                kAheadBytes / kGroupBytes * 2) {}

  // As of Ahead, for the tile of activation rows from r0 on.
  GroupsAhead(const MatmulArgs& a, const uint8_t* w, const uint16_t* scale, int64_t r0, int tile_rows,
              int64_t rounds, int lines)
      : GroupsAhead(a, w, scale) {
    weights_ = Ahead(w, static_cast<const uint8_t*>(a.w) + a.end * (a.cols / kGroup4) * kGroupBytes,
                     a.next.data, kAheadBytes, r0, a.rows, tile_rows, rounds, lines);
    if (r0 > 0) scale_lines_ = INT64_MAX / kLine;  // the first tile does
  }

  // LINES of weights; `groups` are done, all rows of the tile together, when these are.
  template <int LINES>
  void fetch(int64_t groups) {
    weights_.fetch<LINES>();
    for (; scale_lines_ * kLine < groups * 2; ++scale_lines_) scales_.fetch<1>();
  }

 private:
  Ahead weights_, scales_;
  int64_t scale_lines_ = 0;
};

template <int OUT, int ROWS>
inline void int4_tile(const MatmulArgs& a, int64_t o0, int64_t r0) {
  constexpr int kLines = static_cast<int>(kGroupRound * kGroupBytes / kLine) * OUT;
  const int64_t groups = a.cols / kGroup4;
  const uint8_t* w = static_cast<const uint8_t*>(a.w) + o0 * groups * kGroupBytes;
  const uint16_t* scale = a.group_scale + o0 * groups;
  const float* x = a.x + r0 * a.x_stride;
  Vec sum[OUT][ROWS];
#pragma GCC unroll 16
  for (int o = 0; o < OUT; ++o)
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) sum[o][r] = set1(0.0f);
  GroupsAhead ahead(a, w, scale);
  for (int64_t g = 0; g < groups; g += kGroupRound) {
    const int64_t n = groups - g < kGroupRound ? groups - g : kGroupRound;
    if (r0 == 0) ahead.fetch<kLines>(OUT * (g + n));
    int4_round<OUT, ROWS>(a, w + g * kGroupBytes, scale + g, x + g * kGroup4, n, sum);
  }
#pragma GCC unroll 16
  for (int o = 0; o < OUT; ++o)
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) put_sum(a, o0 + o, r0 + r, hsum(sum[o][r]));
}

// out += one row of n columns (embeddings).
void add_int4_row(const void* w, const uint16_t* group_scale, float* out, int64_t n) {
  const uint8_t* p = static_cast<const uint8_t*>(w);
  for (int64_t g = 0; g < n / kGroup4; ++g) {
    float scales[kGroupRound];
    load_scales(group_scale + g, 1, scales);
    const Vec s = set1(scales[0]);
    Vec wide[kGroupVecs4];
    widen_group(p + g * kGroupBytes, wide);
#pragma GCC unroll 16
    for (int c = 0; c < kGroupVecs4; ++c) {
      float* to = out + g * kGroup4 + c * kLanes;
      store(to, add(mul(wide[c], s), load(to)));
    }
  }
}

}  // namespace
}  // namespace edge
