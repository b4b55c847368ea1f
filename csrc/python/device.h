// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <pybind11/pybind11.h>

namespace edge {

// Binds what can be said about a CUDA device, and its memory, streams and recorded work.
void bind_device(pybind11::module_& m);

}  // namespace edge
