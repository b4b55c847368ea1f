// SPDX-License-Identifier: Apache-2.0
// Row operations over the vector type of the including file: exp, norm, activation, reductions, conversions.
#pragma once

#include <stdint.h>

#include "cpu/kernels.h"

namespace edge {
namespace {

// The last n < kLanes elements of a row, the missing lanes zero; never reads beyond the row.
template <class T>
inline Vec load_part(const T* p, int64_t n) {
  T buffer[kLanes] = {};
  for (int64_t i = 0; i < n; ++i) buffer[i] = p[i];
  return load(buffer);
}

inline void store_part(float* p, Vec v, int64_t n) {
  float buffer[kLanes];
  store(buffer, v);
  for (int64_t i = 0; i < n; ++i) p[i] = buffer[i];
}

// exp with a relative error below 2e-7; exactly 0 below -87.3, capped at exp(88), NaN stays NaN (max and min
// return their second argument then).
// x = n ln 2 + r with |r| <= ln 2 / 2; ln 2 in two parts so that r keeps its bits; then a polynomial for
// exp(r) (Cephes' coefficients).
inline Vec exp_vec(Vec x) {
  const Vec lowest = set1(-87.3f);
  const Vec c = min(set1(88.0f), max(lowest, x));
  const Vec n = round_near(mul(c, set1(1.44269504088896341f)));
  Vec r = fma(n, set1(-0.693359375f), c);
  r = fma(n, set1(2.12194440e-4f), r);
  Vec p = set1(1.9875691500e-4f);
  p = fma(p, r, set1(1.3981999507e-3f));
  p = fma(p, r, set1(8.3334519073e-3f));
  p = fma(p, r, set1(4.1665795894e-2f));
  p = fma(p, r, set1(1.6666665459e-1f));
  p = fma(p, r, set1(5.0000001201e-1f));
  p = fma(mul(r, r), p, r);
  return zero_lt(times_pow2(add(p, set1(1.0f)), n), x, lowest);
}

// Applies f to n floats in place.
template <class F>
inline void map_row(float* x, int64_t n, F f) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(x + i, f(load(x + i)));
  if (i < n) store_part(x + i, f(load_part(x + i, n - i)), n - i);
}

void exp_row(float* x, int64_t n) {
  map_row(x, n, [](Vec v) { return exp_vec(v); });
}

// 0.5 x (1 + tanh u) = x / (1 + exp(-2u)): the same function without the cancellation near tanh u = -1.
void gelu_tanh_row(float* x, int64_t n) {
  map_row(x, n, [](Vec v) {
    const Vec cube = mul(mul(v, v), v);
    const Vec u = mul(set1(0.79788456080286536f), fma(set1(0.044715f), cube, v));
    return div(v, add(set1(1.0f), exp_vec(mul(set1(-2.0f), u))));
  });
}

// x / 2 erfc(-x / sqrt 2) = max(x, 0) - |x| / 2 erfc(|x| / sqrt 2), and the logarithm of erfc on [0, 5.2] is
// a polynomial, fitted so that erfc is off by less than 2e-8; there it is 2e-13. The result is off by less
// than 1e-7 of x, and near zero by 3e-7 of itself.
void gelu_erf_row(float* x, int64_t n) {
  map_row(x, n, [](Vec v) {
    const Vec zero = set1(0.0f), size = max(v, sub(zero, v));
    const Vec t = min(set1(5.2f), mul(size, set1(0.70710678118654752f)));
    Vec p = set1(3.388659252e-6f);
    p = fma(p, t, set1(-5.833860268e-5f));
    p = fma(p, t, set1(3.934728156e-4f));
    p = fma(p, t, set1(-1.168038230e-3f));
    p = fma(p, t, set1(-4.189693136e-4f));
    p = fma(p, t, set1(1.952904649e-2f));
    p = fma(p, t, set1(-1.029070914e-1f));
    p = fma(p, t, set1(-6.365988255e-1f));
    p = fma(p, t, set1(-1.128380179f));
    return sub(max(v, zero), mul(mul(size, set1(0.5f)), exp_vec(mul(p, t))));
  });
}

float max_row(const float* x, int64_t n) {
  if (n < kLanes) {
    float m = x[0];
    for (int64_t i = 1; i < n; ++i) m = x[i] > m ? x[i] : m;
    return m;
  }
  Vec m = load(x);
  for (int64_t i = kLanes; i + kLanes <= n; i += kLanes) m = max(m, load(x + i));
  return hmax(max(m, load(x + n - kLanes)));
}

float sum_exp_row(const float* x, int64_t n, float shift) {
  const Vec s = set1(shift);
  Vec sum = set1(0.0f);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) sum = add(sum, exp_vec(sub(load(x + i), s)));
  float total = hsum(sum);
  if (i < n) {
    float rest[kLanes];
    store(rest, exp_vec(sub(load_part(x + i, n - i), s)));
    for (int64_t j = 0; j < n - i; ++j) total += rest[j];
  }
  return total;
}

// Mean first, then the deviations from it. The rounded mean is off by up to half a unit in its last place,
// which matters where the mean is large against the spread: the mean of the deviations takes that out again.
void layer_norm_row(const float* x, const float* weight, const float* bias, float* y, int64_t n, float eps) {
  const int64_t whole = n - n % kLanes;
  const float count = static_cast<float>(n);
  Vec sum = set1(0.0f);
  for (int64_t i = 0; i < whole; i += kLanes) sum = add(sum, load(x + i));
  float total = hsum(sum);
  for (int64_t i = whole; i < n; ++i) total += x[i];
  const float mean = total / count;
  const Vec mean_v = set1(mean);
  Vec firsts = set1(0.0f), squares = set1(0.0f);
  for (int64_t i = 0; i < whole; i += kLanes) {
    const Vec d = sub(load(x + i), mean_v);
    firsts = add(firsts, d);
    squares = fma(d, d, squares);
  }
  float first = hsum(firsts), square = hsum(squares);
  for (int64_t i = whole; i < n; ++i) {
    const float d = x[i] - mean;
    first += d;
    square += d * d;
  }
  const float rest = first / count, variance = square / count - rest * rest;
  const float inverse = 1.0f / __builtin_sqrtf((variance > 0.0f ? variance : 0.0f) + eps);
  const Vec rest_v = set1(rest), inverse_v = set1(inverse);
  for (int64_t i = 0; i < whole; i += kLanes) {
    const Vec d = sub(sub(load(x + i), mean_v), rest_v);
    store(y + i, fma(mul(d, inverse_v), load(weight + i), load(bias + i)));
  }
  for (int64_t i = whole; i < n; ++i) y[i] = (x[i] - mean - rest) * inverse * weight[i] + bias[i];
}

void to_half_row(const float* x, uint16_t* y, int64_t n) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store_half(y + i, load(x + i));
  if (i == n) return;
  uint16_t rest[kLanes];
  store_half(rest, load_part(x + i, n - i));
  for (int64_t j = 0; i < n; ++i, ++j) y[i] = rest[j];
}

float to_int8_row(const float* x, int8_t* y, int64_t n) {
  const Vec zero = set1(0.0f);
  Vec top = zero;
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) top = max(top, max(load(x + i), sub(zero, load(x + i))));
  if (i < n) top = max(top, max(load_part(x + i, n - i), sub(zero, load_part(x + i, n - i))));
  const float largest = hmax(top);
  // Below this the quotient would overflow; all is zero then.
  const bool tiny = largest < 1e-30f;
  const Vec steps = set1(tiny ? 0.0f : 127.0f / largest);
  for (i = 0; i + kLanes <= n; i += kLanes) store_int8(y + i, mul(load(x + i), steps));
  if (i < n) {
    int8_t rest[kLanes];
    store_int8(rest, mul(load_part(x + i, n - i), steps));
    for (int64_t j = 0; i < n; ++i, ++j) y[i] = rest[j];
  }
  return tiny ? 0.0f : largest / 127.0f;
}

template <class T>
void add_row(const void* w, float scale, float* out, int64_t n) {
  const T* row = static_cast<const T*>(w);
  const Vec s = set1(scale);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(out + i, add(mul(load(row + i), s), load(out + i)));
  for (; i < n; ++i) out[i] += static_cast<float>(row[i]) * scale;
}

void axpy_row(const float* x, float factor, float* out, int64_t n) {
  const Vec f = set1(factor);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(out + i, fma(load(x + i), f, load(out + i)));
  for (; i < n; ++i) out[i] += x[i] * factor;
}

}  // namespace
}  // namespace edge
