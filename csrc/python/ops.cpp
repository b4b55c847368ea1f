// SPDX-License-Identifier: Apache-2.0
// Single kernels of a named instruction set on NumPy arrays. Tests only: shapes are checked, nothing is fast.
#include "python/ops.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>

#include "cpu/isa.h"
#include "decoder/cache.h"
#include "decoder/digits.h"
#include "decoder/panels.h"
#include "decoder/sampling.h"
#include "decoder/weights.h"

namespace py = pybind11;

namespace edge {
namespace {

using Floats = py::array_t<float, py::array::c_style>;
using Bytes = py::array_t<int8_t, py::array::c_style>;
using Nibbles = py::array_t<uint8_t, py::array::c_style>;
using Halves = py::array_t<uint16_t, py::array::c_style>;

void require(bool ok, const char* message) {
  if (!ok) throw std::invalid_argument(message);
}

Floats map(const Floats& x, void (*f)(float*, int64_t)) {
  Floats y(x.size());
  std::memcpy(y.mutable_data(), x.data(), static_cast<size_t>(x.nbytes()));
  f(y.mutable_data(), y.size());
  return y;
}

Floats layer_norm(const std::string& isa, const Floats& x, const Floats& weight, const Floats& bias,
                  float eps) {
  require(x.ndim() == 1 && weight.size() == x.size() && bias.size() == x.size(), "three vectors of one size");
  Floats y(x.size());
  kernels_for(isa).layer_norm(x.data(), weight.data(), bias.data(), y.mutable_data(), x.size(), eps);
  return y;
}

// w float32 or int8 [out, in] or int4 (uint8 [out, in / 2], scales as the bits of halves [out, in / 32]).
Matrix matrix_of(const py::array& w, const std::optional<py::array>& scale,
                 const std::optional<Floats>& bias) {
  const bool int4 = py::isinstance<Nibbles>(w);
  require(w.ndim() == 2, "w [out, in]");
  const int64_t out = w.shape(0);
  require(!bias || bias->size() == out, "bias [out]");
  Matrix m{.rows = out, .cols = w.shape(1) * (int4 ? 2 : 1)};
  if (bias) m.bias = bias->data();
  if (py::isinstance<Bytes>(w)) {
    require(scale && py::isinstance<Floats>(*scale) && scale->size() == out, "int8 weights need scale [out]");
    m.dtype = DType::i8;
    m.scale = static_cast<const float*>(scale->data());
  } else if (int4) {
    require(m.cols % kGroup4 == 0 && scale && py::isinstance<Halves>(*scale) &&
                scale->size() == out * (m.cols / kGroup4),
            "int4 weights need whole groups and scale [out, groups]");
    m.dtype = DType::i4;
    m.group_scale = static_cast<const uint16_t*>(scale->data());
  } else {
    require(py::isinstance<Floats>(w), "w must be C-contiguous float32, int8 or uint8");
  }
  m.data = w.data();
  return m;
}

// [rows, out], zeros without `start`.
Floats outputs(int64_t rows, int64_t out, const std::optional<Floats>& start) {
  Floats y({rows, out});
  std::memset(y.mutable_data(), 0, static_cast<size_t>(y.nbytes()));
  if (start) {
    require(start->ndim() == 2 && start->shape(0) == rows && start->shape(1) == out, "start [rows, out]");
    std::memcpy(y.mutable_data(), start->data(), static_cast<size_t>(y.nbytes()));
  }
  return y;
}

// x [rows, in], bias [out] or none, start [rows, out] to add to, or none. Of x in digits the `upper` ones
// count.
Floats matmul(const std::string& isa, const py::array& w, const std::optional<py::array>& scale,
              const Floats& x, const std::optional<Floats>& bias, const std::optional<Floats>& start,
              int64_t begin, int64_t end, bool digits, int64_t upper) {
  const Matrix m = matrix_of(w, scale, bias);
  require(x.ndim() == 2 && x.shape(1) == m.cols, "w and x with as many columns");
  require(0 <= begin && begin <= end && end <= m.rows, "0 <= begin <= end <= out");
  Floats y = outputs(x.shape(0), m.rows, start);
  const Kernels& kernels = kernels_for(isa);
  Digits rows(kernels, x.shape(0), m.cols);
  require(upper > 0 && upper <= kDigits, "upper 1 to 3");
  const DigitRows* rounded = digits ? rows.round(m, x.data(), x.shape(0)) : nullptr;
  DigitRows part = rounded ? *rounded : DigitRows{};
  part.upper = upper;
  m.multiply(kernels, x.data(), x.shape(0), y.mutable_data(), m.rows, begin, end, start.has_value(), {},
             rounded ? &part : nullptr);
  return y;
}

// The same product with the weights in panels; outputs of panels that end before `from` stay as they were.
Floats matmul_panels(const std::string& isa, const py::array& w, const std::optional<py::array>& scale,
                     const Floats& x, const std::optional<Floats>& bias, const std::optional<Floats>& start,
                     int64_t from, bool narrow) {
  Matrix m = matrix_of(w, scale, bias);
  m.narrow = narrow;
  require(x.ndim() == 2 && x.shape(1) == m.cols, "w and x with as many columns");
  require(0 <= from && from <= m.rows, "0 <= from <= out");
  const Kernels& kernels = kernels_for(isa);
  Panels panels(m, kernels);
  std::vector<std::byte> memory(static_cast<size_t>(panels.bytes()) + 64);
  const auto address = reinterpret_cast<uintptr_t>(memory.data());
  panels.place(memory.data() + (64 - address % 64) % 64);
  panels.pack(0, panels.count());
  PanelScratch scratch(x.shape(0), m.cols, kernels);
  Floats y = outputs(x.shape(0), m.rows, start);
  panels.multiply(x.data(), m.cols, x.shape(0), y.mutable_data(), m.rows, start.has_value(), scratch, from);
  return y;
}

// One head: q [rows, d], k and v [keys, d], bias [rows, keys] or none, counts [rows] of visible keys. Goes
// through a cache, block by block, as a decode step does. Returns the output [rows, d] and the attention
// [rows, keys].
py::tuple attend(const std::string& isa, const std::string& kv, const Floats& q, const Floats& k,
                 const Floats& v, const std::optional<Floats>& bias, const std::vector<int64_t>& counts) {
  require(q.ndim() == 2 && k.ndim() == 2 && v.ndim() == 2, "q [rows, d], k and v [keys, d]");
  const int64_t rows = q.shape(0), d = q.shape(1), keys = k.shape(0);
  require(rows > 0 && d > 0 && d <= 4096 && keys > 0 && k.shape(1) == d, "k [keys, d]");
  require(v.shape(0) == keys && v.shape(1) == d, "v [keys, d]");
  require(static_cast<int64_t>(counts.size()) == rows, "counts [rows]");
  for (const int64_t n : counts) require(n >= 1 && n <= keys, "1 <= counts <= keys");
  require(!bias || (bias->ndim() == 2 && bias->shape(0) == rows && bias->shape(1) == keys),
          "bias [rows, keys]");
  const Kernels& kernels = kernels_for(isa);
  DecoderSpec spec;
  spec.layers = spec.heads = 1;
  spec.hidden = spec.head_dim = d;
  spec.max_positions = keys;
  KvCache cache(spec,
                kv == "int8"   ? KvType::i8
                : kv == "fp16" ? KvType::f16
                               : KvType::f32,
                spec.max_positions);
  cache.store_keys(kernels, 0, 0, 0, k.data(), keys, d);
  cache.store_values(kernels, 0, 0, 0, v.data(), keys, d);

  const int64_t blocks = cache.capacity() / kKeyBlock;
  const auto size = [](int64_t n) { return static_cast<size_t>(n); };
  std::vector<float> padded(size(rows * cache.capacity())), m(size(rows * blocks)), l(m.size());
  std::vector<float> acc(m.size() * size(d)), p(padded.size()), factors(size(blocks));
  std::vector<const float*> biases(size(rows));
  std::vector<int64_t> visible(size(rows));
  for (int64_t r = 0; bias && r < rows; ++r)
    std::memcpy(padded.data() + r * cache.capacity(), bias->data() + r * keys, size(keys) * sizeof(float));
  for (int64_t b = 0; b < blocks; ++b) {
    for (int64_t r = 0; r < rows; ++r) {
      visible[size(r)] = std::clamp<int64_t>(counts[size(r)] - b * kKeyBlock, 0, kKeyBlock);
      biases[size(r)] = bias ? padded.data() + r * cache.capacity() + b * kKeyBlock : nullptr;
    }
    cache.attend(kernels, {.q = q.data(),
                           .k = cache.key_block(0, 0, b),
                           .v = cache.value_block(0, 0, b),
                           .bias = biases.data(),
                           .counts = visible.data(),
                           .m = m.data() + b,
                           .l = l.data() + b,
                           .acc = acc.data() + b * d,
                           .p = p.data() + b * kKeyBlock,
                           .rows = rows,
                           .head_dim = d,
                           .q_stride = d,
                           .stat_stride = blocks,
                           .acc_stride = blocks * d,
                           .p_stride = cache.capacity(),
                           .scale = 1.0f / std::sqrt(static_cast<float>(d))});
  }
  Floats out({rows, d}), mass({rows, keys});
  for (int64_t r = 0; r < rows; ++r) {
    kernels.attend_join(m.data() + r * blocks, l.data() + r * blocks, acc.data() + r * blocks * d, blocks, d,
                        factors.data(), out.mutable_data() + r * d);
    for (int64_t j = 0; j < keys; ++j)
      mass.mutable_data()[r * keys + j] = p[size(r * cache.capacity() + j)] * factors[size(j / kKeyBlock)];
  }
  return py::make_tuple(out, mass);
}

py::array_t<uint16_t> to_half(const std::string& isa, const Floats& x) {
  py::array_t<uint16_t> y(x.size());
  kernels_for(isa).to_half(x.data(), y.mutable_data(), x.size());
  return y;
}

// A group of keys [kKeyGroup, columns] of 32, 16 or 8 bits, as the cache lays it out: [columns, kKeyGroup].
template <class T, class Kernel>
py::array_t<T> turn_keys(const py::array_t<T, py::array::c_style>& rows, Kernel turn) {
  require(rows.ndim() == 2 && rows.shape(0) == kKeyGroup, "a group of keys");
  py::array_t<T> group({rows.shape(1), rows.shape(0)});
  turn(rows.data(), rows.shape(1), rows.shape(1), group.mutable_data());
  return group;
}

py::tuple choose(const std::string& isa, const Floats& logits, const std::vector<int32_t>& generated,
                 float repetition_penalty, const std::vector<int32_t>& suppressed, float temperature,
                 int64_t top_k, float top_p, uint64_t seed) {
  TokenChooser chooser(kernels_for(isa), logits.size(),
                       {repetition_penalty, temperature, top_k, top_p, seed, suppressed});
  for (const int32_t id : generated) {
    require(id >= 0 && id < logits.size(), "generated ids inside the vocabulary");
    chooser.generated(id);
  }
  const std::vector<Candidate> kept = chooser.candidates(logits.data());
  std::vector<int32_t> ids;
  std::vector<double> probabilities;
  for (const Candidate& c : kept) ids.push_back(c.id), probabilities.push_back(c.probability);
  const Choice choice = chooser.choose(logits.data());
  return py::make_tuple(choice.id, choice.logprob, ids, probabilities);
}

}  // namespace

void bind_ops(py::module_& m) {
  m.def("exp", [](const std::string& isa, const Floats& x) { return map(x, kernels_for(isa).exp); });
  m.def("gelu_tanh",
        [](const std::string& isa, const Floats& x) { return map(x, kernels_for(isa).gelu_tanh); });
  m.def("gelu_erf",
        [](const std::string& isa, const Floats& x) { return map(x, kernels_for(isa).gelu_erf); });
  m.def("layer_norm", &layer_norm);
  m.def("matmul", &matmul, py::arg("isa"), py::arg("w"), py::arg("scale"), py::arg("x"), py::arg("bias"),
        py::arg("start"), py::arg("begin"), py::arg("end"), py::arg("digits") = true,
        py::arg("upper") = kDigits);
  m.def("matmul_panels", &matmul_panels, py::arg("isa"), py::arg("w"), py::arg("scale"), py::arg("x"),
        py::arg("bias"), py::arg("start"), py::arg("from_row"), py::arg("narrow") = false);
  m.def("attend", &attend, py::arg("isa"), py::arg("kv"), py::arg("q"), py::arg("k"), py::arg("v"),
        py::arg("bias"), py::arg("counts"));
  m.def("to_half", &to_half);
  m.def("turn_words", [](const std::string& isa, const py::array_t<int32_t, py::array::c_style>& rows) {
    return turn_keys(rows, kernels_for(isa).turn_words);
  });
  m.def("turn_halves", [](const std::string& isa, const Halves& rows) {
    return turn_keys(rows, kernels_for(isa).turn_halves);
  });
  m.def("turn_bytes", [](const std::string& isa, const Bytes& rows) {
    return turn_keys(rows, kernels_for(isa).turn_bytes);
  });
  m.def("choose", &choose, py::arg("isa"), py::arg("logits"), py::arg("generated"),
        py::arg("repetition_penalty"), py::arg("suppressed"), py::arg("temperature"), py::arg("top_k"),
        py::arg("top_p"), py::arg("seed"));
  m.def("random", [](uint64_t seed, int n) {
    Random random(seed);
    std::vector<double> values;
    for (int i = 0; i < n; ++i) values.push_back(random.uniform());
    return values;
  });
}

}  // namespace edge
