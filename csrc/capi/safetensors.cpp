// SPDX-License-Identifier: Apache-2.0
#include "safetensors.h"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>

#include "failure.h"
#include "json.h"

namespace edge::capi {
namespace {

static_assert(std::endian::native == std::endian::little, "safetensors are read in place");

constexpr uint64_t kMaxHeader = uint64_t{16} << 20;

struct Type {
  const char* name;
  Element element;
  int64_t bytes;
};
constexpr Type kTypes[] = {{"F32", Element::f32, 4},
                           {"F16", Element::f16, 2},
                           {"I8", Element::i8, 1},
                           {"U8", Element::u8, 1},
                           {"I32", Element::i32, 4}};

class Reader {
 public:
  Reader(std::span<const std::byte> file, const std::string& name, std::span<const Element> allowed)
      : file_(file), name_(name), allowed_(allowed) {}

  Tensors read() {
    if (file_.size() < 10) fail("it is too short");
    uint64_t length = 0;
    std::memcpy(&length, file_.data(), 8);
    if (length > std::min<uint64_t>(kMaxHeader, file_.size() - 8))
      fail("its header is longer than the file or the limit");
    const JsonValue header =
        parse({reinterpret_cast<const char*>(file_.data()) + 8, static_cast<size_t>(length)});
    const JsonObject* entries = header.get<JsonObject>();
    if (!entries) fail("its header is not an object");
    data_ = file_.subspan(8 + static_cast<size_t>(length));
    for (const auto& [tensor, entry] : *entries)
      if (tensor != "__metadata__") add(tensor, entry);
    std::sort(spans_.begin(), spans_.end());
    for (size_t i = 1; i < spans_.size(); ++i)
      if (spans_[i - 1].second > spans_[i].first) fail("two tensors overlap");
    return std::move(out_);
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw bundle_failure(name_ + " is not a valid safetensors file: " + what);
  }

  JsonValue parse(std::string_view text) const {
    try {
      return parse_json(text);
    } catch (const JsonError&) {
    }
    fail("its header is not JSON");
  }

  const Type* type_of(const JsonValue& entry) const {
    const JsonValue* value = entry.member("dtype");
    const std::string* name = value ? value->get<std::string>() : nullptr;
    for (const Type& type : kTypes)
      if (name && *name == type.name &&
          std::find(allowed_.begin(), allowed_.end(), type.element) != allowed_.end())
        return &type;
    return nullptr;
  }

  // Whole numbers from 0 to the bytes of data there are.
  std::vector<int64_t> sizes(const JsonValue* value) const {
    const JsonArray* items = value ? value->get<JsonArray>() : nullptr;
    if (!items) fail("a tensor's entry is malformed");
    std::vector<int64_t> out;
    for (const JsonValue& item : *items) {
      const int64_t* number = item.get<int64_t>();
      if (!number || *number < 0 || *number > std::ssize(data_)) fail("a shape or an offset is out of range");
      out.push_back(*number);
    }
    return out;
  }

  void add(const std::string& tensor, const JsonValue& entry) {
    const JsonObject* members = entry.get<JsonObject>();
    if (!members || members->size() != 3) fail("a tensor's entry is malformed");
    const Type* type = type_of(entry);
    if (!type) fail("a tensor has a type that does not belong here");
    std::vector<int64_t> shape = sizes(entry.member("shape"));
    const std::vector<int64_t> offsets = sizes(entry.member("data_offsets"));
    if (shape.empty() || shape.size() > 2 || offsets.size() != 2)
      fail("a tensor has neither one nor two dimensions");
    const int64_t begin = offsets[0], end = offsets[1];
    // Divided rather than multiplied: the product of two sizes from a file may not fit 64 bits.
    int64_t room = end >= begin ? (end - begin) / type->bytes : -1;
    bool fits = room >= 0 && room * type->bytes == end - begin;
    if (shape.size() == 2 && shape[1] != 0) {
      fits = fits && room % shape[1] == 0;
      room /= shape[1];
    } else if (shape.size() == 2) {
      fits = fits && room == 0;
      room = shape[0];
    }
    if (!fits || room != shape[0]) fail("a tensor's shape does not match its bytes");
    spans_.emplace_back(begin, end);
    const std::byte* data = data_.data() + begin;
    if (reinterpret_cast<uintptr_t>(data) % static_cast<uintptr_t>(type->bytes) != 0) {
      auto copy = std::make_unique<std::byte[]>(static_cast<size_t>(end - begin));
      std::memcpy(copy.get(), data, static_cast<size_t>(end - begin));
      data = copy.get();
      out_.copies.push_back(std::move(copy));
    }
    out_.by_name[tensor] = {data, type->element, std::move(shape)};
  }

  std::span<const std::byte> file_, data_;
  const std::string& name_;
  std::span<const Element> allowed_;
  Tensors out_;
  std::vector<std::pair<int64_t, int64_t>> spans_;
};

}  // namespace

int64_t Tensor::count() const {
  int64_t product = 1;
  for (const int64_t size : shape) product *= size;
  return product;
}

Tensors read_safetensors(std::span<const std::byte> file, const std::string& name,
                         std::span<const Element> allowed) {
  return Reader(file, name, allowed).read();
}

}  // namespace edge::capi
