// SPDX-License-Identifier: Apache-2.0
// What goes wrong inside the library: a status and one line. Turned into an edge_error at the C border only.
#pragma once

#include <stdexcept>
#include <string>

#include "edge_report.h"

namespace edge::capi {

class Failure : public std::runtime_error {
 public:
  Failure(edge_status status, const std::string& message) : std::runtime_error(message), status_(status) {}
  edge_status status() const { return status_; }

 private:
  edge_status status_;
};

inline Failure bundle_failure(const std::string& message) { return {EDGE_BUNDLE, message}; }

}  // namespace edge::capi
