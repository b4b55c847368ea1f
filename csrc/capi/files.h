// SPDX-License-Identifier: Apache-2.0
// Files of a bundle: regular files that really lie in its folder, mapped read-only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace edge::capi {

// A file mapped read-only and shared: processes that open the same bundle share its memory.
class MappedFile {
 public:
  MappedFile() = default;
  // Takes `descriptor` over. Throws Failure.
  MappedFile(int descriptor, const std::string& name);
  ~MappedFile() { unmap(); }
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  std::string_view text() const { return {reinterpret_cast<const char*>(data_), size_}; }

 private:
  void unmap();

  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

// A bundle's folder with symbolic links resolved.
class Folder {
 public:
  // Throws Failure (EDGE_BUNDLE) where it does not exist or is none.
  explicit Folder(const std::string& path);

  const std::string& path() const { return path_; }
  // Throws Failure unless `name` is a regular file inside; links within the folder are followed.
  MappedFile map(const std::string& name) const;

 private:
  std::string path_;
};

}  // namespace edge::capi
