// Any bytes as a spool file: first as they are, then with checksums and totals that hold, since no
// fuzzer gets past those by chance. What is accepted is within its bounds.
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "engine/spool/spool_format.h"
#include "engine/spool/spool_reader.h"
#include "engine/system/text.h"
#include "tests/fuzz/bounds.h"
#include "xxhash.h"

namespace {

using ctacct::Expect;

namespace format = ctacct::spool_format;

void ExpectWithinBounds(const ctacct::SpoolHeader& header) {
  Expect(header.sequence >= 1 && header.sequence <= ctacct::kSequenceMax);
  Expect(header.interval_end_ns >= 0 && header.interval_end_ns < ctacct::kTimeEndNs);
  Expect(header.interval_length_ns >= ctacct::kIntervalUnitNs &&
         header.interval_length_ns <= ctacct::kIntervalLengthMaxNs &&
         header.interval_length_ns % ctacct::kIntervalUnitNs == 0);
  Expect(header.interval_end_ns % header.interval_length_ns == 0);
  Expect(header.created_ns >= 0 && header.created_ns < ctacct::kTimeEndNs);
  Expect(header.covered_from_ns >= 0 && header.covered_from_ns <= header.covered_to_ns &&
         header.covered_to_ns < ctacct::kTimeEndNs);
  if (header.covered_from_ns != header.covered_to_ns) {
    Expect(header.interval_end_ns - header.covered_from_ns <= ctacct::kCoveredDistanceMaxNs &&
           header.covered_to_ns - header.interval_end_ns <= ctacct::kCoveredDistanceMaxNs);
  }
  Expect(header.events_dropped <= ctacct::kSumMax);
  Expect(static_cast<int>(header.completeness) <= 2);
  Expect(header.gateway.size() <= ctacct::kGatewayBytesMax);
  Expect(ctacct::EscapeControls(header.gateway) == header.gateway);
}

void Read(const std::string& file) {
  static const int fd = memfd_create("spool", MFD_CLOEXEC);
  if (ftruncate(fd, 0) != 0 ||
      pwrite(fd, file.data(), file.size(), 0) != static_cast<ssize_t>(file.size())) {
    return;
  }
  auto reader = ctacct::SpoolReader::FromFd(fd, "fuzz");
  if (!reader.ok()) return;
  ExpectWithinBounds(reader->header());
  std::vector<ctacct::TrafficRow> rows;
  ctacct::ExactSums sums;
  uint64_t count = 0;
  for (;;) {
    const auto more = reader->ReadBlock(&rows);
    if (!more.ok()) return;
    if (!*more) break;
    count += rows.size();
    for (const ctacct::TrafficRow& row : rows) {
      ctacct::ExpectWithinBounds(row);
      Expect(row.time_ns == reader->header().interval_end_ns);
      Expect(row.open_connections == 0 || reader->header().track_open);
      sums.Add(row);
    }
    sums.ExpectWithinBounds();
    Expect(count <= ctacct::kSpoolRowsMax);
  }
  Expect(count == reader->totals().row_count);
  Expect(reader->gaps().size() <= format::kGapsMax);
  unsigned __int128 events = 0;
  unsigned __int128 flows = 0;
  for (const ctacct::Gap& gap : reader->gaps()) {
    ctacct::ExpectWithinBounds(gap);
    events += gap.events_dropped;
    flows += gap.flows_lost;
  }
  Expect(events <= ctacct::kSumMax && flows <= ctacct::kSumMax);
}

// Puts the checksum of file[begin, end) behind it; false if there is no room.
bool Seal(std::string* file, size_t begin, size_t end) {
  if (end < begin || end + format::kChecksumBytes > file->size()) return false;
  const uint64_t checksum = XXH3_64bits(file->data() + begin, end - begin);
  std::memcpy(file->data() + end, &checksum, sizeof(checksum));
  return true;
}

// Adds a row block's rows, if the block is one.
template <typename DiskRow>
void AddRows(const std::string& file, size_t payload, const format::BlockHeader& block,
             format::End* end) {
  if (block.type != format::kRowBlock || block.row_bytes != sizeof(DiskRow)) return;
  for (uint32_t i = 0; i < block.row_count; ++i) {
    DiskRow row;
    std::memcpy(&row, file.data() + payload + i * sizeof(row), sizeof(row));
    ++end->row_count;
    end->packets_src += row.packets_src;
    end->packets_dst += row.packets_dst;
    end->bytes_src += row.bytes_src;
    end->bytes_dst += row.bytes_dst;
  }
}

void RepairChecksums(std::string* file) {
  format::Header header;
  if (file->size() < sizeof(header)) return;
  std::memcpy(&header, file->data(), sizeof(header));
  if (header.header_bytes < format::kHeaderPrefixBytes + format::kChecksumBytes) return;
  if (!Seal(file, 0, header.header_bytes - format::kChecksumBytes)) return;
  size_t at = header.header_bytes;
  format::BlockHeader block;
  format::End end;
  while (at + sizeof(block) <= file->size()) {
    std::memcpy(&block, file->data() + at, sizeof(block));
    const size_t payload = at + sizeof(block);
    const uint64_t payload_bytes = uint64_t{block.row_bytes} * block.row_count;
    if (payload_bytes > file->size()) return;
    if (payload + payload_bytes <= file->size()) {
      AddRows<format::Ipv4Row>(*file, payload, block, &end);
      AddRows<format::Ipv6Row>(*file, payload, block, &end);
      if (block.type == format::kEndBlock && payload_bytes == sizeof(end)) {
        end.file_checksum = XXH3_64bits(file->data(), at);
        std::memcpy(file->data() + payload, &end, sizeof(end));
      }
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
