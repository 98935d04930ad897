#include "engine/names/spool.h"

#include <sys/file.h>
#include <sys/stat.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "engine/system/durable_file.h"

namespace ctacct {
namespace {

constexpr mode_t kFolderMode = 0750;

absl::Status WriteCurrent(const std::string& folder, const std::string& bytes) {
  absl::StatusOr<DurableFile> file = DurableFile::Create(folder, std::string(kCurrentNamesFile));
  if (!file.ok()) return file.status();
  if (absl::Status status = file->Append(bytes); !status.ok()) return status;
  return file->Replace();
}

}  // namespace

absl::StatusOr<NamesSpool> NamesSpool::Open(const std::string& folder, const std::string& gateway) {
  if (mkdir(folder.c_str(), kFolderMode) != 0 && errno != EEXIST) {
    return FileError("make folder", folder, errno);
  }
  absl::StatusOr<UniqueFd> lock = OpenFolder(folder);
  if (!lock.ok()) return lock.status();
  if (flock(lock->get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return FileError("lock folder", folder, errno);
    return absl::FailedPreconditionError(
        absl::StrCat("folder ", folder, ": another names writes there; end it first"));
  }
  RemoveAbandonedFiles(folder);
  const absl::StatusOr<EngineId> id = NewEngineId();
  if (!id.ok()) return id.status();
  NamesSnapshot next;
  next.gateway = gateway;
  next.writer = *id;
  next.sequence = 1;
  return NamesSpool(folder, *std::move(lock), std::move(next));
}

absl::Status NamesSpool::Write(std::vector<NamesEntry> entries, int64_t time_ns) {
  next_.entries = std::move(entries);
  next_.time_ns = time_ns;
  const absl::StatusOr<std::string> bytes = EncodeNames(next_);
  if (!bytes.ok()) return bytes.status();
  absl::Status status = WriteDurably(folder_, NamesFileName(next_.writer, next_.sequence), *bytes);
  ++next_.sequence;
  if (!status.ok()) return status;
  return WriteCurrent(folder_, *bytes);
}

}  // namespace ctacct
