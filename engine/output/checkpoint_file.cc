#include "engine/output/checkpoint_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "engine/system/clock.h"
#include "engine/system/durable_file.h"
#include "engine/system/write_all.h"

namespace ctacct {
namespace {

constexpr char kMagic[8] = {'C', 'T', 'C', 'H', 'K', 'P', 'T', '\n'};
// Of FlowRecord, too. Another version's file is as good as none.
constexpr uint32_t kVersion = 2;

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
constexpr useconds_t kLockPauseMicros = 10'000;

absl::Status WriteAt(int fd, const std::string& path, const void* data, size_t bytes,
                     off_t offset) {
  const int error = WriteAllAt(fd, {static_cast<const char*>(data), bytes}, offset);
  return error == 0 ? absl::OkStatus() : FileError("write", path, error);
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

absl::Status ReadHeader(int fd, const std::string& path, Header* header) {
  if (!ReadAll(fd, header, sizeof(*header), 0) ||
      std::memcmp(header->magic, kMagic, sizeof(kMagic)) != 0 || header->version != kVersion ||
      header->header_bytes != sizeof(*header) ||
      header->checksum != XXH3_64bits(header, offsetof(Header, checksum))) {
    return absl::NotFoundError(absl::StrCat(path, " is no checkpoint of this engine"));
  }
  return absl::OkStatus();
}

absl::Status WriteHeaderTo(int fd, const std::string& path, const CheckpointInfo& info,
                           uint64_t records_checksum) {
  Header header;
  std::memset(static_cast<void*>(&header), 0, sizeof(header));
  std::memcpy(header.magic, kMagic, sizeof(kMagic));
  header.version = kVersion;
  header.header_bytes = sizeof(header);
  header.info = info;
  header.records_checksum = records_checksum;
  header.checksum = XXH3_64bits(&header, offsetof(Header, checksum));
  return WriteAt(fd, path, &header, sizeof(header), 0);
}

XxhState NewHash() {
  XxhState hash(XXH3_createState());
  XXH3_64bits_reset(hash.get());
  return hash;
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

absl::StatusOr<CheckpointWriter> CheckpointWriter::Create(const std::string& path) {
  UniqueFd file(
      open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, kDurableFileMode));
  if (!file.valid()) return FileError("create", path, errno);
  return CheckpointWriter(path, std::move(file));
}

CheckpointWriter::CheckpointWriter(std::string path, UniqueFd file)
    : path_(std::move(path)), file_(std::move(file)), hash_(NewHash()) {}

absl::Status CheckpointWriter::Append(const std::vector<FlowRecord>& records) {
  const size_t bytes = records.size() * sizeof(FlowRecord);
  if (bytes == 0) return absl::OkStatus();
  XXH3_64bits_update(hash_.get(), records.data(), bytes);
  const auto offset = static_cast<off_t>(sizeof(Header) + count_ * sizeof(FlowRecord));
  count_ += records.size();
  return WriteAt(file_.get(), path_, records.data(), bytes, offset);
}

absl::Status CheckpointWriter::WriteHeader(const CheckpointInfo& info) {
  return WriteHeaderTo(file_.get(), path_, info, XXH3_64bits_digest(hash_.get()));
}

absl::StatusOr<UniqueFd> ReadCheckpoint(const std::string& path, CheckpointInfo* info) {
  *info = CheckpointInfo();
  info->flows_known = false;
  absl::StatusOr<UniqueFd> file = OpenRegularFile(AT_FDCWD, path, path);
  if (!file.ok()) return absl::NotFoundError(file.status().message());
  struct stat status {};
  if (fstat(file->get(), &status) == 0) info->taken_ns = TimespecNs(status.st_mtim);
  Header header;
  if (absl::Status checked = ReadHeader(file->get(), path, &header); !checked.ok()) return checked;
  const XxhState hash = NewHash();
  const bool read =
      ForEachFlow(*file, header.info.flow_count, [&](const FlowRecord* records, size_t count) {
        XXH3_64bits_update(hash.get(), records, count * sizeof(*records));
      });
  if (!read || XXH3_64bits_digest(hash.get()) != header.records_checksum) {
    return absl::NotFoundError(absl::StrCat(path, " is damaged"));
  }
  *info = header.info;
  return file;
}

bool ForEachFlow(const UniqueFd& file, uint64_t flow_count,
                 const std::function<void(const FlowRecord*, size_t)>& function) {
  std::vector<FlowRecord> records(kReadRecords);
  auto offset = static_cast<off_t>(sizeof(Header));
  while (flow_count != 0) {
    const size_t piece = std::min<uint64_t>(flow_count, records.size());
    if (!ReadAll(file.get(), records.data(), piece * sizeof(FlowRecord), offset)) return false;
    function(records.data(), piece);
    offset += static_cast<off_t>(piece * sizeof(FlowRecord));
    flow_count -= piece;
  }
  return true;
}

absl::Status VoidCheckpoint(const std::string& path, CheckpointInfo info) {
  info.flows_known = false;
  info.clean = false;
  info.flow_count = 0;
  const UniqueFd file(
      open(path.c_str(), O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, kDurableFileMode));
  if (file.valid() && WriteHeaderTo(file.get(), path, info, XXH3_64bits(nullptr, 0)).ok() &&
      ftruncate(file.get(), sizeof(Header)) == 0) {
    return absl::OkStatus();
  }
  if (unlink(path.c_str()) != 0 && errno != ENOENT) return FileError("remove", path, errno);
  return absl::OkStatus();
}

absl::Status MarkCheckpointClean(const std::string& path) {
  const UniqueFd file(open(path.c_str(), O_RDWR | O_NOFOLLOW | O_CLOEXEC));
  if (!file.valid()) return FileError("open", path, errno);
  Header header;
  if (absl::Status read = ReadHeader(file.get(), path, &header); !read.ok()) return read;
  header.info.clean = true;
  return WriteHeaderTo(file.get(), path, header.info, header.records_checksum);
}

absl::StatusOr<UniqueFd> LockFile(const std::string& path, int attempts) {
  // Not for writing: no file system can be made read-only while a file in it is open so.
  UniqueFd lock(open(path.c_str(), O_RDONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, kDurableFileMode));
  if (!lock.valid()) return FileError("open", path, errno);
  while (flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
    if (--attempts <= 0) return absl::UnavailableError(absl::StrCat(path, " is locked"));
    usleep(kLockPauseMicros);
  }
  return lock;
}

int64_t ModifiedNs(const std::string& path) {
  struct stat info {};
  return stat(path.c_str(), &info) == 0 ? TimespecNs(info.st_mtim) : 0;
}

std::string GatewayTag(absl::string_view gateway) {
  return absl::StrCat(absl::Hex(XXH3_64bits(gateway.data(), gateway.size()), absl::kZeroPad16));
}

std::string PreparedName::HiddenName() const {
  return absl::StrCat(tag, ".", engine_id, ".", absl::Dec(sequence, absl::kZeroPad20), ".", name);
}

bool PreparedName::Parse(absl::string_view hidden_name) {
  const std::vector<std::string> parts = absl::StrSplit(hidden_name, absl::MaxSplits('.', 3));
  if (parts.size() != 4 || parts[1].size() != EngineIdText(EngineId()).size() ||
      !absl::SimpleAtoi(parts[2], &sequence)) {
    return false;
  }
  tag = parts[0];
  engine_id = parts[1];
  name = parts[3];
  return !name.empty();
}

}  // namespace ctacct
