// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <pybind11/pybind11.h>

namespace edge {

// Binds the single kernels, so that tests can compare each with its NumPy twin.
void bind_ops(pybind11::module_& m);

}  // namespace edge
