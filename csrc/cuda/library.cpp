// SPDX-License-Identifier: Apache-2.0
#include "cuda/library.h"

#include <dlfcn.h>
#include <unistd.h>

namespace edge {

CudaLibrary::CudaLibrary(const std::string& path) {
  if (::access(path.c_str(), R_OK) != 0)
    throw DeviceUnusable("this build has no CUDA decoding library (" + path.substr(path.rfind('/') + 1) +
                         " is not there)");
  void* handle = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!handle) {
    const char* why = ::dlerror();
    throw DeviceUnusable(std::string("the CUDA decoding library does not load: ") + (why ? why : "unknown"));
  }
  const auto entry = reinterpret_cast<EdgeCudaEntry>(::dlsym(handle, EDGE_CUDA_ENTRY));
  api_ = entry ? entry(EDGE_CUDA_ABI) : nullptr;
  if (!api_ || api_->abi != EDGE_CUDA_ABI || api_->bytes != sizeof(EdgeCudaApi))
    throw DeviceUnusable("the CUDA decoding library is of another version than this package: reinstall both");
}

EdgeCudaDevice CudaLibrary::probe() const {
  EdgeCudaDevice device{};
  EdgeCudaReason reason{};
  if (api_->probe(&device, &reason) != EDGE_CUDA_OK) throw DeviceUnusable(reason.text);
  return device;
}

}  // namespace edge
