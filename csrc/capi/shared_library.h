// SPDX-License-Identifier: Apache-2.0
// A library opened at run time. It is never closed: runtimes start threads that would lose their code.
#pragma once

#include <string>
#include <vector>

namespace edge::capi {

class SharedLibrary {
 public:
  // Opens `path`, or else what the environment variable names, or else the first of `names` that the loader
  // finds. Throws Failure (EDGE_RUNTIME_MISSING) saying what was tried; `what` is the runtime's name.
  SharedLibrary(const std::string& path, const char* variable, const std::vector<const char*>& names,
                const char* what);

  // Null where there is none.
  void* symbol(const char* name) const;
  template <class Function>
  Function function(const char* name) const {
    return reinterpret_cast<Function>(symbol(name));
  }

 private:
  void* handle_ = nullptr;
};

}  // namespace edge::capi
