// SPDX-License-Identifier: Apache-2.0
// The CUDA library, opened at run time: nothing else of this package knows CUDA.
#pragma once

#include <stdexcept>
#include <string>

#include "cuda/api.h"

namespace edge {

// The library or the device cannot be used; the message says why in one sentence.
struct DeviceUnusable : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The device can be used, but not for this model.
struct ModelUnsupported : DeviceUnusable {
  using DeviceUnusable::DeviceUnusable;
};

class CudaLibrary {
 public:
  // Throws DeviceUnusable where the file is missing, does not load or speaks another ABI. A library stays
  // open for the life of the process: the CUDA runtime inside it does not survive being closed.
  explicit CudaLibrary(const std::string& path);

  const EdgeCudaApi& api() const { return *api_; }
  // The device it would use; throws DeviceUnusable.
  EdgeCudaDevice probe() const;

 private:
  const EdgeCudaApi* api_;
};

}  // namespace edge
