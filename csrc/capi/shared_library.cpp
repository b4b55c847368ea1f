// SPDX-License-Identifier: Apache-2.0
#include "shared_library.h"

#include <dlfcn.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <fstream>

#include "failure.h"
#include "utf8.h"

namespace edge::capi {
namespace {

constexpr int kHow = RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE;

std::string problem() {
  const char* text = ::dlerror();
  return text ? printable(text) : "unknown error";
}

// What an ELF file begins with: its class is byte 4, its machine bytes 18 and 19.
using ElfHead = std::array<char, 20>;

// Of such a file the loader says that it does not exist.
bool is_for_another_processor(const std::string& path) {
  ElfHead theirs{};
  if (!std::ifstream(path, std::ios::binary).read(theirs.data(), theirs.size())) return false;
  Dl_info own{};
  if (::dladdr(reinterpret_cast<void*>(&is_for_another_processor), &own) == 0) return false;
  const auto* ours = static_cast<const char*>(own.dli_fbase);
  return std::equal(ours, ours + 4, theirs.begin()) &&
         (theirs[4] != ours[4] || theirs[18] != ours[18] || theirs[19] != ours[19]);
}

}  // namespace

SharedLibrary::SharedLibrary(const std::string& path, const char* variable,
                             const std::vector<const char*>& names, const char* what) {
  std::string given = path, origin;
  if (given.empty()) {
    const char* named = ::secure_getenv(variable);
    if (named && *named) given = named, origin = std::string(" (from $") + variable + ")";
  }
  if (!given.empty()) {
    handle_ = ::dlopen(given.c_str(), kHow);
    if (!handle_) {
      const std::string why = is_for_another_processor(given)
                                  ? printable(given.substr(0, 300)) + ": built for another kind of processor"
                                  : problem().substr(0, 300);
      throw Failure(EDGE_RUNTIME_MISSING, std::string(what) + " cannot be opened: " + why + origin);
    }
    return;
  }
  for (const char* name : names)
    if ((handle_ = ::dlopen(name, kHow))) return;
  throw Failure(EDGE_RUNTIME_MISSING,
                std::string(what) + " (" + names.front() +
                    ") is not on the loader's path: name its file in runtime_library or $" + variable);
}

void* SharedLibrary::symbol(const char* name) const { return ::dlsym(handle_, name); }

}  // namespace edge::capi
