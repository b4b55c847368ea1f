// SPDX-License-Identifier: Apache-2.0
#include "shared_library.h"

#include <dlfcn.h>

#include <cstdlib>

#include "failure.h"
#include "utf8.h"

namespace edge::capi {
namespace {

constexpr int kHow = RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE;

std::string problem() {
  const char* text = ::dlerror();
  return text ? printable(text) : "unknown error";
}

}  // namespace

SharedLibrary::SharedLibrary(const std::string& path, const char* variable,
                             const std::vector<const char*>& names, const char* what) {
  std::string given = path, origin;
  if (given.empty()) {
    const char* named = std::getenv(variable);
    if (named && *named) given = named, origin = std::string(" (from $") + variable + ")";
  }
  if (!given.empty()) {
    handle_ = ::dlopen(given.c_str(), kHow);
    if (!handle_)
      throw Failure(EDGE_RUNTIME_MISSING,
                    std::string(what) + " cannot be opened: " + problem().substr(0, 300) + origin);
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
