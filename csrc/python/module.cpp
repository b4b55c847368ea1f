// SPDX-License-Identifier: Apache-2.0
// Python bindings of the decoding kernel: conversions and lifetime only.
#include <pybind11/functional.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <concepts>
#include <limits>
#include <map>
#include <optional>
#include <tuple>

#include "cpu/isa.h"
#include "cpu/multiply_rate.h"
#include "cpu/read_bandwidth.h"
#include "cuda/decoder.h"
#include "decoder/decoder.h"
#include "decoder/draft.h"
#include "python/device.h"
#include "python/ops.h"

namespace py = pybind11;

namespace edge {
namespace {

using FloatArray = py::array_t<float, py::array::c_style | py::array::forcecast>;
using IdArray = py::array_t<int32_t, py::array::c_style>;
using SharedFloats = py::array_t<float, py::array::c_style>;

std::map<std::string, SpecValue> spec_values(const py::dict& dict) {
  std::map<std::string, SpecValue> values;
  for (const auto& [key, value] : dict) {
    const std::string name = py::str(key);
    if (py::isinstance<py::bool_>(value))
      values[name] = value.cast<bool>();
    else if (py::isinstance<py::int_>(value))
      values[name] = value.cast<int64_t>();
    else if (py::isinstance<py::float_>(value))
      values[name] = value.cast<double>();
    else if (py::isinstance<py::list>(value))
      values[name] = value.cast<std::vector<int64_t>>();
    else
      values[name] = std::string(py::str(value));
  }
  return values;
}

std::optional<DType> dtype_of(const py::array& array) {
  const py::dtype type = array.dtype();
  if (type.is(py::dtype::of<float>())) return DType::f32;
  if (type.is(py::dtype::of<int8_t>())) return DType::i8;
  if (type.is(py::dtype::of<uint8_t>())) return DType::i4;
  if (type.is(py::dtype("float16"))) return DType::f16;
  return std::nullopt;
}

// A C-contiguous, aligned array of a known type is used where it lies; anything laid out otherwise is copied
// once.
py::array checked_weight(const std::string& name, const py::handle& object) {
  if (!py::isinstance<py::array>(object)) throw std::invalid_argument("weight " + name + " is not an array");
  py::array array = py::reinterpret_borrow<py::array>(object);
  if (!dtype_of(array))
    throw std::invalid_argument("weight " + name + " must be float32, int8 or packed int4 (uint8), not " +
                                std::string(py::str(array.dtype())));
  const int aligned = py::detail::npy_api::NPY_ARRAY_ALIGNED_;
  if (!(array.flags() & py::array::c_style) || !(array.flags() & aligned))
    array = py::module_::import("numpy").attr("array")(array, py::arg("order") = "C", py::arg("copy") = true);
  return array;
}

std::vector<int64_t> shape_of(const py::array& array) {
  return {array.shape(), array.shape() + array.ndim()};
}

void require_shape(const py::array& array, const std::vector<int64_t>& shape, const char* what) {
  if (shape_of(array) == shape) return;
  std::string text = std::string(what) + " must have the shape [";
  for (size_t i = 0; i < shape.size(); ++i) text.append(i ? ", " : "").append(std::to_string(shape[i]));
  throw std::invalid_argument(text.append("]"));
}

// A draft table on arrays that it keeps alive.
class PyDraftTable {
 public:
  PyDraftTable(const IdArray& children, const IdArray& tokens, const IdArray& next, const SharedFloats& share,
               int64_t vocab)
      : arrays_{children, tokens, next, share},
        table_({span_of<int32_t>(children), span_of<int32_t>(tokens), span_of<int32_t>(next),
                span_of<float>(share)},
               vocab) {}

  const DraftTable& table() const { return table_; }

 private:
  template <class T>
  static std::span<const T> span_of(const py::array_t<T, py::array::c_style>& array) {
    if (array.ndim() != 1) throw std::invalid_argument("draft table: its arrays must have one dimension");
    return {array.data(), static_cast<size_t>(array.size())};
  }
  std::vector<py::array> arrays_;
  DraftTable table_;
};

KvType kv_type(const std::string& name) {
  const std::map<std::string, KvType> kinds{
      {"fp32", KvType::f32}, {"fp16", KvType::f16}, {"int8", KvType::i8}};
  if (!kinds.contains(name))
    throw std::invalid_argument("kv_dtype '" + name + "' is not one of fp32, fp16, int8");
  return kinds.at(name);
}

EarlyStopping early_kind(const std::string& name) {
  const std::map<std::string, EarlyStopping> kinds{
      {"no", EarlyStopping::no}, {"yes", EarlyStopping::yes}, {"never", EarlyStopping::never}};
  if (!kinds.contains(name))
    throw std::invalid_argument("early_stopping '" + name + "' is not one of no, yes, never");
  return kinds.at(name);
}

// How a text is written, with what it keeps alive.
struct TextOptions {
  TextOptions(std::vector<int32_t> begin_ids, std::vector<int32_t> forced_ids, const std::string& bias_rows,
              int64_t max_new_tokens, float repetition_penalty, std::vector<int32_t> stop_ids,
              std::vector<int32_t> suppressed_ids, float temperature, int64_t top_k, float top_p,
              uint64_t seed, bool draft, bool sketch, const std::shared_ptr<PyDraftTable>& draft_table,
              std::vector<std::vector<int32_t>> draft_script, std::vector<float> draft_costs,
              int64_t no_repeat_ngram, int64_t min_new_tokens, bool penalise_prompt, int32_t forced_end,
              int64_t counted_begin, int64_t beams, float length_penalty, const std::string& early_stopping,
              int64_t sequences)
      : table(draft_table) {
    options = GenerateOptions{.begin_ids = std::move(begin_ids),
                              .forced_ids = std::move(forced_ids),
                              .max_new_tokens = max_new_tokens,
                              .stop_ids = std::move(stop_ids),
                              .sampling = {.repetition_penalty = repetition_penalty,
                                           .temperature = temperature,
                                           .top_k = top_k,
                                           .top_p = top_p,
                                           .seed = seed,
                                           .suppressed = std::move(suppressed_ids)},
                              .draft = draft,
                              .draft_table = draft_table ? &draft_table->table() : nullptr,
                              .sketch = sketch,
                              .draft_script = std::move(draft_script),
                              .draft_costs = std::move(draft_costs),
                              .rules = {.no_repeat_ngram = no_repeat_ngram,
                                        .min_new_tokens = min_new_tokens,
                                        .penalise_prompt = penalise_prompt,
                                        .forced_end = forced_end,
                                        .counted_begin = counted_begin},
                              .beam = {.beams = beams,
                                       .length_penalty = length_penalty,
                                       .early = early_kind(early_stopping),
                                       .sequences = sequences}};
    if (bias_rows == "all")
      options.bias_rows = BiasRows::all;
    else if (bias_rows == "prefill")
      options.bias_rows = BiasRows::prefill;
    else if (bias_rows == "none")
      options.bias_rows = BiasRows::none;
    else
      throw std::invalid_argument("bias_rows '" + bias_rows + "' is not one of all, prefill, none");
  }

  std::shared_ptr<PyDraftTable> table;
  GenerateOptions options;
};

TextOptions text_options(const py::kwargs& values) {
  return py::type::of<TextOptions>()(**values).cast<TextOptions>();
}

CudaOptions cuda_options(const std::string& kv, const std::string& weights, const std::string& way) {
  const std::map<std::string, EdgeCudaType> cache{
      {"fp32", EDGE_CUDA_F32}, {"fp16", EDGE_CUDA_F16}, {"int8", EDGE_CUDA_I8}};
  const std::map<std::string, EdgeCudaType> floats{
      {"fp32", EDGE_CUDA_F32}, {"fp16", EDGE_CUDA_F16}, {"bf16", EDGE_CUDA_BF16}};
  if (!cache.contains(kv))
    throw std::invalid_argument("kv_dtype '" + kv + "' is not one of fp32, fp16, int8");
  if (!floats.contains(weights))
    throw std::invalid_argument("weight_dtype '" + weights + "' is not one of fp32, fp16, bf16");
  using enum CudaOptions::Persistent;
  const std::map<std::string, CudaOptions::Persistent> ways{
      {"steps", no}, {"persistent", yes}, {"auto", possibly}};
  if (!ways.contains(way))
    throw std::invalid_argument("way '" + way + "' is not one of steps, persistent, auto");
  return {.persistent = ways.at(way), .float_type = floats.at(weights), .cache_type = cache.at(kv)};
}

// Views of the weights, which `owners` keep alive.
std::map<std::string, TensorView> weight_views(const py::dict& weights, std::vector<py::array>& owners) {
  std::map<std::string, TensorView> views;
  for (const auto& [key, value] : weights) {
    const std::string name = py::str(key);
    py::array array = checked_weight(name, value);
    views[name] = {array.data(), *dtype_of(array), shape_of(array)};
    owners.push_back(std::move(array));
  }
  return views;
}

// Bytes from which on there is a copy in 8 bits: always, never, or by default.
int64_t copy_from(std::optional<bool> wanted, int64_t assumed) {
  if (!wanted) return assumed;
  return *wanted ? 0 : std::numeric_limits<int64_t>::max();
}

// A decoder of the CPU or of a CUDA device.
template <class D>
class PyDecoder {
 public:
  PyDecoder(const py::dict& spec_dict, const py::dict& weights, const std::string& kv_dtype, int64_t threads,
            const std::optional<std::string>& isa, std::vector<int64_t> evidence_layers,
            const std::vector<std::string>& prefill_int8, std::optional<bool> screen_head,
            std::optional<bool> sketch)
    requires std::same_as<D, Decoder>
  {
    const DecoderSpec spec = parse_spec(spec_values(spec_dict));
    Weights bound = bind_weights(spec, weight_views(weights, arrays_));
    make_narrow(bound, prefill_int8);
    const py::gil_scoped_release released;  // a float32 head is read and rounded
    decoder_ = std::make_unique<D>(spec, std::move(bound), kv_type(kv_dtype), threads, isa.value_or(""),
                                   std::move(evidence_layers),
                                   Copies{.screen_from = copy_from(screen_head, kScreenFrom),
                                          .sketch_from = copy_from(sketch, kSketchFrom)});
  }

  // The weights are copied to the device: nothing is kept alive.
  PyDecoder(const py::dict& spec_dict, const py::dict& weights, const std::string& library,
            const std::string& kv_dtype, const std::string& weight_dtype, const std::string& way,
            std::vector<int64_t> evidence_layers)
    requires std::same_as<D, CudaDecoder>
  {
    const DecoderSpec spec = parse_spec(spec_values(spec_dict));
    const CudaOptions options = cuda_options(kv_dtype, weight_dtype, way);
    std::vector<py::array> arrays;
    const Weights bound = bind_weights(spec, weight_views(weights, arrays));
    const py::gil_scoped_release released;
    decoder_ = std::make_unique<D>(CudaLibrary(library), spec, bound, options, std::move(evidence_layers));
  }

  void set_prefix(const FloatArray& keys, const FloatArray& values, const std::optional<FloatArray>& key_bias,
                  bool drop_hidden) {
    const Prefix prefix = checked_prefix(keys, values, key_bias, drop_hidden);
    const py::gil_scoped_release released;
    decoder_->set_prefix(prefix);
  }

  void set_lane_prefix(int64_t lane, const FloatArray& keys, const FloatArray& values,
                       const std::optional<FloatArray>& key_bias, bool drop_hidden)
    requires std::same_as<D, Decoder>
  {
    const Prefix prefix = checked_prefix(keys, values, key_bias, drop_hidden);
    const py::gil_scoped_release released;
    decoder_->set_prefix(prefix, lane);
  }

  Prefix checked_prefix(const FloatArray& keys, const FloatArray& values,
                        const std::optional<FloatArray>& key_bias, bool drop_hidden) const {
    const DecoderSpec& spec = decoder_->spec();
    if (keys.ndim() != 4)
      throw std::invalid_argument("keys must have the shape [layers, heads, prefix, head_dim]");
    Prefix prefix{
        .keys = keys.data(), .values = values.data(), .length = keys.shape(2), .drop_hidden = drop_hidden};
    const std::vector<int64_t> shape{spec.layers, spec.heads, prefix.length, spec.head_dim};
    require_shape(keys, shape, "keys");
    require_shape(values, shape, "values");
    if (key_bias) {
      if (key_bias->ndim() != 2) throw std::invalid_argument("key_bias must have the shape [layers, keys]");
      require_shape(*key_bias, {spec.layers, key_bias->shape(1)}, "key_bias");
      prefix.key_bias = key_bias->data();
      prefix.bias_length = key_bias->shape(1);
    }
    return prefix;
  }

  // Pointers of the device, whose arrays the caller keeps alive until the call returns.
  void set_prefix_on_device(uintptr_t keys, uintptr_t values, int64_t length, uintptr_t key_bias,
                            int64_t bias_length)
    requires std::same_as<D, CudaDecoder>
  {
    const Prefix prefix{.keys = reinterpret_cast<const float*>(keys),
                        .values = reinterpret_cast<const float*>(values),
                        .length = length,
                        .key_bias = reinterpret_cast<const float*>(key_bias),
                        .bias_length = bias_length};
    if (!prefix.keys || !prefix.values) throw std::invalid_argument("keys and values must not be null");
    const py::gil_scoped_release released;
    decoder_->set_prefix(prefix, true);
  }

  void use_persistent(bool use)
    requires std::same_as<D, CudaDecoder>
  {
    decoder_->use_persistent(use);
  }

  // Returns the logits of the last row; with `with_cache` the keys and values [layers, heads, rows,
  // head_dim], too.
  py::object prefill(const FloatArray& embeddings, const std::optional<FloatArray>& key_bias, bool bias,
                     bool drop_hidden, bool with_cache, int64_t lane)
    requires std::same_as<D, Decoder>
  {
    const DecoderSpec& spec = decoder_->spec();
    if (embeddings.ndim() != 2) throw std::invalid_argument("embeddings must have the shape [rows, hidden]");
    PrefixEmbeddings prefix{.embeddings = embeddings.data(),
                            .length = embeddings.shape(0),
                            .bias = bias && key_bias,
                            .drop_hidden = drop_hidden};
    require_shape(embeddings, {prefix.length, spec.hidden}, "embeddings");
    if (key_bias) {
      if (key_bias->ndim() != 2) throw std::invalid_argument("key_bias must have the shape [layers, keys]");
      require_shape(*key_bias, {spec.layers, key_bias->shape(1)}, "key_bias");
      prefix.key_bias = key_bias->data();
      prefix.bias_length = key_bias->shape(1);
    }
    // Not allocated for rows that cannot fit.
    if (prefix.length > spec.rows()) throw std::invalid_argument("more embeddings than positions");
    py::array_t<float> logits(static_cast<py::ssize_t>(spec.vocab)), keys, values;
    if (with_cache) {
      const std::vector<py::ssize_t> shape{spec.layers, spec.heads, prefix.length, spec.head_dim};
      keys = py::array_t<float>(shape);
      values = py::array_t<float>(shape);
      prefix.keys = keys.mutable_data();
      prefix.values = values.mutable_data();
    }
    float* out = logits.mutable_data();
    {
      const py::gil_scoped_release released;
      decoder_->prefill(prefix, out, lane);
    }
    if (with_cache) return py::make_tuple(std::move(logits), std::move(keys), std::move(values));
    return logits;
  }

  py::array_t<float> forward(const IdArray& ids, bool bias) {
    if (ids.ndim() != 1) throw std::invalid_argument("ids must have one dimension");
    // Not allocated for rows that cannot fit.
    if (ids.shape(0) > decoder_->spec().max_positions) throw std::invalid_argument("more ids than positions");
    py::array_t<float> logits({ids.shape(0), static_cast<py::ssize_t>(decoder_->spec().vocab)});
    const std::span<const int32_t> view(ids.data(), static_cast<size_t>(ids.shape(0)));
    float* out = logits.mutable_data();
    const py::gil_scoped_release released;
    decoder_->forward(view, bias, out);
    return logits;
  }

  void rewind(int64_t n) { decoder_->rewind(n); }

  int64_t keep(const IdArray& ids, bool bias)
    requires std::same_as<D, Decoder>
  {
    if (ids.ndim() != 1) throw std::invalid_argument("ids must have one dimension");
    return decoder_->keep({ids.data(), static_cast<size_t>(ids.shape(0))}, bias);
  }

  py::object generate(const std::optional<FloatArray>& first_logits, const py::object& on_token,
                      const std::shared_ptr<CancelToken>& cancel, const py::kwargs& values) {
    const TextOptions text = text_options(values);
    const float* first = checked_logits(first_logits);
    const OnToken callback = callback_of(on_token);
    const py::gil_scoped_release released;
    GenerationResult result = decoder_->generate(first, text.options, callback, cancel.get());
    const py::gil_scoped_acquire acquired;
    return py::cast(std::move(result));
  }

  // Texts behind the films of lanes, (lane, first_logits or None, options, on_token or None) each.
  py::list generate_texts(
      const std::vector<std::tuple<int64_t, std::optional<FloatArray>, TextOptions, py::object>>& texts,
      const std::shared_ptr<CancelToken>& cancel)
    requires std::same_as<D, Decoder>
  {
    std::vector<TextRequest> requests;
    for (const auto& [lane, first_logits, text, on_token] : texts)
      requests.push_back({lane, checked_logits(first_logits), &text.options, callback_of(on_token)});
    std::vector<GenerationResult> results;
    {
      const py::gil_scoped_release released;
      results = decoder_->generate(requests, cancel.get());
    }
    py::list list;
    for (GenerationResult& result : results) list.append(py::cast(std::move(result)));
    return list;
  }

  const D& decoder() const { return *decoder_; }

 private:
  const float* checked_logits(const std::optional<FloatArray>& first_logits) const {
    if (!first_logits) return nullptr;
    require_shape(*first_logits, {decoder_->spec().vocab}, "first_logits");
    return first_logits->data();
  }

  static OnToken callback_of(const py::object& on_token) {
    if (on_token.is_none()) return {};
    return [&on_token](int32_t id, float logprob) {
      const py::gil_scoped_acquire acquired;
      const py::object answer = on_token(id, logprob);
      return !(py::isinstance<py::bool_>(answer) && !answer.cast<bool>());
    };
  }

  std::vector<py::array> arrays_;  // owners of what the decoder reads
  std::unique_ptr<D> decoder_;
};

template <class T>
py::array_t<T> to_array(const std::vector<T>& values) {
  return py::array_t<T>(static_cast<py::ssize_t>(values.size()), values.data());
}

const char* reason_text(StopReason reason) {
  switch (reason) {
    case StopReason::stop:
      return "stop";
    case StopReason::length:
      return "length";
    default:
      return "cancelled";
  }
}

// What decoders of every device have.
template <class D>
void bind_decoder(py::class_<PyDecoder<D>>& c) {
  using P = PyDecoder<D>;
  c.def("set_prefix", &P::set_prefix, py::arg("keys"), py::arg("values"), py::arg("key_bias") = py::none(),
        py::arg("drop_hidden") = false)
      .def("forward", &P::forward, py::arg("ids"), py::arg("bias"))
      .def("rewind", &P::rewind, py::arg("n_text"))
      .def("generate", &P::generate, py::arg("first_logits") = py::none(), py::kw_only(),
           py::arg("on_token") = py::none(), py::arg("cancel") = py::none());
}

}  // namespace
}  // namespace edge

PYBIND11_MODULE(_kernel, m) {
  using namespace edge;
  m.doc() = "Decoding kernel: transformer decoder with an image prefix and a per-layer key bias.";
  m.def("isa_supported", &isa_supported, "Instruction sets this machine can run, weakest first.");
  m.def("isa_selected", [] { return isa_select(); }, "The best one, or the one EDGE_ISA names.");
  py::class_<ReadMeter>(m, "ReadMeter")
      .def(py::init<int64_t, int64_t>(), py::arg("bytes"), py::arg("threads"),
           py::call_guard<py::gil_scoped_release>())
      .def("passes", &ReadMeter::passes, py::arg("seconds"), py::call_guard<py::gil_scoped_release>(),
           "GB/s at which the threads read the buffer: every pass within so many seconds, at least three.");

  py::class_<MultiplyMeter>(m, "MultiplyMeter")
      .def(py::init([](int64_t threads, const std::optional<std::string>& isa) {
             return std::make_unique<MultiplyMeter>(kernels_for(isa_select(isa.value_or(""))), threads);
           }),
           py::arg("threads"), py::arg("isa") = py::none())
      .def("passes", &MultiplyMeter::passes, py::arg("seconds"), py::call_guard<py::gil_scoped_release>(),
           "1e9 integer products per second, all threads together: every pass within so many seconds, at "
           "least three.");

  py::class_<CancelToken, std::shared_ptr<CancelToken>>(
      m, "CancelToken", "Ends the reports that it is given to, from any thread; once set it stays so.")
      .def(py::init<>())
      .def("cancel", &CancelToken::cancel, "They end at their next token.")
      .def_property_readonly("cancelled", &CancelToken::cancelled, "Whether it is set.");

  py::register_exception<BusyError>(m, "BusyError", PyExc_RuntimeError);

  py::class_<GenerationResult>(m, "GenerationResult")
      .def_readonly("token_ids", &GenerationResult::token_ids)
      .def_property_readonly("logprobs", [](const GenerationResult& r) { return to_array(r.logprobs); })
      .def_property_readonly("evidence",
                             [](const GenerationResult& r) {
                               const auto n = static_cast<py::ssize_t>(r.token_ids.size());
                               const auto keys = n ? static_cast<py::ssize_t>(r.evidence.size()) / n : 0;
                               return to_array(r.evidence).reshape({n, keys});
                             })
      .def_readonly("forced_ids", &GenerationResult::forced_ids)
      .def_property_readonly("stop_reason",
                             [](const GenerationResult& r) { return reason_text(r.stop_reason); })
      .def_readonly("decode_seconds", &GenerationResult::decode_seconds)
      .def_readonly("sequences", &GenerationResult::sequences)
      .def_property_readonly("scores", [](const GenerationResult& r) { return to_array(r.scores); })
      .def_readonly("passes", &GenerationResult::passes)
      .def_readonly("drafted", &GenerationResult::drafted)
      .def_readonly("accepted", &GenerationResult::accepted)
      .def_readonly("sketch_passes", &GenerationResult::sketch_passes);

  py::class_<PyDraftTable, std::shared_ptr<PyDraftTable>>(m, "DraftTable")
      .def(py::init<const IdArray&, const IdArray&, const IdArray&, const SharedFloats&, int64_t>(),
           py::arg("children"), py::arg("tokens"), py::arg("next"), py::arg("share"), py::arg("vocab"))
      .def_property_readonly("nodes", [](const PyDraftTable& t) { return t.table().nodes(); })
      .def("guess", [](const PyDraftTable& t, const std::vector<int32_t>& text) {
        const DraftTable::Guess guess = t.table().guess(text);
        return py::make_tuple(guess.id, guess.share);
      });

  py::class_<TextOptions>(m, "TextOptions")
      .def(py::init<std::vector<int32_t>, std::vector<int32_t>, const std::string&, int64_t, float,
                    std::vector<int32_t>, std::vector<int32_t>, float, int64_t, float, uint64_t, bool, bool,
                    const std::shared_ptr<PyDraftTable>&, std::vector<std::vector<int32_t>>,
                    std::vector<float>, int64_t, int64_t, bool, int32_t, int64_t, int64_t, float,
                    const std::string&, int64_t>(),
           py::kw_only(), py::arg("begin_ids") = std::vector<int32_t>{},
           py::arg("forced_ids") = std::vector<int32_t>{}, py::arg("bias_rows") = "all",
           py::arg("max_new_tokens") = 100, py::arg("repetition_penalty") = 1.0f,
           py::arg("stop_ids") = std::vector<int32_t>{}, py::arg("suppressed_ids") = std::vector<int32_t>{},
           py::arg("temperature") = 0.0f, py::arg("top_k") = 0, py::arg("top_p") = 1.0f, py::arg("seed") = 0,
           py::arg("draft") = false, py::arg("sketch") = false, py::arg("draft_table") = py::none(),
           py::arg("draft_script") = std::vector<std::vector<int32_t>>{},
           py::arg("draft_costs") = std::vector<float>{}, py::arg("no_repeat_ngram") = 0,
           py::arg("min_new_tokens") = 0, py::arg("penalise_prompt") = false, py::arg("forced_end") = -1,
           py::arg("counted_begin") = 0, py::arg("beams") = 1, py::arg("length_penalty") = 1.0f,
           py::arg("early_stopping") = "no", py::arg("sequences") = 1);

  bind_device(m);

  py::class_<PyDecoder<Decoder>> decoder(m, "Decoder");
  decoder
      .def(py::init<const py::dict&, const py::dict&, const std::string&, int64_t,
                    const std::optional<std::string>&, std::vector<int64_t>, const std::vector<std::string>&,
                    std::optional<bool>, std::optional<bool>>(),
           py::arg("spec"), py::arg("weights"), py::kw_only(), py::arg("kv_dtype") = "fp32",
           py::arg("threads"), py::arg("isa") = py::none(),
           py::arg("evidence_layers") = std::vector<int64_t>{},
           py::arg("prefill_int8") = std::vector<std::string>{}, py::arg("screen_head") = py::none(),
           py::arg("sketch") = py::none())
      .def_property_readonly("isa",
                             [](const PyDecoder<Decoder>& d) { return d.decoder().network().kernels().name; })
      .def_property_readonly("threads", [](const PyDecoder<Decoder>& d) { return d.decoder().threads(); })
      .def_property_readonly("sketches",
                             [](const PyDecoder<Decoder>& d) { return d.decoder().network().sketches(); })
      .def_property_readonly(
          "prefix_rows",
          [](const PyDecoder<Decoder>& d) { return d.decoder().network().lane().prefix_rows(); })
      .def_property_readonly(
          "text_rows", [](const PyDecoder<Decoder>& d) { return d.decoder().network().lane().text_rows(); })
      .def_property_readonly("weight_bytes",
                             [](const PyDecoder<Decoder>& d) { return d.decoder().network().weight_bytes(); })
      .def_property_readonly(
          "kept_keys", [](const PyDecoder<Decoder>& d) { return d.decoder().network().lane().kept_keys(); })
      .def_property_readonly("cache_bytes",
                             [](const PyDecoder<Decoder>& d) { return d.decoder().network().cache_bytes(); })
      .def("keep", &PyDecoder<Decoder>::keep, py::arg("ids"), py::arg("bias"))
      .def("prefill", &PyDecoder<Decoder>::prefill, py::arg("embeddings"), py::arg("key_bias") = py::none(),
           py::kw_only(), py::arg("bias") = true, py::arg("drop_hidden") = false,
           py::arg("with_cache") = false, py::arg("lane") = 0)
      .def(
          "lane_kept_keys",
          [](const PyDecoder<Decoder>& d, int64_t lane) { return d.decoder().lane(lane).kept_keys(); },
          py::arg("lane"))
      .def(
          "lane_cache_bytes",
          [](const PyDecoder<Decoder>& d, int64_t lane) {
            d.decoder().lane(lane);
            return d.decoder().network().cache_bytes(lane);
          },
          py::arg("lane"))
      .def("set_lane_prefix", &PyDecoder<Decoder>::set_lane_prefix, py::arg("lane"), py::arg("keys"),
           py::arg("values"), py::arg("key_bias") = py::none(), py::arg("drop_hidden") = false)
      .def("generate_texts", &PyDecoder<Decoder>::generate_texts, py::arg("texts"), py::kw_only(),
           py::arg("cancel") = py::none());
  bind_decoder(decoder);

  py::class_<PyDecoder<CudaDecoder>> cuda(m, "CudaDecoder");
  cuda.def(py::init<const py::dict&, const py::dict&, const std::string&, const std::string&,
                    const std::string&, const std::string&, std::vector<int64_t>>(),
           py::arg("spec"), py::arg("weights"), py::kw_only(), py::arg("library"), py::arg("kv_dtype"),
           py::arg("weight_dtype"), py::arg("way") = "steps",
           py::arg("evidence_layers") = std::vector<int64_t>{})
      .def_property_readonly("has_persistent",
                             [](const PyDecoder<CudaDecoder>& d) { return d.decoder().has_persistent(); })
      .def_property(
          "persistent", [](const PyDecoder<CudaDecoder>& d) { return d.decoder().persistent(); },
          &PyDecoder<CudaDecoder>::use_persistent)
      .def("set_prefix_on_device", &PyDecoder<CudaDecoder>::set_prefix_on_device, py::arg("keys"),
           py::arg("values"), py::arg("length"), py::arg("key_bias") = 0, py::arg("bias_length") = 0,
           "Addresses of float32 arrays in the memory of the device; key_bias 0 for none.")
      .def_property_readonly("device", [](const PyDecoder<CudaDecoder>& d) { return d.decoder().device(); })
      .def_property_readonly("prefix_rows",
                             [](const PyDecoder<CudaDecoder>& d) { return d.decoder().prefix_rows(); })
      .def_property_readonly("text_rows",
                             [](const PyDecoder<CudaDecoder>& d) { return d.decoder().text_rows(); })
      .def_property_readonly("kept_keys",  // hidden ones too: they are not dropped here
                             [](const PyDecoder<CudaDecoder>& d) {
                               return d.decoder().spec().layers * d.decoder().prefix_rows();
                             })
      .def_property_readonly("weight_bytes",
                             [](const PyDecoder<CudaDecoder>& d) { return d.decoder().weight_bytes(); })
      .def_property_readonly("cache_bytes",
                             [](const PyDecoder<CudaDecoder>& d) { return d.decoder().cache_bytes(); });
  bind_decoder(cuda);

  py::module_ ops = m.def_submodule("ops", "Single kernels, for the tests only.");
  bind_ops(ops);
}
