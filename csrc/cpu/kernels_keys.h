// SPDX-License-Identifier: Apache-2.0
// A group of keys as it is cached: its columns side by side, see kKeyGroup. Written key by key, each of the
// group's lines would be touched sixteen times.
#pragma once

#include <stdint.h>

#include "cpu/kernels.h"

namespace edge {
namespace {

// Columns [from, columns) of kKeyGroup rows, `stride` elements apart, one by one. Words may be floats.
template <class T>
inline void turn_columns(const T* rows, int64_t stride, int64_t from, int64_t columns, T* group) {
  for (int64_t d = from; d < columns; ++d)
    for (int64_t key = 0; key < kKeyGroup; ++key)
      __builtin_memcpy(group + d * kKeyGroup + key, rows + key * stride + d, sizeof(T));
}

#ifdef EDGE_WORD_SQUARES
static_assert(kKeyGroup % kLanes == 0);

// kLanes words of kLanes rows, `stride` words apart, turned.
inline void load_turned(const int32_t* rows, int64_t stride, Ints (&square)[kLanes]) {
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) square[i] = load_ints(rows + i * stride);
  turn(square);
}

void turn_words(const int32_t* rows, int64_t stride, int64_t columns, int32_t* group) {
  const int64_t whole = columns - columns % kLanes;
  for (int64_t key = 0; key < kKeyGroup; key += kLanes)
    for (int64_t d = 0; d < whole; d += kLanes) {
      Ints square[kLanes];
      load_turned(rows + key * stride + d, stride, square);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) store_ints(group + (d + i) * kKeyGroup + key, square[i]);
    }
  turn_columns(rows, stride, whole, columns, group);
}
#else
void turn_words(const int32_t* rows, int64_t stride, int64_t columns, int32_t* group) {
  turn_columns(rows, stride, 0, columns, group);
}
#endif

// Halves and bytes: words of several columns are turned, and then taken apart. Rows whose words begin
// anywhere else than at a word go one by one.
template <class T>
void turn_parts(const T* rows, int64_t stride, int64_t columns, T* group) {
  int64_t whole = 0;
#ifdef EDGE_WORD_PARTS
  constexpr int64_t kParts = 4 / sizeof(T), kAtOnce = kParts * kLanes;
  if (stride % kParts == 0) {
    whole = columns - columns % kAtOnce;
    for (int64_t d = 0; d < whole; d += kAtOnce) {
      Ints square[kLanes];
      load_turned(reinterpret_cast<const int32_t*>(rows + d), stride / kParts, square);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) store_parts(group + (d + i * kParts) * kKeyGroup, square[i]);
    }
  }
#endif
  turn_columns(rows, stride, whole, columns, group);
}

}  // namespace
}  // namespace edge
