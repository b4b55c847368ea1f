// SPDX-License-Identifier: Apache-2.0
// What a runtime has made of a graph, in the user's cache; the twin of edge/vision/plans.py, and the same
// files. A runtime trusts what it made itself, so nothing is read that somebody else could have written.
#pragma once

#include <cstddef>
#include <map>
#include <optional>
#include <span>
#include <string>

#include "files.h"

namespace edge::capi {

// What a file was made for; `graph`, the SHA-256 of the graph's file, begins its name.
using KeptKey = std::map<std::string, std::string>;

// A file's mapping, and the part of it behind what says what it was made for.
struct KeptFile {
  MappedFile file;
  std::span<const std::byte> bytes;
};

class KeptFiles {
 public:
  // The folder `name` of $XDG_CACHE_HOME/edge-report, or ~/.cache/edge-report, is made where it is missing,
  // with access for this user alone. Nothing where $EDGE_VISION_CACHE is "off", where neither variable names
  // an absolute path, in a program with more rights than its caller, where files may not be of any size, and
  // where others may write to the folder.
  static std::optional<KeptFiles> open(const std::string& name);
  ~KeptFiles();
  KeptFiles(KeptFiles&& other) noexcept;
  KeptFiles& operator=(KeptFiles&&) = delete;

  // For exactly this key; nothing where there is none that can be trusted.
  std::optional<KeptFile> get(const KeptKey& key) const;
  // Whole or not at all.
  bool put(const KeptKey& key, std::span<const std::byte> bytes) const;
  void drop(const KeptKey& key) const;
  // Removes all but so many that were made last, and what was left half written long ago.
  void drop_oldest(size_t but) const;

 private:
  explicit KeptFiles(int folder) : folder_(folder) {}

  int folder_;  // open, so that it stays the one that was looked at
};

}  // namespace edge::capi
