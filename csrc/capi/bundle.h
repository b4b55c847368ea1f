// SPDX-License-Identifier: Apache-2.0
// An opened bundle: the manifest is valid and every listed file's size and SHA-256 are as it says. The files
// stay mapped, so what is parsed later is what was hashed.
#pragma once

#include <map>
#include <string>

#include "files.h"
#include "manifest.h"

namespace edge::capi {

class Bundle {
 public:
  // Throws Failure (EDGE_BUNDLE).
  explicit Bundle(const std::string& path);

  const Manifest& manifest() const { return manifest_; }
  // Of the bytes of manifest.json, which pins the rest.
  const std::string& sha256() const { return sha256_; }
  // A listed file.
  const MappedFile& file(const std::string& name) const { return files_.at(name); }
  // Gives the memory of a file back that nobody needs any more.
  void drop(const std::string& name) { files_.erase(name); }

 private:
  Manifest manifest_;
  std::string sha256_;
  std::map<std::string, MappedFile> files_;
};

}  // namespace edge::capi
