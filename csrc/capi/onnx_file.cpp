// SPDX-License-Identifier: Apache-2.0
#include "onnx_file.h"

#include <cstdint>

#include "failure.h"

namespace edge::capi {
namespace {

enum Message { kModel, kTraining, kFunction, kGraph, kNode, kAttribute, kSparse, kTensor };

struct Child {
  Message parent;
  uint64_t field;
  Message message;
};
constexpr Child kChildren[] = {
    {kModel, 7, kGraph},         {kModel, 20, kTraining},   {kModel, 25, kFunction},
    {kTraining, 1, kGraph},      {kTraining, 2, kGraph},    {kFunction, 7, kNode},
    {kFunction, 11, kAttribute}, {kGraph, 1, kNode},        {kGraph, 5, kTensor},
    {kGraph, 15, kSparse},       {kNode, 5, kAttribute},    {kAttribute, 5, kTensor},
    {kAttribute, 6, kGraph},     {kAttribute, 10, kTensor}, {kAttribute, 11, kGraph},
    {kAttribute, 22, kSparse},   {kAttribute, 23, kSparse}, {kSparse, 1, kTensor},
    {kSparse, 2, kTensor}};
constexpr uint64_t kExternalData = 13, kDataLocation = 14;
constexpr int kMaxDepth = 32;

struct Damaged {};

class Walker {
 public:
  explicit Walker(std::span<const std::byte> data) : data_(data) {}

  bool external(size_t at, size_t end, Message message, int depth) const {
    if (depth > kMaxDepth) throw Damaged{};
    while (at < end) {
      const uint64_t key = varint(at, end), field = key >> 3;
      uint64_t value = 0, length = 0;
      switch (key & 7) {
        case 0:
          value = varint(at, end);
          break;
        case 1:
          length = 8;
          break;
        case 2:
          length = varint(at, end);
          break;
        case 5:
          length = 4;
          break;
        default:
          throw Damaged{};
      }
      if (length > end - at) throw Damaged{};
      if (message == kTensor) {
        if (field == kExternalData || (field == kDataLocation && ((key & 7) != 0 || value != 0))) return true;
      } else if ((key & 7) == 2) {
        for (const Child& child : kChildren)
          if (child.parent == message && child.field == field &&
              external(at, at + static_cast<size_t>(length), child.message, depth + 1))
            return true;
      }
      at += static_cast<size_t>(length);
    }
    return false;
  }

 private:
  uint64_t varint(size_t& at, size_t end) const {
    uint64_t value = 0;
    for (int shift = 0; shift < 64 && at < end; shift += 7) {
      const auto byte = std::to_integer<uint64_t>(data_[at++]);
      value |= (byte & 0x7F) << shift;
      if (byte < 0x80) return value;
    }
    throw Damaged{};
  }

  std::span<const std::byte> data_;
};

}  // namespace

void check_self_contained(std::span<const std::byte> file, const std::string& name) {
  bool external = false;
  try {
    if (file.empty()) throw Damaged{};
    external = Walker(file).external(0, file.size(), kModel, 0);
  } catch (const Damaged&) {
    throw bundle_failure(name + " is not a valid ONNX file: export the bundle again");
  }
  if (external)
    throw bundle_failure(name + " keeps data in other files; a bundle's graph must be a single file");
}

}  // namespace edge::capi
