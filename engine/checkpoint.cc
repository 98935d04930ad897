#include "engine/checkpoint.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <limits>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "engine/durable_file.h"

namespace ctacct {
namespace {

constexpr char kMagic[8] = {'C', 'T', 'C', 'H', 'K', 'P', 'T', '\n'};
// Of FlowRecord, too. Another version's file is as good as none.
constexpr uint32_t kVersion = 1;

// As it lies in memory: the file is of no use to another machine, or after a boot.
struct Header {
  char magic[8];
  uint32_t version;
  uint32_t header_bytes;
  CheckpointInfo info;
  uint64_t records_checksum;
  uint64_t checksum;  // Of all bytes before it.
};
static_assert(std::is_trivially_copyable_v<Header>);

// Read at once: 64 KiB.
constexpr size_t kReadRecords = 1024;
// More files of one name are a mistake elsewhere: see CsvSink.
constexpr int kSameNameMax = 1000;

constexpr size_t kSequenceDigits = 20;

// Two seconds: the kernel takes a tenth of one to end a process of a few hundred megabytes.
constexpr int kLockAttempts = 200;
constexpr useconds_t kLockPauseMicros = 10'000;

constexpr char kFolder[] = ".ctacct";
constexpr mode_t kFolderMode = 0750;
constexpr char kCheckpoint[] = ".checkpoint";
constexpr char kNew[] = ".new";

absl::Status WriteAll(int fd, const void* data, size_t bytes, off_t offset) {
  const char* at = static_cast<const char*>(data);
  while (bytes != 0) {
    const ssize_t written = pwrite(fd, at, bytes, offset);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return absl::ErrnoToStatus(errno, "write");
    at += written;
    offset += written;
    bytes -= static_cast<size_t>(written);
  }
  return absl::OkStatus();
}

// False also if the file ends before.
bool ReadAll(int fd, void* data, size_t bytes, off_t offset) {
  char* at = static_cast<char*>(data);
  while (bytes != 0) {
    const ssize_t got = pread(fd, at, bytes, offset);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    at += got;
    offset += got;
    bytes -= static_cast<size_t>(got);
  }
  return true;
}

// Calls `function` for pieces of the records; false if they cannot be read.
bool ForEachRecords(int fd, uint64_t count,
                    const std::function<void(const FlowRecord*, size_t)>& function) {
  std::vector<FlowRecord> records(kReadRecords);
  auto offset = static_cast<off_t>(sizeof(Header));
  while (count != 0) {
    const size_t piece = std::min<uint64_t>(count, records.size());
    if (!ReadAll(fd, records.data(), piece * sizeof(FlowRecord), offset)) return false;
    function(records.data(), piece);
    offset += static_cast<off_t>(piece * sizeof(FlowRecord));
    count -= piece;
  }
  return true;
}

absl::Status CheckedHeader(int fd, const std::string& path, Header* header) {
  if (!ReadAll(fd, header, sizeof(*header), 0) ||
      std::memcmp(header->magic, kMagic, sizeof(kMagic)) != 0 || header->version != kVersion ||
      header->header_bytes != sizeof(*header) ||
      header->checksum != XXH3_64bits(header, offsetof(Header, checksum))) {
    return absl::NotFoundError(absl::StrCat(path, " is no checkpoint of this engine"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<KernelIdentity> ThisKernel() {
  KernelIdentity kernel;
  std::string text;
  constexpr char kPath[] = "/proc/sys/kernel/random/boot_id";
  if (!(std::ifstream(kPath) >> text)) return FileError("read", kPath, errno);
  text.copy(kernel.boot_id, sizeof(kernel.boot_id) - 1);
  // Unique for as long as the kernel runs (5.14 and later); an inode number may come again.
  const UniqueFd any_socket(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  socklen_t length = sizeof(kernel.network_namespace);
#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71
#endif
  if (getsockopt(any_socket.get(), SOL_SOCKET, SO_NETNS_COOKIE, &kernel.network_namespace,
                 &length) != 0) {
    struct stat info {};
    if (stat("/proc/self/ns/net", &info) != 0)
      return FileError("examine", "/proc/self/ns/net", errno);
    kernel.network_namespace = info.st_ino;
  }
  return kernel;
}

absl::StatusOr<std::unique_ptr<Checkpoint>> Checkpoint::Open(const std::string& folder,
                                                             const std::string& gateway) {
  auto checkpoint = std::unique_ptr<Checkpoint>(new Checkpoint(
      folder,
      absl::StrCat(absl::Hex(XXH3_64bits(gateway.data(), gateway.size()), absl::kZeroPad16))));
  checkpoint->EnsureFolder();
  const std::string path = checkpoint->Path(".lock");
  // Not for writing: no file system can be made read-only while a file in it is open so.
  checkpoint->lock_ =
      UniqueFd(open(path.c_str(), O_RDONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, kDurableFileMode));
  if (!checkpoint->lock_.valid()) return FileError("open", path, errno);
  // An engine that was killed just now may still be on its way out.
  for (int left = kLockAttempts; flock(checkpoint->lock_.get(), LOCK_EX | LOCK_NB) != 0; --left) {
    if (left == 0) {
      return absl::UnavailableError(
          absl::StrCat("another engine writes for this gateway into ", folder));
    }
    usleep(kLockPauseMicros);
  }
  return checkpoint;
}

std::string Checkpoint::Path(const char* end) const {
  return absl::StrCat(folder_, "/", kFolder, "/", tag_, end);
}

void Checkpoint::EnsureFolder() const {
  // If it cannot be, whoever needs it will say so.
  [[maybe_unused]] const int made = mkdir(absl::StrCat(folder_, "/", kFolder).c_str(), kFolderMode);
}

absl::Status Checkpoint::Recover(const std::function<bool(const CheckpointInfo&)>& begin,
                                 const std::function<void(const FlowRecord&)>& flow) {
  unlink(Path(kNew).c_str());
  Header header;
  absl::Status found;
  const std::string path = Path(kCheckpoint);
  const absl::StatusOr<UniqueFd> fd = OpenRegularFile(AT_FDCWD, path, path);
  if (fd.ok()) {
    found = CheckedHeader(fd->get(), path, &header);
  } else {
    found = absl::NotFoundError(fd.status().message());
  }
  if (found.ok()) {
    hash_.reset(XXH3_createState());
    XXH3_64bits_reset(hash_.get());
    const bool read = ForEachRecords(
        fd->get(), header.info.flow_count, [&](const FlowRecord* records, size_t count) {
          XXH3_64bits_update(hash_.get(), records, count * sizeof(*records));
        });
    if (!read || XXH3_64bits_digest(hash_.get()) != header.records_checksum) {
      found = absl::NotFoundError(absl::StrCat(path, " is damaged"));
    }
  }
  bool restored = false;
  if (found.ok() && begin(header.info)) {
    restored = true;
    if (!ForEachRecords(fd->get(), header.info.flow_count,
                        [&](const FlowRecord* records, size_t count) {
                          for (size_t i = 0; i < count; ++i) flow(records[i]);
                        })) {
      return absl::UnavailableError(absl::StrCat(path, ": changed while it was read"));
    }
  }
  const absl::Status published = PublishHidden(restored ? &header.info : nullptr);
  return published.ok() ? found : published;
}

// What the files of the checkpoint do not tell will be accounted anew from it; without one
// (nullptr) it will not.
absl::Status Checkpoint::PublishHidden(const CheckpointInfo* restored) const {
  const std::string folder = absl::StrCat(folder_, "/", kFolder);
  DIR* const entries = opendir(folder.c_str());
  if (entries == nullptr) return FileError("read folder", folder, errno);
  // TAG.ENGINE.SEQUENCE.NAME
  const size_t engine_at = tag_.size() + 1;
  const size_t sequence_at = engine_at + EngineIdText(info_.engine_id).size() + 1;
  const size_t name_at = sequence_at + kSequenceDigits + 1;
  std::vector<std::string> hidden_names;
  while (const dirent* entry = readdir(entries)) {
    const std::string name = entry->d_name;
    if (name.size() > name_at && absl::StartsWith(name, tag_ + ".") && name[name_at - 1] == '.') {
      hidden_names.push_back(name);
    }
  }
  closedir(entries);
  std::sort(hidden_names.begin(), hidden_names.end());
  for (const std::string& hidden : hidden_names) {
    uint64_t sequence = 0;
    const bool wanted =
        restored == nullptr ||
        (absl::StartsWith(hidden.substr(engine_at), EngineIdText(restored->engine_id)) &&
         absl::SimpleAtoi(hidden.substr(sequence_at, kSequenceDigits), &sequence) &&
         sequence <= restored->last_sequence);
    const std::string path = absl::StrCat(folder, "/", hidden);
    if (!wanted) {
      if (unlink(path.c_str()) != 0) return FileError("remove", path, errno);
    } else if (absl::Status status =
                   Publish(absl::StrCat(kFolder, "/", hidden), hidden.substr(name_at));
               !status.ok()) {
      return status;
    }
  }
  return absl::OkStatus();
}

void Checkpoint::Start(const CheckpointInfo& info, size_t workers) {
  info_ = info;
  workers_ = workers;
}

void Checkpoint::Add(SnapshotChunk chunk) {
  // Each worker's snapshots come one after the other, but one worker's next may come before
  // another's last.
  if (begun_ && state_ == State::kNone && chunk.seal != seal_) {
    later_.push_back(std::move(chunk));
    return;
  }
  if (!begun_ || chunk.seal != seal_) BeginFile(chunk.seal);
  AddToFile(chunk);
  if (begun_ && state_ == State::kNone) return;
  for (SnapshotChunk& waiting : std::exchange(later_, {})) Add(std::move(waiting));
}

void Checkpoint::BeginFile(uint64_t seal) {
  EnsureFolder();
  begun_ = true;
  seal_ = seal;
  state_ = State::kNone;
  workers_done_ = 0;
  whole_ = true;
  error_ = absl::OkStatus();
  info_.taken_ns = std::numeric_limits<int64_t>::max();
  info_.flow_count = 0;
  info_.known_since_ns = std::numeric_limits<int64_t>::min();
  hash_.reset(XXH3_createState());
  XXH3_64bits_reset(hash_.get());
  file_ = UniqueFd(open(Path(kNew).c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC,
                        kDurableFileMode));
  if (!file_.valid()) Fail(FileError("create", Path(kNew), errno));
}

void Checkpoint::AddToFile(const SnapshotChunk& chunk) {
  const size_t bytes = chunk.records.size() * sizeof(FlowRecord);
  if (error_.ok() && bytes != 0) {
    XXH3_64bits_update(hash_.get(), chunk.records.data(), bytes);
    const off_t offset = static_cast<off_t>(sizeof(Header) + info_.flow_count * sizeof(FlowRecord));
    if (absl::Status status = WriteAll(file_.get(), chunk.records.data(), bytes, offset);
        !status.ok()) {
      Fail(absl::Status(status.code(), absl::StrCat(Path(kNew), ": ", status.message())));
    }
  }
  info_.flow_count += chunk.records.size();
  // Of several workers the latest: what one has forgotten must not count from zero.
  info_.known_since_ns = std::max(info_.known_since_ns, chunk.known_since_ns);
  info_.taken_ns = std::min(info_.taken_ns, chunk.taken_ns);
  whole_ = whole_ && chunk.whole;
  if (!chunk.last || ++workers_done_ < workers_) return;
  if (!whole_) {
    begun_ = false;  // As if it had never begun; the next one will be whole.
    file_ = UniqueFd();
    return;
  }
  state_ = error_.ok() ? State::kComplete : State::kFailed;
}

void Checkpoint::Fail(absl::Status status) {
  error_ = std::move(status);
  file_ = UniqueFd();
  unlink(Path(kNew).c_str());  // Its space is needed for rows.
}

absl::Status Checkpoint::WriteHeader(int fd) const {
  Header header;
  std::memset(static_cast<void*>(&header), 0, sizeof(header));
  std::memcpy(header.magic, kMagic, sizeof(kMagic));
  header.version = kVersion;
  header.header_bytes = sizeof(header);
  header.info = info_;
  header.records_checksum = XXH3_64bits_digest(hash_.get());
  header.checksum = XXH3_64bits(&header, offsetof(Header, checksum));
  return WriteAll(fd, &header, sizeof(header), 0);
}

absl::Status Checkpoint::Commit(uint64_t last_sequence) {
  info_.last_sequence = last_sequence;
  absl::Status status = WriteHeader(file_.get());
  if (status.ok() && rename(Path(kNew).c_str(), Path(kCheckpoint).c_str()) != 0) {
    status = absl::ErrnoToStatus(errno, "rename");
  }
  if (!status.ok()) {
    Fail(absl::Status(status.code(), absl::StrCat(Path(kNew), ": ", status.message())));
    state_ = State::kFailed;
    return error_;
  }
  file_ = UniqueFd();
  state_ = State::kNone;
  begun_ = false;
  valid_ = true;
  return absl::OkStatus();
}

absl::Status Checkpoint::MarkClean() {
  if (!valid_) return absl::OkStatus();
  const std::string path = Path(kCheckpoint);
  const UniqueFd file(open(path.c_str(), O_WRONLY | O_NOFOLLOW | O_CLOEXEC));
  if (!file.valid()) return FileError("open", path, errno);
  info_.clean = true;
  return WriteHeader(file.get());
}

absl::Status Checkpoint::Discard() {
  const std::string path = Path(kCheckpoint);
  if (unlink(path.c_str()) != 0 && errno != ENOENT) return FileError("remove", path, errno);
  valid_ = false;
  file_ = UniqueFd();
  state_ = State::kNone;
  begun_ = false;
  return absl::OkStatus();
}

std::string Checkpoint::HiddenName(uint64_t sequence, const std::string& name) const {
  return absl::StrCat(kFolder, "/", tag_, ".", EngineIdText(info_.engine_id), ".",
                      absl::Dec(sequence, absl::kZeroPad20), ".", name);
}

absl::Status Checkpoint::Publish(const std::string& hidden_name, const std::string& name) const {
  absl::string_view stem = name;
  const bool csv = absl::ConsumeSuffix(&stem, ".csv");
  absl::Status status = PublishPrepared(folder_, hidden_name, name);
  for (int copy = 1; csv && copy < kSameNameMax && absl::IsAlreadyExists(status); ++copy) {
    status = PublishPrepared(folder_, hidden_name, absl::StrCat(stem, "_", copy, ".csv"));
  }
  return status;
}

}  // namespace ctacct
