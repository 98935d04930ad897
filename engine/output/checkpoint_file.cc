#include "engine/output/checkpoint_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/random.h>
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
#include "engine/rows/traffic_row.h"
#include "engine/system/clock.h"
#include "engine/system/durable_file.h"
#include "engine/system/write_all.h"

namespace ctacct {
namespace {

constexpr char kMagic[8] = {'C', 'T', 'C', 'H', 'K', 'P', 'T', '\n'};
// Also of FlowRecord. Another version's file counts as missing.
constexpr uint32_t kVersion = 4;

struct Header {
  char magic[8];
  uint32_t version;
  uint32_t header_bytes;
  CheckpointInfo info;
  uint64_t records_checksum;
  uint64_t checksum;  // Of all bytes before it.
};
static_assert(std::is_trivially_copyable_v<Header>);

// Before the records of one family.
struct BlockHeader {
  uint32_t family;  // AddressFamily.
  uint32_t count;   // At most SnapshotChunk::kRecordsMax.
};
static_assert(sizeof(BlockHeader) == 8);
constexpr useconds_t kLockPauseMicros = 10'000;

constexpr mode_t kStateFileMode = 0600;
constexpr size_t kStateIdDigits = 16;

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

constexpr uint32_t kIpv4Family = static_cast<uint32_t>(AddressFamily::kIpv4);
constexpr uint32_t kIpv6Family = static_cast<uint32_t>(AddressFamily::kIpv6);

// Calls `function` for each block, in memory for that long; false if they cannot be read.
bool ForEachBlock(const UniqueFd& file, uint64_t flow_count,
                  const std::function<void(const BlockHeader&, const void*, size_t)>& function) {
  std::vector<Ipv6FlowRecord> buffer(SnapshotChunk::kRecordsMax);  // The larger ones.
  auto offset = static_cast<off_t>(sizeof(Header));
  while (flow_count != 0) {
    BlockHeader block;
    if (!ReadAll(file.get(), &block, sizeof(block), offset)) return false;
    offset += static_cast<off_t>(sizeof(block));
    if ((block.family != kIpv4Family && block.family != kIpv6Family) || block.count == 0 ||
        block.count > std::min<uint64_t>(flow_count, SnapshotChunk::kRecordsMax)) {
      return false;
    }
    const size_t bytes =
        block.count * (block.family == kIpv4Family ? sizeof(FlowRecord) : sizeof(Ipv6FlowRecord));
    if (!ReadAll(file.get(), buffer.data(), bytes, offset)) return false;
    function(block, buffer.data(), bytes);
    offset += static_cast<off_t>(bytes);
    flow_count -= block.count;
  }
  return true;
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

void CheckpointInfo::set_gateway(absl::string_view name) {
  std::memset(gateway, 0, sizeof(gateway));
  name.copy(gateway, sizeof(gateway) - 1);
}

absl::StatusOr<CheckpointWriter> CheckpointWriter::Create(const FileIn& file) {
  constexpr int kFlags = O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC;
  UniqueFd fd(openat(file.folder_fd, file.name.c_str(), kFlags, kStateFileMode));
  if (!fd.valid()) return FileError("create", file.path, errno);
  return CheckpointWriter(file.path, std::move(fd));
}

CheckpointWriter::CheckpointWriter(std::string path, UniqueFd file)
    : path_(std::move(path)), file_(std::move(file)), hash_(NewHash()) {}

absl::Status CheckpointWriter::Append(const SnapshotChunk& chunk) {
  const auto append = [this](AddressFamily family, const auto& records) -> absl::Status {
    if (records.empty()) return absl::OkStatus();
    const BlockHeader header = {static_cast<uint32_t>(family),
                                static_cast<uint32_t>(records.size())};
    if (absl::Status status = AppendBytes(&header, sizeof(header)); !status.ok()) return status;
    return AppendBytes(records.data(), records.size() * sizeof(records[0]));
  };
  absl::Status status = append(AddressFamily::kIpv4, chunk.records);
  return status.ok() ? append(AddressFamily::kIpv6, chunk.ipv6_records) : status;
}

absl::Status CheckpointWriter::AppendBytes(const void* data, size_t bytes) {
  XXH3_64bits_update(hash_.get(), data, bytes);
  const auto offset = static_cast<off_t>(sizeof(Header) + bytes_);
  bytes_ += bytes;
  return WriteAt(file_.get(), path_, data, bytes, offset);
}

absl::Status CheckpointWriter::WriteHeader(const CheckpointInfo& info) {
  return WriteHeaderTo(file_.get(), path_, info, XXH3_64bits_digest(hash_.get()));
}

absl::StatusOr<UniqueFd> ReadCheckpoint(const FileIn& place, CheckpointInfo* info) {
  const std::string& path = place.path;
  *info = CheckpointInfo();
  info->flows_known = false;
  absl::StatusOr<UniqueFd> file = OpenRegularFile(place.folder_fd, place.name, path);
  if (!file.ok()) return absl::NotFoundError(file.status().message());
  struct stat status {};
  if (fstat(file->get(), &status) == 0) info->taken_ns = TimespecNs(status.st_mtim);
  Header header;
  if (absl::Status checked = ReadHeader(file->get(), path, &header); !checked.ok()) return checked;
  const XxhState hash = NewHash();
  const bool read = ForEachBlock(*file, header.info.flow_count,
                                 [&](const BlockHeader& block, const void* data, size_t bytes) {
                                   XXH3_64bits_update(hash.get(), &block, sizeof(block));
                                   XXH3_64bits_update(hash.get(), data, bytes);
                                 });
  if (!read || XXH3_64bits_digest(hash.get()) != header.records_checksum) {
    return absl::NotFoundError(absl::StrCat(path, " is damaged"));
  }
  *info = header.info;
  return file;
}

bool ForEachFlow(const UniqueFd& file, uint64_t flow_count,
                 const std::function<void(const FlowRecord&)>& ipv4,
                 const std::function<void(const Ipv6FlowRecord&)>& ipv6) {
  return ForEachBlock(file, flow_count, [&](const BlockHeader& block, const void* data, size_t) {
    const auto each = [&](const auto* records, const auto& function) {
      for (size_t i = 0; i < block.count; ++i) function(records[i]);
    };
    if (block.family == kIpv4Family) {
      each(static_cast<const FlowRecord*>(data), ipv4);
    } else {
      each(static_cast<const Ipv6FlowRecord*>(data), ipv6);
    }
  });
}

absl::Status VoidCheckpoint(const FileIn& file, CheckpointInfo info) {
  info.flows_known = false;
  info.clean = false;
  info.flow_count = 0;
  const UniqueFd fd(openat(file.folder_fd, file.name.c_str(),
                           O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, kStateFileMode));
  if (fd.valid() && WriteHeaderTo(fd.get(), file.path, info, XXH3_64bits(nullptr, 0)).ok() &&
      ftruncate(fd.get(), sizeof(Header)) == 0) {
    return absl::OkStatus();
  }
  if (unlinkat(file.folder_fd, file.name.c_str(), 0) != 0 && errno != ENOENT) {
    return FileError("remove", file.path, errno);
  }
  return absl::OkStatus();
}

absl::Status MarkCheckpointClean(const FileIn& file) {
  const UniqueFd fd(openat(file.folder_fd, file.name.c_str(), O_RDWR | O_NOFOLLOW | O_CLOEXEC));
  if (!fd.valid()) return FileError("open", file.path, errno);
  Header header;
  if (absl::Status read = ReadHeader(fd.get(), file.path, &header); !read.ok()) return read;
  header.info.clean = true;
  return WriteHeaderTo(fd.get(), file.path, header.info, header.records_checksum);
}

absl::StatusOr<UniqueFd> OpenStateFolder(const std::string& path) {
  if (mkdir(path.c_str(), kStateFolderMode) != 0 && errno != EEXIST) {
    return FileError("make state folder", path, errno);
  }
  UniqueFd folder(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!folder.valid()) return FileError("open state folder", path, errno);
  if (faccessat(folder.get(), ".", W_OK | X_OK, AT_EACCESS) != 0) {
    return FileError("write to state folder", path, errno);
  }
  return folder;
}

absl::StatusOr<StateLock> StateLock::Take(const FileIn& file, int attempts) {
  while (true) {
    // Not for writing: no file system can be made read-only while a file in it is open so.
    UniqueFd fd(openat(file.folder_fd, file.name.c_str(),
                       O_RDONLY | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, kStateFileMode));
    if (!fd.valid()) return FileError("open", file.path, errno);
    const bool locked = flock(fd.get(), LOCK_EX | LOCK_NB) == 0;
    StateLock lock(file.path, std::move(fd));
    // It may have been removed in between.
    if (locked && lock.Check().ok()) {
      if (absl::Status status = lock.ReadOrMakeId(file); !status.ok()) return status;
      futimens(lock.lock_.get(), nullptr);
      return lock;
    }
    if (--attempts <= 0) return absl::UnavailableError(absl::StrCat(file.path, " is locked"));
    usleep(kLockPauseMicros);
  }
}

absl::Status StateLock::Check() const {
  struct stat held {};
  struct stat named {};
  if (fstat(lock_.get(), &held) != 0) return FileError("examine", path_, errno);
  const int error = lstat(path_.c_str(), &named) == 0 ? 0 : errno;
  if (error != 0 && error != ENOENT && error != ENOTDIR) return FileError("examine", path_, error);
  if (error != 0 || held.st_dev != named.st_dev || held.st_ino != named.st_ino) {
    return absl::FailedPreconditionError(
        absl::StrCat(path_, " was removed or replaced while this engine held it"));
  }
  return absl::OkStatus();
}

absl::Status StateLock::ReadOrMakeId(const FileIn& file) {
  std::string text(kStateIdDigits, '\0');
  struct stat info {};
  if (ReadAll(lock_.get(), text.data(), text.size(), 0) &&
      text.find_first_not_of("0123456789abcdef") == std::string::npos &&
      fstat(lock_.get(), &info) == 0) {
    state_id_ = text;
    taken_before_ns_ = TimespecNs(info.st_mtim);
    return absl::OkStatus();
  }
  uint64_t random = 0;
  if (getrandom(&random, sizeof(random), 0) != sizeof(random)) {
    return absl::ErrnoToStatus(errno, "random bytes");
  }
  text = absl::StrCat(absl::Hex(random, absl::kZeroPad16));
  const UniqueFd fd(
      openat(file.folder_fd, file.name.c_str(), O_WRONLY | O_TRUNC | O_NOFOLLOW | O_CLOEXEC));
  if (!fd.valid()) return FileError("open", file.path, errno);
  if (absl::Status status = WriteAt(fd.get(), file.path, text.data(), text.size(), 0);
      !status.ok()) {
    return status;
  }
  // Prepared rows outlive the kernel, and so must the id that they are found by.
  if (fsync(fd.get()) != 0 || fsync(file.folder_fd) != 0)
    return FileError("sync", file.path, errno);
  state_id_ = text;
  return absl::OkStatus();
}

std::string PreparedName::HiddenName() const {
  return absl::StrCat(".", state_id, ".", engine_id, ".", absl::Dec(sequence, absl::kZeroPad20),
                      ".", name);
}

bool PreparedName::Parse(absl::string_view hidden_name) {
  const std::vector<std::string> parts = absl::StrSplit(hidden_name, absl::MaxSplits('.', 4));
  if (parts.size() != 5 || !parts[0].empty() || parts[1].size() != kStateIdDigits ||
      parts[2].size() != EngineIdText(EngineId()).size() ||
      !absl::SimpleAtoi(parts[3], &sequence)) {
    return false;
  }
  state_id = parts[1];
  engine_id = parts[2];
  name = parts[4];
  return !name.empty();
}

}  // namespace ctacct
