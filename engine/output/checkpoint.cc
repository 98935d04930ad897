#include "engine/output/checkpoint.h"

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
#include "engine/system/durable_file.h"

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
constexpr char kLock[] = ".lock";

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

absl::Status WriteHeader(int fd, const CheckpointInfo& info, uint64_t records_checksum) {
  Header header;
  std::memset(static_cast<void*>(&header), 0, sizeof(header));
  std::memcpy(header.magic, kMagic, sizeof(kMagic));
  header.version = kVersion;
  header.header_bytes = sizeof(header);
  header.info = info;
  header.records_checksum = records_checksum;
  header.checksum = XXH3_64bits(&header, offsetof(Header, checksum));
  return WriteAll(fd, &header, sizeof(header), 0);
}

int64_t ModifiedNs(const struct stat& info) {
  return info.st_mtim.tv_sec * int64_t{1'000'000'000} + info.st_mtim.tv_nsec;
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
  [[maybe_unused]] const int made = mkdir(absl::StrCat(folder, "/", kFolder).c_str(), kFolderMode);
  const std::string path = checkpoint->Path(kLock);
  struct stat info {};
  if (stat(path.c_str(), &info) == 0) checkpoint->started_before_ns_ = ModifiedNs(info);
  // An engine that was killed just now may still be on its way out.
  if (absl::Status status = checkpoint->TakeLock(kLockAttempts); !status.ok()) return status;
  futimens(checkpoint->lock_.get(), nullptr);
  return checkpoint;
}

absl::Status Checkpoint::TakeLock(int attempts) {
  const std::string path = Path(kLock);
  // Not for writing: no file system can be made read-only while a file in it is open so.
  lock_ =
      UniqueFd(open(path.c_str(), O_RDONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, kDurableFileMode));
  if (!lock_.valid()) return FileError("open", path, errno);
  while (flock(lock_.get(), LOCK_EX | LOCK_NB) != 0) {
    if (--attempts <= 0) {
      return absl::UnavailableError(
          absl::StrCat("another engine writes for this gateway into ", folder_));
    }
    usleep(kLockPauseMicros);
  }
  return absl::OkStatus();
}

std::string Checkpoint::Path(absl::string_view end) const {
  return absl::StrCat(folder_, "/", kFolder, "/", tag_, end);
}

void Checkpoint::EnsureFolder() {
  // If it cannot be, whoever needs it will say so.
  if (mkdir(absl::StrCat(folder_, "/", kFolder).c_str(), kFolderMode) != 0) return;
  // It was removed, and the lock with it.
  [[maybe_unused]] const absl::Status ignored = TakeLock(1);
}

// NotFound: there is none that can be read. `*info` is what is known all the same.
absl::Status Checkpoint::ReadInfo(UniqueFd* file, CheckpointInfo* info) const {
  *info = CheckpointInfo();
  info->flows_known = false;
  const std::string path = Path(kCheckpoint);
  absl::StatusOr<UniqueFd> fd = OpenRegularFile(AT_FDCWD, path, path);
  if (!fd.ok()) {
    info->taken_ns = started_before_ns_;
    return absl::NotFoundError(fd.status().message());
  }
  struct stat status {};
  if (fstat(fd->get(), &status) == 0) info->taken_ns = ModifiedNs(status);
  Header header;
  if (absl::Status checked = CheckedHeader(fd->get(), path, &header); !checked.ok()) return checked;
  const std::unique_ptr<XXH3_state_t, HashStateDeleter> hash(XXH3_createState());
  XXH3_64bits_reset(hash.get());
  const bool read = ForEachRecords(
      fd->get(), header.info.flow_count, [&](const FlowRecord* records, size_t count) {
        XXH3_64bits_update(hash.get(), records, count * sizeof(*records));
      });
  if (!read || XXH3_64bits_digest(hash.get()) != header.records_checksum) {
    return absl::NotFoundError(absl::StrCat(path, " is damaged"));
  }
  *info = header.info;
  *file = *std::move(fd);
  return absl::OkStatus();
}

absl::Status Checkpoint::MakeVoid(CheckpointInfo info) const {
  info.flows_known = false;
  info.clean = false;
  info.flow_count = 0;
  const std::string path = Path(kCheckpoint);
  // In its place: a full disk has no room for another.
  const UniqueFd file(
      open(path.c_str(), O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, kDurableFileMode));
  if (file.valid() && WriteHeader(file.get(), info, XXH3_64bits(nullptr, 0)).ok() &&
      ftruncate(file.get(), sizeof(Header)) == 0) {
    return absl::OkStatus();
  }
  if (unlink(path.c_str()) != 0 && errno != ENOENT) return FileError("remove", path, errno);
  return absl::OkStatus();
}

absl::Status Checkpoint::Recover(const std::function<bool(const CheckpointInfo&)>& begin,
                                 const std::function<void(const FlowRecord&)>& flow) {
  unlink(Path(kNew).c_str());
  UniqueFd file;
  CheckpointInfo before;
  const absl::Status found = ReadInfo(&file, &before);
  if (!found.ok() && before.taken_ns == 0) return PublishHidden(nullptr, true);
  known_until_ns_ = before.taken_ns;
  const bool restored = begin(before) && before.flows_known;
  if (!restored) {
    // Before rows become visible that a later restart would account anew.
    if (absl::Status status = MakeVoid(before); !status.ok()) return status;
  } else if (!ForEachRecords(file.get(), before.flow_count,
                             [&](const FlowRecord* records, size_t count) {
                               for (size_t i = 0; i < count; ++i) flow(records[i]);
                             })) {
    return absl::UnavailableError(absl::StrCat(Path(kCheckpoint), ": changed while it was read"));
  }
  return PublishHidden(restored ? &before : nullptr, true);
}

absl::Status Checkpoint::RecoverOthers(const KernelIdentity& kernel) const {
  const absl::StatusOr<std::vector<std::string>> names = Names();
  if (!names.ok()) return names.status();
  for (const std::string& name : *names) {
    absl::string_view tag = name;
    if (!absl::ConsumeSuffix(&tag, kLock) || tag == tag_) continue;
    Checkpoint other(folder_, std::string(tag));
    if (!other.TakeLock(1).ok()) continue;  // It runs.
    UniqueFd file;
    CheckpointInfo info;
    const bool known = other.ReadInfo(&file, &info).ok() && info.flows_known;
    absl::Status status;
    if (known && info.kernel == kernel) status = other.MakeVoid(info);
    const bool valid = known && !(info.kernel == kernel);
    if (status.ok()) status = other.PublishHidden(valid ? &info : nullptr, false);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> Checkpoint::Names() const {
  const std::string folder = absl::StrCat(folder_, "/", kFolder);
  DIR* const entries = opendir(folder.c_str());
  if (entries == nullptr) return FileError("read folder", folder, errno);
  std::vector<std::string> names;
  while (const dirent* entry = readdir(entries)) names.push_back(entry->d_name);
  closedir(entries);
  std::sort(names.begin(), names.end());
  return names;
}

// What the files of a valid checkpoint do not tell will be accounted anew from it; without one it
// will not.
absl::Status Checkpoint::PublishHidden(const CheckpointInfo* valid, bool remove) const {
  const absl::StatusOr<std::vector<std::string>> names = Names();
  if (!names.ok()) return names.status();
  // TAG.ENGINE.SEQUENCE.NAME
  const size_t engine_at = tag_.size() + 1;
  const size_t sequence_at = engine_at + EngineIdText(info_.engine_id).size() + 1;
  const size_t name_at = sequence_at + kSequenceDigits + 1;
  for (const std::string& hidden : *names) {
    if (hidden.size() <= name_at || !absl::StartsWith(hidden, tag_ + ".") ||
        hidden[name_at - 1] != '.') {
      continue;
    }
    uint64_t sequence = 0;
    const bool wanted =
        valid == nullptr ||
        (absl::StartsWith(hidden.substr(engine_at), EngineIdText(valid->engine_id)) &&
         absl::SimpleAtoi(hidden.substr(sequence_at, kSequenceDigits), &sequence) &&
         sequence <= valid->last_sequence);
    const std::string path = absl::StrCat(folder_, "/", kFolder, "/", hidden);
    if (wanted) {
      const absl::Status status =
          Publish(absl::StrCat(kFolder, "/", hidden), hidden.substr(name_at));
      if (!status.ok()) return status;
    } else if (remove && unlink(path.c_str()) != 0) {
      return FileError("remove", path, errno);
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
  known_until_ns_ = info_.taken_ns;
  state_ = error_.ok() ? State::kComplete : State::kFailed;
}

void Checkpoint::Fail(absl::Status status) {
  error_ = std::move(status);
  file_ = UniqueFd();
  unlink(Path(kNew).c_str());  // Its space is needed for rows.
}

absl::Status Checkpoint::Commit(uint64_t last_sequence, int64_t interval_end_ns) {
  info_.last_sequence = last_sequence;
  info_.interval_end_ns = interval_end_ns;
  absl::Status status = WriteHeader(file_.get(), info_, XXH3_64bits_digest(hash_.get()));
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
  return WriteHeader(file.get(), info_, XXH3_64bits_digest(hash_.get()));
}

absl::Status Checkpoint::Discard() {
  CheckpointInfo info = info_;
  info.taken_ns = known_until_ns_;
  if (absl::Status status = MakeVoid(info); !status.ok()) return status;
  valid_ = false;
  file_ = UniqueFd();
  state_ = State::kNone;
  begun_ = false;
  return absl::OkStatus();
}

void Checkpoint::GiveWay(const absl::Status& why) {
  if (!file_.valid()) return;
  Fail(why);
  if (state_ == State::kComplete) state_ = State::kFailed;
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
