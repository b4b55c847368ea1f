// SPDX-License-Identifier: Apache-2.0
// One large graph as OpenVINO has compiled it, in the user's cache; the twin of edge/vision/ov_cache.py,
// whose files are the same: what either has kept the other loads.
#pragma once

#include <map>
#include <optional>
#include <string>

#include "kept_files.h"
#include "openvino_api.h"

namespace edge::capi::openvino {

// What a graph is compiled with, beside the number of threads, which is not part of what is kept.
using Settings = std::map<std::string, std::string>;

class KeptGraph {
 public:
  // `graph`: SHA-256 of its file. The core has been given the settings.
  KeptGraph(const Api& api, Object* core, const std::string& graph, const Settings& settings);

  // Whether there was one that this OpenVINO takes; what it takes must go before this object.
  bool load(Owned& compiled);
  // A graph that was compiled just now; where that cannot be, nothing happens.
  void keep(const Owned& compiled);
  // Gives the memory of the file's pages back; what is still read of them comes back from the file.
  void let_go() const;

 private:
  const Api* api_;
  Object* core_;
  std::optional<KeptFiles> files_;  // until there is a graph
  KeptKey key_;
  KeptFile found_;
};

}  // namespace edge::capi::openvino
