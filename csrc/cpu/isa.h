// SPDX-License-Identifier: Apache-2.0
// Instruction sets: detection at run time, selection by name.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "cpu/kernels.h"

namespace edge {

// Names of the levels this build holds and this machine can run, weakest first ("generic" is always there).
std::vector<std::string> isa_supported();

// The level to use: `name` if not empty, else the environment variable EDGE_ISA, else the best one.
// Throws std::invalid_argument naming the choices if the level is unknown or the machine lacks it.
std::string isa_select(std::string_view name = {});

// The kernels of a supported level; throws like isa_select.
const Kernels& kernels_for(std::string_view name);

}  // namespace edge
