// SPDX-License-Identifier: Apache-2.0
#include "bundle.h"

#include "failure.h"
#include "sha256.h"

namespace edge::capi {

Bundle::Bundle(const std::string& path) {
  const Folder folder(path);
  {
    const MappedFile file = folder.map("manifest.json");
    // Parsed from a copy: whoever writes to the file meanwhile must not change what is being parsed.
    const std::string text(file.text().substr(0, kMaxManifestBytes + 1));
    manifest_ = parse_manifest(text);
    sha256_ = sha256_hex(std::as_bytes(std::span(text)));
  }
  for (const auto& [name, entry] : manifest_.files) {
    MappedFile file = folder.map(name);
    if (std::ssize(file.bytes()) != entry.bytes)
      throw bundle_failure(name + " has " + std::to_string(file.bytes().size()) + " bytes instead of " +
                           std::to_string(entry.bytes) + ": copy the bundle again");
    files_[name] = std::move(file);
  }
  for (const auto& [name, entry] : manifest_.files)
    if (sha256_hex(files_[name].bytes()) != entry.sha256)
      throw bundle_failure(name +
                           " does not match its SHA-256 in the manifest: copy or export the bundle again");
}

}  // namespace edge::capi
