// SPDX-License-Identifier: Apache-2.0
#include "cpu/pages.h"

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace edge {
namespace {

constexpr size_t kLine = 64;
constexpr size_t kHuge = size_t{2} << 20;

size_t whole(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

}  // namespace

Pages::Pages(size_t bytes) {
  if (bytes == 0) return;
  if (bytes > SIZE_MAX / 2) throw std::bad_alloc();
#ifdef __linux__
  if (bytes >= kHuge) {
    // The system places mappings by small pages: so much more is mapped that a huge one begins inside, and
    // what lies around is given back.
    const size_t size = whole(bytes, kHuge);
    void* at = ::mmap(nullptr, size + kHuge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) throw std::bad_alloc();
    auto* first = static_cast<std::byte*>(at);
    const size_t before = (kHuge - reinterpret_cast<uintptr_t>(at) % kHuge) % kHuge;
    if (before > 0) ::munmap(first, before);
    data_ = first + before;
    if (kHuge - before > 0) ::munmap(data_ + size, kHuge - before);
    mapped_ = size;
    prefer_huge_pages(data_, size);
    return;
  }
#endif
  void* at = std::aligned_alloc(kLine, whole(bytes, kLine));
  if (!at) throw std::bad_alloc();
  data_ = static_cast<std::byte*>(std::memset(at, 0, bytes));
}

Pages::~Pages() {
#ifdef __linux__
  if (mapped_ > 0) {
    ::munmap(data_, mapped_);
    return;
  }
#endif
  std::free(data_);
}

void prefer_huge_pages(const void* mapping, size_t bytes) {
#ifdef MADV_HUGEPAGE
  // Refused where huge pages are switched off: then small ones will do.
  ::madvise(const_cast<void*>(mapping), bytes, MADV_HUGEPAGE);
#else
  static_cast<void>(mapping), static_cast<void>(bytes);
#endif
}

}  // namespace edge
