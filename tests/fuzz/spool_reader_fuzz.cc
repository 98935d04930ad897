// Any bytes as a spool file: first as they are, then with checksums that hold, since no fuzzer gets
// past those by chance.
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "engine/spool/spool_format.h"
#include "engine/spool/spool_reader.h"
#include "xxhash.h"

namespace {

namespace format = ctacct::spool_format;

void Read(const std::string& file) {
  static const int fd = memfd_create("spool", MFD_CLOEXEC);
  if (ftruncate(fd, 0) != 0 ||
      pwrite(fd, file.data(), file.size(), 0) != static_cast<ssize_t>(file.size())) {
    return;
  }
  auto reader = ctacct::SpoolReader::FromFd(fd, "fuzz");
  if (!reader.ok()) return;
  std::vector<ctacct::TrafficRow> rows;
  uint64_t count = 0;
  for (;;) {
    const auto more = reader->ReadBlock(&rows);
    if (!more.ok()) return;
    if (!*more) break;
    count += rows.size();
  }
  if (count != reader->totals().row_count) std::abort();
}

// Puts the checksum of file[begin, end) behind it; false if there is no room.
bool Seal(std::string* file, size_t begin, size_t end) {
  if (end < begin || end + format::kChecksumBytes > file->size()) return false;
  const uint64_t checksum = XXH3_64bits(file->data() + begin, end - begin);
  std::memcpy(file->data() + end, &checksum, sizeof(checksum));
  return true;
}

void RepairChecksums(std::string* file) {
  format::Header header;
  if (file->size() < sizeof(header)) return;
  std::memcpy(&header, file->data(), sizeof(header));
  if (header.header_bytes < format::kHeaderPrefixBytes + format::kChecksumBytes) return;
  if (!Seal(file, 0, header.header_bytes - format::kChecksumBytes)) return;
  size_t at = header.header_bytes;
  format::BlockHeader block;
  while (at + sizeof(block) <= file->size()) {
    std::memcpy(&block, file->data() + at, sizeof(block));
    const size_t payload = at + sizeof(block);
    const uint64_t payload_bytes = uint64_t{block.row_bytes} * block.row_count;
    if (payload_bytes > file->size()) return;
    const uint64_t before = XXH3_64bits(file->data(), at);
    if (block.type == format::kEndBlock && payload_bytes == sizeof(format::End) &&
        payload + payload_bytes <= file->size()) {
      std::memcpy(file->data() + payload + offsetof(format::End, file_checksum), &before,
                  sizeof(before));
    }
    if (!Seal(file, at, payload + payload_bytes)) return;
    at = payload + payload_bytes + format::kChecksumBytes;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
  std::string file(reinterpret_cast<const char*>(data), bytes);
  Read(file);
  RepairChecksums(&file);
  Read(file);
  return 0;
}
