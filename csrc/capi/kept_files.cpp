// SPDX-License-Identifier: Apache-2.0
#include "kept_files.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <random>
#include <string_view>
#include <utility>
#include <vector>

#include "failure.h"
#include "json_writer.h"
#include "sha256.h"

namespace edge::capi {
namespace {

constexpr std::string_view kMagic = "edge-report plan 2\n", kSuffix = ".plan", kPartial = ".partial";
constexpr size_t kMostKeyBytes = 1 << 16, kDigest = 32, kPrefix = 16;
constexpr size_t kAligned = 4096;  // where what is kept begins in its file is a multiple of this
constexpr time_t kLongAgo = 3600;  // seconds

// As Python writes a dictionary: what a file is called and begins with is the same from either side.
std::string encoded(const KeptKey& key) {
  const auto quoted = [](const std::string& text) { return JsonWriter().text(text).take(); };
  std::string text = "{";
  for (const auto& [name, value] : key) {
    if (text.size() > 1) text += ", ";
    text += quoted(name) + ": " + quoted(value);
  }
  return text + "}";
}

std::string name_of(const KeptKey& key) {
  const std::string text = encoded(key);
  return key.at("graph").substr(0, kPrefix) + "-" + sha256_hex(std::as_bytes(std::span(text))) +
         std::string(kSuffix);
}

// What stands before the digest.
std::string head_of(const KeptKey& key) {
  std::string head = std::string(kMagic) + encoded(key);
  return head.append((kAligned - (head.size() + kDigest) % kAligned) % kAligned, '\n');
}

std::string digest_of(std::span<const std::byte> bytes) {
  const std::string digits = sha256_hex(bytes);
  std::string digest;
  for (size_t i = 0; i < digits.size(); i += 2)
    digest.push_back(static_cast<char>(std::stoi(digits.substr(i, 2), nullptr, 16)));
  return digest;
}

bool is_ours(const struct stat& found) {
  return found.st_uid == ::geteuid() && !(found.st_mode & (S_IWGRP | S_IWOTH));
}

// The variable's folder; of a program with more rights than its caller, who sets its environment, there is
// none.
std::string absolute(const char* variable) {
  const char* value = ::secure_getenv(variable);
  return value && *value == '/' ? value : "";
}

std::string base_folder() {
  if (std::string cache = absolute("XDG_CACHE_HOME"); !cache.empty()) return cache;
  const std::string home = absolute("HOME");
  return home.empty() ? "" : home + "/.cache";
}

// Makes what is missing, the last folder for this user alone, as Python's Path.mkdir does.
void make_folders(const std::string& path) {
  for (size_t end = path.find('/', 1); end != path.npos; end = path.find('/', end + 1))
    ::mkdir(path.substr(0, end).c_str(), 0777);
  ::mkdir(path.c_str(), 0700);
}

bool write_all(int file, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t done = ::write(file, bytes.data(), std::min(bytes.size(), size_t{1} << 30));
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) return false;
    bytes = bytes.subspan(static_cast<size_t>(done));
  }
  return true;
}

// The folder's files whose names end so, with the time at which they were written.
std::vector<std::pair<timespec, std::string>> listed(int folder, std::string_view suffix) {
  std::vector<std::pair<timespec, std::string>> found;
  // Its own place in the folder: a duplicate would share it.
  const int again = ::openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR* entries = again < 0 ? nullptr : ::fdopendir(again);
  if (!entries) {
    if (again >= 0) ::close(again);
    return found;
  }
  while (const dirent* entry = ::readdir(entries)) {
    const std::string name = entry->d_name;
    struct stat about{};
    if (name.ends_with(suffix) && ::fstatat(folder, name.c_str(), &about, AT_SYMLINK_NOFOLLOW) == 0)
      found.emplace_back(about.st_mtim, name);
  }
  ::closedir(entries);
  std::ranges::sort(found, [](const auto& a, const auto& b) {
    return std::pair(a.first.tv_sec, a.first.tv_nsec) < std::pair(b.first.tv_sec, b.first.tv_nsec);
  });
  return found;
}

}  // namespace

std::optional<KeptFiles> KeptFiles::open(const std::string& name) {
  const char* wanted = ::secure_getenv("EDGE_VISION_CACHE");
  const std::string base = base_folder();
  if (base.empty() || (wanted && std::strcmp(wanted, "off") == 0)) return std::nullopt;
  rlimit largest{};  // writing beyond it would end the process
  if (::getrlimit(RLIMIT_FSIZE, &largest) != 0 || largest.rlim_cur != RLIM_INFINITY) return std::nullopt;
  const std::string path = base + "/edge-report/" + name;
  make_folders(path);
  const int folder = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (folder < 0) return std::nullopt;
  KeptFiles files(folder);
  struct stat found{};
  if (::fstat(folder, &found) != 0 || !is_ours(found)) return std::nullopt;
  return files;
}

KeptFiles::KeptFiles(KeptFiles&& other) noexcept : folder_(std::exchange(other.folder_, -1)) {}

KeptFiles::~KeptFiles() {
  if (folder_ >= 0) ::close(folder_);
}

std::optional<KeptFile> KeptFiles::get(const KeptKey& key) const {
  const int file = ::openat(folder_, name_of(key).c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
  if (file < 0) return std::nullopt;
  struct stat found{};
  if (::fstat(file, &found) != 0 || !is_ours(found)) {
    ::close(file);
    return std::nullopt;
  }
  KeptFile kept;
  try {
    kept.file = MappedFile(file, "a compiled graph");  // closes it, and takes nothing but a regular file
  } catch (const Failure&) {
    return std::nullopt;
  }
  const std::string head = head_of(key);
  const std::string_view text = kept.file.text();
  if (head.size() > kMostKeyBytes || !text.starts_with(head) || text.size() <= head.size() + kDigest)
    return std::nullopt;
  kept.bytes = kept.file.bytes().subspan(head.size() + kDigest);
  if (digest_of(kept.bytes) != text.substr(head.size(), kDigest)) return std::nullopt;
  return kept;
}

bool KeptFiles::put(const KeptKey& key, std::span<const std::byte> bytes) const {
  std::random_device random;
  std::string partial = ".";
  partial.append(std::to_string(random())).append(std::to_string(random())).append(kPartial);
  const int file =
      ::openat(folder_, partial.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (file < 0) return false;
  const std::string head = head_of(key) + digest_of(bytes);
  const bool written =
      write_all(file, std::as_bytes(std::span(head))) && write_all(file, bytes) && ::fsync(file) == 0;
  const bool closed = ::close(file) == 0;
  if (written && closed && ::renameat(folder_, partial.c_str(), folder_, name_of(key).c_str()) == 0)
    return true;
  ::unlinkat(folder_, partial.c_str(), 0);
  return false;
}

void KeptFiles::drop(const KeptKey& key) const { ::unlinkat(folder_, name_of(key).c_str(), 0); }

void KeptFiles::drop_oldest(size_t but) const {
  const auto made = listed(folder_, kSuffix);
  for (size_t i = 0; i + but < made.size(); ++i) ::unlinkat(folder_, made[i].second.c_str(), 0);
  const time_t now = ::time(nullptr);
  for (const auto& [written, name] : listed(folder_, kPartial))
    if (written.tv_sec < now - kLongAgo) ::unlinkat(folder_, name.c_str(), 0);
}

}  // namespace edge::capi
