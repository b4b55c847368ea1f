// SPDX-License-Identifier: Apache-2.0
#include "openvino_kept.h"

#include <sys/mman.h>
#include <unistd.h>

#include <exception>
#include <set>
#include <sstream>
#include <utility>

#include "heap.h"

namespace edge::capi::openvino {
namespace {

constexpr size_t kMost = 3;  // compiled graphs that are kept, about a hundred megabytes each

struct Version {
  const char* number;
  const char* description;
};

std::string version(const Api& api) {
  Version found{};
  try {
    api.call("ov_get_openvino_version", &found);
  } catch (const Refused&) {
    return {};
  }
  const std::string number = found.number ? found.number : "";
  api.release("ov_version_free", &found);
  return number;
}

std::string sorted_words(const std::string& text) {
  std::istringstream stream(text);
  std::multiset<std::string> words;
  for (std::string word; stream >> word;) words.insert(word);
  std::string joined;
  for (const std::string& word : words) joined += (joined.empty() ? "" : " ") + word;
  return joined;
}

std::string joined(const Settings& settings) {
  std::string text;
  for (const auto& [name, value] : settings) text += (text.empty() ? "" : " ") + name + "=" + value;
  return text;
}

}  // namespace

KeptGraph::KeptGraph(const Api& api, Object* core, const std::string& graph, const Settings& settings)
    : api_(&api), core_(core), files_(KeptFiles::open("openvino")) {
  if (!files_) return;
  key_ = {{"graph", graph},
          {"openvino", version(api)},
          {"processor", property(api, core, "FULL_DEVICE_NAME")},
          {"can", sorted_words(property(api, core, "OPTIMIZATION_CAPABILITIES"))},
          {"options", joined(settings)}};
  // Where a version does not tell, nothing says what a file would be good for.
  for (const auto& [name, value] : key_)
    if (value.empty()) files_.reset();
}

bool KeptGraph::load(Owned& compiled) {
  std::optional<KeptFile> found = files_ ? files_->get(key_) : std::nullopt;
  if (!found) return false;
  try {
    api_->call("ov_core_import_model", static_cast<const Object*>(core_),
               reinterpret_cast<const char*>(found->bytes.data()), found->bytes.size(), "CPU",
               compiled.out());
  } catch (const Refused&) {
    files_->drop(key_);
    return false;
  }
  found_ = std::move(*found);
  files_.reset();
  return true;
}

void KeptGraph::keep(const Owned& compiled) {
  const std::optional<KeptFiles> files = std::move(files_);
  if (!files) return;
  trim_heap();  // what compiling has left behind, before there is a copy in memory
  // OpenVINO exports to a path and does not say where the disk was full: so to memory first.
  const int memory = ::memfd_create("compiled graph", MFD_CLOEXEC);
  if (memory < 0) return;
  try {
    const std::string path = "/proc/self/fd/" + std::to_string(memory);
    api_->call("ov_compiled_model_export_model", static_cast<const Object*>(compiled.get()), path.c_str());
    const MappedFile made(memory, "a compiled graph");  // closes it
    if (!made.bytes().empty() && files->put(key_, made.bytes())) files->drop_oldest(kMost);
  } catch (const Refused&) {
    ::close(memory);
  } catch (const std::exception&) {
  }
}

void KeptGraph::let_go() const {
  if (const auto all = found_.file.bytes(); !all.empty())
    ::madvise(const_cast<std::byte*>(all.data()), all.size(), MADV_DONTNEED);
}

}  // namespace edge::capi::openvino
