// SPDX-License-Identifier: Apache-2.0
// The kernel table: what each instruction set implements. Kernels are pure: no checks, no allocation, no
// threads; the caller has checked every shape. Only fixed-size types here: files built with wide instruction
// flags include this header and must not instantiate library code that the linker could share.
#pragma once

#include <stdint.h>

namespace edge {

// Keys of one attention task. Blocks start at multiples of it whatever the number of threads or rows, so the
// order in which a softmax is summed never changes.
inline constexpr int64_t kKeyBlock = 128;
// Keys are cached in groups, transposed inside a group ([head_dim][kKeyGroup]): scores of a group then come
// out as whole vectors, without a horizontal sum per key.
inline constexpr int64_t kKeyGroup = 16;

// int4 weights come in groups of this many columns, 16 bytes each, with one half-precision scale: a weight is
// scale * kCode4[nibble] / 128. Columns are spread over the bytes so that the widening needs no permutation:
// byte 8a + 2j + e of a group holds column 16a + 8e + j in its low and 16a + 8e + 4 + j in its high nibble
// (a, e: 0 or 1, j: 0 to 3).
inline constexpr int64_t kGroup4 = 32;
// Levels that fit bell-shaped weights: least squared error over groups of 32 normal values, each with its
// best scale. They lie closer together near zero, and more of them are positive, so a scale may be negative.
inline constexpr int8_t kCode4[16] = {-127, -98, -78, -62, -48, -36, -23, -11,
                                      1,    12,  24,  37,  50,  65,  83,  105};

// What the caller reads after the present call: fetched while that ends, so that memory never waits for a
// processor. Null: nothing is known.
struct NextRead {
  const void* data = nullptr;
  const uint16_t* group_scale = nullptr;  // of int4 weights
};

// Rows of activations as integers of 24 bits in three signed digits of 8; see kernels_digits.h.
inline constexpr int kDigits = 3;
inline constexpr int64_t kDigitChunk = 128;  // columns; what is missing of the last chunk is zero
inline constexpr int64_t kDigitLanes = 16;   // sums that a digit's products are spread over
struct DigitRows {
  const int8_t* digits;  // [rows, chunks, kDigits, kDigitChunk]; for int8 weights kByteChunk
  const int32_t* start;  // [rows, chunks, kDigits, kDigitLanes], where the sums begin; for int8 one chunk's
  const float* scale;    // [rows]
  int64_t chunks;
  int64_t upper = kDigits;  // so many of the digits count, from the top
};
inline constexpr int64_t kByteChunk = 64;

// y[r, o] = scale[o] * sum_k w[o, k] x[r, k] + bias[o], for o in [begin, end) and r in [0, rows).
// The order of every sum depends on `cols` alone, neither on the range nor on the number of rows.
struct MatmulArgs {
  const void* w;                // [*, cols] row-major, float, int8 or int4
  const float* scale;           // [*] for int8, else null
  const uint16_t* group_scale;  // [*, cols / kGroup4] halves for int4, else null
  const float* bias;            // [*] or null
  const float* x;               // [rows, cols], row stride x_stride
  float* y;                     // [rows, *], row stride y_stride
  int64_t cols, begin, end, rows, x_stride, y_stride;
  bool accumulate;                    // y += instead of y =
  NextRead next = {};                 // behind the rows of this range
  const DigitRows* digits = nullptr;  // x for matmul_digits
};

// One head, one block of at most kKeyBlock keys, `rows` queries:
// score[j] = scale * q.k[j] + bias[j]; m = max score; p[j] = exp(score[j] - m); l = sum p; acc = sum p[j]
// v[j].
struct AttendArgs {
  const float* q;  // row r at q + r * q_stride, [head_dim]
  // Float, half or int8; int8 blocks are whole, and the scales of their keys follow: [kKeyBlock] floats.
  const void* k;             // [groups][head_dim][kKeyGroup]
  const void* v;             // [keys][head_dim]
  const float* const* bias;  // per row: [kKeyBlock] readable floats, or null for none
  const int64_t* counts;     // per row: visible keys of the block, 0 to kKeyBlock
  float* m;                  // row r at m + r * stat_stride
  float* l;
  float* acc;  // row r at acc + r * acc_stride, [head_dim]
  float* p;    // row r at p + r * p_stride, [kKeyBlock], or null
  int64_t rows, head_dim, q_stride, stat_stride, acc_stride, p_stride;
  float scale;
  const void* next = nullptr;  // keys of the block that the caller reads next, or null
};

// One panel of weights (gemm_outs outputs, see kernels_gemm.h) times many rows:
// y[r, o] = x_scale[r] * scale[o] * sum_k w[o, k] x[r, k] + bias[o], for o in [0, outs) and r in [0, rows).
struct GemmArgs {
  // [rows, cols], row stride x_stride: float, int16 with one scale per row, or narrow (see to_narrow)
  const void* x;
  const float* x_scale;   // [rows] unless float
  const int32_t* x_zero;  // [rows] for bytes: the number that stands for 0
  const int32_t* x_sum;   // [rows] for bytes
  const int32_t* w_sum;   // [gemm_outs] for bytes: sums of the weights
  const void* panel;      // float [cols][gemm_outs], int16 [cols / 2][gemm_outs][2], or bytes in fours
  const float* scale;     // [gemm_outs] unless float
  const float* bias;      // [gemm_outs]
  float* y;               // row stride y_stride
  void* sums;             // [rows][gemm_outs] floats or int32: working space
  int64_t cols, rows, outs, x_stride, y_stride;
  bool accumulate;  // y += instead of y =
};

// Lays up to gemm_outs rows of weights [outs, cols] out as a panel of `panel_cols` columns.
struct PackArgs {
  const void* w;
  const float* scale;           // [outs] for int8
  const uint16_t* group_scale;  // [outs, cols / kGroup4] for int4
  const float* bias;            // [outs] or null
  void* panel;
  float* panel_scale;  // [gemm_outs]
  float* panel_bias;   // [gemm_outs]
  int32_t* panel_sum;  // [gemm_outs] sums of the integers of each output
  int64_t cols, panel_cols, outs;
  float levels;  // of int4: the largest integer in the panel
};

// Many rows of one head: row r sees the keys [0, first_key + r], each score with its key's bias; see
// kernels_flash.h.
struct FlashArgs {
  const float* q;     // row r at q + r * q_stride, [head_dim]
  const float* k;     // blocks of kKeyBlock keys, [groups][head_dim][kKeyGroup] each
  const float* v;     // blocks of kKeyBlock keys, [kKeyBlock][head_dim] each
  const float* bias;  // whole blocks of keys, or null
  float* out;         // row r at out + r * out_stride, [head_dim]
  int64_t rows, head_dim, first_key, block_stride, q_stride, out_stride;
  float scale;
};

// Keys and values of kKeyBlock rows of one head in 16-bit integers, with a scale per row. A row of queries or
// keys has as many levels as keep the sum of its products inside 32 bits; so have the values and what they
// count.
constexpr int64_t flash_pairs(int64_t head_dim) { return (head_dim + 1) / 2; }
constexpr int64_t flash_dims(int64_t head_dim) { return (head_dim + kKeyGroup - 1) / kKeyGroup * kKeyGroup; }
inline constexpr int64_t kValueLevels = 1023, kWeightLevels = 16383;
static_assert(kKeyBlock * kValueLevels * kWeightLevels <= INT32_MAX);
struct Flash16Block {
  Flash16Block(void* memory, int64_t head_dim)
      : k(static_cast<int16_t*>(memory)),
        v(k + kKeyBlock * 2 * flash_pairs(head_dim)),
        key_scale(static_cast<float*>(static_cast<void*>(v + kKeyBlock * flash_dims(head_dim)))),
        value_scale(key_scale + kKeyBlock) {}
  static constexpr int64_t bytes(int64_t head_dim) {
    return kKeyBlock * (4 * flash_pairs(head_dim) + 2 * flash_dims(head_dim) + 8);
  }

  int16_t* k;          // [groups][flash_pairs][kKeyGroup][2]
  int16_t* v;          // [kKeyBlock / 2][flash_dims][2]
  float* key_scale;    // [kKeyBlock]
  float* value_scale;  // [kKeyBlock]
};

// Many rows of one head in 16-bit integers: row r sees the keys [0, first_key + r]; see kernels_flash16.h.
inline constexpr int64_t kFlashRowsAtMost = 48;
struct Flash16Args {
  const int16_t* q;      // [rows][flash_pairs][2]
  const float* q_scale;  // [rows], with the factor on the scores in it
  void* blocks;          // Flash16Blocks, one every block_stride bytes
  const float* bias;     // whole blocks of keys, or null
  float* sums;           // [rows][flash_dims]: working space
  float* out;            // row r at out + r * out_stride, [head_dim]
  int64_t rows, head_dim, first_key, block_stride, out_stride;
};

// A row in 8 bits: x = (number - zero) * scale.
struct NarrowRow {
  float scale;
  int32_t zero, sum;  // sum: of the numbers
};

// Columns of a narrow product at most: its sums stay inside 32 bits, those of a row inside a float's 24.
inline constexpr int64_t kMostNarrowCols = 32768;

struct Kernels {
  const char* name;
  bool quick_bytes;  // int8 weights are widened as fast as a memory delivers them
  void (*matmul_f32)(const MatmulArgs&);
  void (*matmul_i8)(const MatmulArgs&);
  void (*matmul_i4)(const MatmulArgs&);
  // int4 and int8 weights with activations in digits: where there are products of bytes, else null. What
  // writes the digits (of whole groups for int4) returns the scale, which is not a number where one of x is
  // not finite.
  float (*to_digits)(const float* x, int64_t n, int8_t* digits, int32_t* start);
  void (*matmul_digits)(const MatmulArgs&);
  float (*to_digits8)(const float* x, int64_t n, int8_t* digits, int32_t* start);
  void (*matmul_digits8)(const MatmulArgs&);
  // Outputs per panel of a product of many rows.
  int64_t gemm_outs;
  void (*pack_f32)(const PackArgs&);
  void (*pack_i8)(const PackArgs&);
  void (*pack_i4)(const PackArgs&);
  void (*gemm_f32)(const GemmArgs&);
  void (*gemm_i16)(const GemmArgs&);
  float (*to_int16)(const float* x, int16_t* y, int64_t n, int64_t padded, float levels);
  // Products of activations with 8 bits, their range taken row by row, and weights of at most 127 levels.
  // Where an instruction sums four products of bytes, rows and panels are bytes; elsewhere both are int16,
  // rows less their zero, and the products those of gemm_i16. The integers, and so the results, are the same.
  int64_t narrow_bytes;
  void (*pack_narrow_i8)(const PackArgs&);
  void (*pack_narrow_i4)(const PackArgs&);
  void (*gemm_narrow)(const GemmArgs&);
  // Zeros up to `padded`. Where one of x is not finite the scale is not a number.
  NarrowRow (*to_narrow)(const float* x, void* y, int64_t n, int64_t padded);
  // y = (x - mean) / sqrt(var + eps) * weight + bias over n values
  void (*layer_norm)(const float* x, const float* weight, const float* bias, float* y, int64_t n, float eps);
  void (*gelu_tanh)(float* x, int64_t n);
  void (*gelu_erf)(float* x, int64_t n);
  void (*exp)(float* x, int64_t n);
  float (*max)(const float* x, int64_t n);
  // sum of exp(x[i] - shift)
  float (*sum_exp)(const float* x, int64_t n, float shift);
  void (*attend_f32)(const AttendArgs&);
  void (*attend_f16)(const AttendArgs&);
  void (*attend_i8)(const AttendArgs&);
  void (*flash)(const FlashArgs&);
  void (*flash16)(const Flash16Args&);
  // Joins the partial results of `blocks` blocks of one row and head, in block order: out = sum_b f[b] acc[b]
  // with f[b] = exp(m[b] - max m) / sum_b' exp(m[b'] - max m) l[b'].
  void (*attend_join)(const float* m, const float* l, const float* acc, int64_t blocks, int64_t head_dim,
                      float* factors, float* out);
  // group[d * kKeyGroup + key] = rows[key * stride + d] for kKeyGroup rows of `columns` words, halves or
  // bytes.
  void (*turn_words)(const int32_t* rows, int64_t stride, int64_t columns, int32_t* group);
  void (*turn_halves)(const uint16_t* rows, int64_t stride, int64_t columns, uint16_t* group);
  void (*turn_bytes)(const int8_t* rows, int64_t stride, int64_t columns, int8_t* group);
  // Rounds to nearest even; values beyond the range of a half become its largest finite number. What is not a
  // number may become one, here and in to_int8: whoever stores keys and values has looked for it.
  void (*to_half)(const float* x, uint16_t* y, int64_t n);
  // y = round(x * 127 / max |x|), to even; returns the scale that undoes it.
  float (*to_int8)(const float* x, int8_t* y, int64_t n);
  // out[i] += scale * w[i] (embedding rows)
  void (*add_f32)(const void* w, float scale, float* out, int64_t n);
  void (*add_i8)(const void* w, float scale, float* out, int64_t n);
  void (*add_i4)(const void* w, const uint16_t* group_scale, float* out, int64_t n);
  // out[i] += factor * x[i] (evidence)
  void (*axpy)(const float* x, float factor, float* out, int64_t n);
  // The integer products of a prefill and nothing else, `rounds` times so many; returns how many in all.
  int64_t (*multiply_only)(int64_t rounds);
};

const Kernels& kernels_generic();
const Kernels& kernels_avx2();
const Kernels& kernels_avx512();
const Kernels& kernels_avx512vnni();
const Kernels& kernels_neon();
const Kernels& kernels_neondot();

}  // namespace edge
