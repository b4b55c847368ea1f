// SPDX-License-Identifier: Apache-2.0
#include "model_files.h"

#include <cmath>
#include <cstring>
#include <stdexcept>

#include "failure.h"
#include "utf8.h"

namespace edge::capi {
namespace {

DType dtype_of(Element element) {
  switch (element) {
    case Element::i8:
      return DType::i8;
    case Element::u8:
      return DType::i4;
    case Element::f16:
      return DType::f16;
    default:
      return DType::f32;
  }
}

// Scales of int8 matrices are finite and not negative, those of int4 finite; the kernel takes any.
bool are_scales(const Tensor& tensor) {
  for (int64_t i = 0; i < tensor.count(); ++i) {
    if (tensor.type == Element::f16) {
      uint16_t half = 0;
      std::memcpy(&half, tensor.data + 2 * i, 2);
      if ((half & 0x7C00) == 0x7C00) return false;
    } else if (tensor.type == Element::f32) {
      float value = 0.0f;
      std::memcpy(&value, tensor.data + 4 * i, 4);
      if (!std::isfinite(value) || value < 0.0f) return false;
    }
  }
  return true;
}

template <class T>
std::span<const T> array(const Tensors& tensors, const std::string& name, Element type,
                         const std::string& file) {
  const auto found = tensors.by_name.find(name);
  if (tensors.by_name.size() != 4 || found == tensors.by_name.end() || found->second.type != type)
    throw bundle_failure(file + " does not hold the arrays children, tokens, next, share of a draft table");
  if (found->second.shape.size() != 1)
    throw bundle_failure(file + ": draft table: its arrays must have one dimension");
  return {reinterpret_cast<const T*>(found->second.data), static_cast<size_t>(found->second.count())};
}

}  // namespace

DecoderWeights load_weights(const Bundle& bundle) {
  const Manifest& manifest = bundle.manifest();
  constexpr Element kAllowed[] = {Element::f32, Element::f16, Element::i8, Element::u8};
  DecoderWeights out;
  out.tensors = read_safetensors(bundle.file(manifest.weights_file).bytes(), manifest.weights_file, kAllowed);
  std::map<std::string, TensorView> views;
  for (const auto& [name, tensor] : out.tensors.by_name) {
    views[name] = {tensor.data, dtype_of(tensor.type), tensor.shape};
    const int64_t element = tensor.type == Element::f32 ? 4 : tensor.type == Element::f16 ? 2 : 1;
    out.bytes += tensor.count() * element;
  }
  try {
    out.weights = bind_weights(manifest.decoder, views);
    make_narrow(out.weights, manifest.prefill_int8);
  } catch (const std::invalid_argument& error) {
    // A spoilt file can differ in every array: the first few say enough.
    std::string message = printable(error.what());
    if (message.size() > 360) message = message.substr(0, message.rfind(';', 360)) + "; and more";
    throw bundle_failure(message);
  }
  for (const auto& [name, tensor] : out.tensors.by_name)
    if (name.ends_with(".weight.scale") && !are_scales(tensor))
      throw bundle_failure("the weights do not fit the decoder spec: " + name +
                           " holds values that are not scales");
  return out;
}

std::unique_ptr<LoadedDraft> load_draft(const Bundle& bundle) {
  const Manifest& manifest = bundle.manifest();
  if (!manifest.draft_file) return nullptr;
  const std::string& file = *manifest.draft_file;
  constexpr Element kAllowed[] = {Element::i32, Element::f32};
  Tensors tensors = read_safetensors(bundle.file(file).bytes(), file, kAllowed);
  const DraftArrays arrays{array<int32_t>(tensors, "children", Element::i32, file),
                           array<int32_t>(tensors, "tokens", Element::i32, file),
                           array<int32_t>(tensors, "next", Element::i32, file),
                           array<float>(tensors, "share", Element::f32, file)};
  try {
    DraftTable table(arrays, manifest.decoder.vocab);
    return std::make_unique<LoadedDraft>(LoadedDraft{std::move(tensors), std::move(table)});
  } catch (const std::invalid_argument& error) {
    throw bundle_failure(file + ": " + printable(error.what()));
  }
}

}  // namespace edge::capi
