// SPDX-License-Identifier: Apache-2.0
// Does an ONNX file keep its data in other files? Those would be read without a hash. Walks the protobuf wire
// format (onnx.proto3) and looks only at TensorProto.data_location and external_data.
#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace edge::capi {

// Throws Failure (EDGE_BUNDLE) where it does, or where the file is no protobuf message.
void check_self_contained(std::span<const std::byte> file, const std::string& name);

}  // namespace edge::capi
