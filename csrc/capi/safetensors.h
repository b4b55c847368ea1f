// SPDX-License-Identifier: Apache-2.0
// A strict, zero-copy reader of safetensors: 8 bytes little-endian length of a JSON header, the header, the
// data.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace edge::capi {

enum class Element { f32, f16, i8, u8, i32 };

struct Tensor {
  const std::byte* data = nullptr;  // aligned for its type
  Element type = Element::f32;
  std::vector<int64_t> shape;  // one or two dimensions
  int64_t count() const;
};

struct Tensors {
  std::map<std::string, Tensor> by_name;
  // Of tensors that do not lie aligned in the file.
  std::vector<std::unique_ptr<std::byte[]>> copies;
};

// Views of `file`, which must outlive them. Every number of the header is checked before it is used.
// Throws Failure (EDGE_BUNDLE) where the file breaks the format or holds other types than `allowed`.
Tensors read_safetensors(std::span<const std::byte> file, const std::string& name,
                         std::span<const Element> allowed);

}  // namespace edge::capi
