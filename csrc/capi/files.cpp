// SPDX-License-Identifier: Apache-2.0
#include "files.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <system_error>
#include <utility>

#include "cpu/pages.h"
#include "failure.h"
#include "utf8.h"

namespace edge::capi {
namespace {

namespace fs = std::filesystem;

// As the C++ library words it: strerror is not safe between threads.
std::string reason() { return std::error_code(errno, std::generic_category()).message(); }

struct Descriptor {
  int value;
  ~Descriptor() {
    if (value >= 0) ::close(value);
  }
};

}  // namespace

MappedFile::MappedFile(int descriptor, const std::string& name) {
  const Descriptor owned{descriptor};
  struct stat about{};
  if (::fstat(descriptor, &about) != 0) throw bundle_failure(name + " cannot be read (" + reason() + ")");
  if (!S_ISREG(about.st_mode)) throw bundle_failure(name + " is not a regular file");
  if (about.st_size == 0) return;  // which cannot be mapped
  const auto size = static_cast<size_t>(about.st_size);
  void* data = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, descriptor, 0);
  if (data == MAP_FAILED) throw bundle_failure(name + " cannot be mapped (" + reason() + ")");
  data_ = static_cast<const std::byte*>(data);
  size_ = size;
  prefer_huge_pages(data_, size_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  if (this != &other) {
    unmap();
    data_ = std::exchange(other.data_, nullptr);
    size_ = std::exchange(other.size_, 0);
  }
  return *this;
}

void MappedFile::unmap() {
  if (data_) ::munmap(const_cast<std::byte*>(data_), size_);
  data_ = nullptr;
}

Folder::Folder(const std::string& path) {
  std::error_code problem;
  const fs::path root = fs::canonical(path, problem);
  if (problem || path.empty())
    throw bundle_failure("the bundle " + in_quotes(path) + " does not exist; edge-export makes a bundle");
  if (!fs::is_directory(root, problem))
    throw bundle_failure("the bundle " + in_quotes(path) + " is a file, not a folder" +
                         (root.filename() == "manifest.json" ? ": give the folder that holds it" : ""));
  path_ = root.string();
}

MappedFile Folder::map(const std::string& name) const {
  std::error_code problem;
  const fs::path root(path_), path = fs::canonical(root / name, problem);
  if (problem) throw bundle_failure(name + " is missing: copy the bundle again");
  const auto inside = std::mismatch(root.begin(), root.end(), path.begin(), path.end());
  if (inside.first != root.end())
    throw bundle_failure(name + " is a link that leads out of the bundle: copy the file itself");
  // Not blocking, so that a named pipe cannot hold us up before it is seen not to be a file.
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW);
  if (descriptor < 0) throw bundle_failure(name + " cannot be read (" + reason() + ")");
  return {descriptor, name};
}

}  // namespace edge::capi
