// SPDX-License-Identifier: Apache-2.0
// Memory of large buffers. What a token reads lies spread over hundreds of megabytes: in pages of 4 KB nearly
// every page costs a walk through the page tables (two, nested, in a virtual machine), and the processor's
// own read-ahead ends at each page's border. Pages of 2 MB are asked for where the system gives them.
#pragma once

#include <cstddef>
#include <utility>

namespace edge {

// Zeroed memory, aligned to a cache line at least. From 2 MB on it is aligned to a huge page and not touched:
// what is never written costs no memory.
class Pages {
 public:
  Pages() = default;
  // Throws std::bad_alloc.
  explicit Pages(size_t bytes);
  Pages(Pages&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), mapped_(std::exchange(other.mapped_, 0)) {}
  Pages& operator=(Pages&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(mapped_, other.mapped_);
    return *this;
  }
  ~Pages();

  std::byte* data() const { return data_; }

 private:
  std::byte* data_ = nullptr;
  size_t mapped_ = 0;  // bytes; 0: from the heap
};

// Asks for huge pages behind a mapping of a file. Some file systems have them (Linux 6.16 and later: ext4),
// others ignore it.
void prefer_huge_pages(const void* mapping, size_t bytes);

}  // namespace edge
