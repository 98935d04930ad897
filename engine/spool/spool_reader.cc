#include "engine/spool/spool_reader.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/rows/bounds.h"
#include "engine/spool/spool_format.h"
#include "engine/system/durable_file.h"
#include "xxhash.h"

namespace ctacct {
namespace {

using spool_format::End;
using spool_format::GapRecord;
using spool_format::Header;
using spool_format::Ipv4Row;
using spool_format::Ipv6Row;
using spool_format::kChecksumBytes;

bool AllZero(const void* bytes, size_t size) {
  const auto* at = static_cast<const uint8_t*>(bytes);
  for (size_t i = 0; i < size; ++i) {
    if (at[i] != 0) return false;
  }
  return true;
}

// True if the last eight of `size` bytes are the checksum of those before.
bool ChecksumHolds(const char* bytes, size_t size) {
  uint64_t checksum;
  std::memcpy(&checksum, bytes + size - kChecksumBytes, kChecksumBytes);
  return XXH3_64bits(bytes, size - kChecksumBytes) == checksum;
}

// What is wrong with it; empty if nothing is.
template <typename DiskRow>
std::string DecodeRow(const char* bytes, AddressFamily family, int64_t time_ns, TrafficRow* row) {
  DiskRow encoded;
  std::memcpy(&encoded, bytes, sizeof(encoded));
  row->time_ns = time_ns;
  row->family = family;
  row->protocol = encoded.protocol;
  row->port = encoded.port;
  row->src = {};
  row->dst = {};
  std::memcpy(row->src.data(), encoded.src, sizeof(encoded.src));
  std::memcpy(row->dst.data(), encoded.dst, sizeof(encoded.dst));
  row->packets_src = encoded.packets_src;
  row->packets_dst = encoded.packets_dst;
  row->bytes_src = encoded.bytes_src;
  row->bytes_dst = encoded.bytes_dst;
  row->connection_time_ms = encoded.connection_time_ms;
  row->connection_count = encoded.connection_count;
  row->open_connections = encoded.open_connections;
  row->flow_count = encoded.flow_count;
  row->unanswered_count = encoded.unanswered_count;
  return AllZero(encoded.reserved, sizeof(encoded.reserved))
             ? RowProblem(*row)
             : "a row's reserved bytes are not zero";
}

// Only what is sound as a whole: CheckHeader looks at the fields.
SpoolHeader DecodeHeader(const Header& encoded) {
  SpoolHeader header;
  header.track_open = (encoded.flags & spool_format::kFlagTrackOpen) != 0;
  header.light = (encoded.flags & spool_format::kFlagLight) != 0;
  header.completeness = static_cast<Completeness>(encoded.completeness);
  std::memcpy(header.engine_id.data(), encoded.engine_id, header.engine_id.size());
  header.sequence = encoded.sequence;
  header.interval_end_ns = encoded.interval_end_ns;
  header.interval_length_ns = encoded.interval_length_ns;
  header.created_ns = encoded.created_ns;
  header.covered_from_ns = encoded.covered_from_ns;
  header.covered_to_ns = encoded.covered_to_ns;
  header.events_dropped = encoded.events_dropped;
  header.ports_checksum = encoded.ports_checksum;
  std::memcpy(header.src_mask.data(), encoded.src_mask, header.src_mask.size());
  std::memcpy(header.dst_mask.data(), encoded.dst_mask, header.dst_mask.size());
  std::memcpy(header.src_mask6.data(), encoded.src_mask6, header.src_mask6.size());
  std::memcpy(header.dst_mask6.data(), encoded.dst_mask6, header.dst_mask6.size());
  header.gateway.assign(encoded.gateway, encoded.gateway_bytes);
  return header;
}

// What is wrong with it; empty if nothing is.
std::string DecodeGap(const char* bytes, Gap* gap) {
  GapRecord encoded;
  std::memcpy(&encoded, bytes, sizeof(encoded));
  gap->began_ns = encoded.began_ns;
  gap->ended_ns = encoded.ended_ns;
  gap->events_dropped = encoded.events_dropped;
  gap->flows_lost = encoded.flows_lost;
  gap->cause = static_cast<GapCause>(encoded.cause);
  gap->completeness = static_cast<Completeness>(encoded.completeness);
  return AllZero(encoded.reserved, sizeof(encoded.reserved))
             ? GapProblem(*gap)
             : "a gap's reserved bytes are not zero";
}

}  // namespace

void SpoolReader::HashStateDeleter::operator()(XXH3_state_s* state) const { XXH3_freeState(state); }

SpoolReader::SpoolReader(UniqueFd owned_fd, int fd, const std::string& path)
    : owned_fd_(std::move(owned_fd)), fd_(fd), path_(path), file_hash_(XXH3_createState()) {
  XXH3_64bits_reset(file_hash_.get());
}

absl::StatusOr<SpoolReader> SpoolReader::Open(const std::string& path) {
  absl::StatusOr<UniqueFd> fd = OpenRegularFile(AT_FDCWD, path, path);
  if (!fd.ok()) return fd.status();
  const int number = fd->get();
  SpoolReader reader(*std::move(fd), number, path);
  if (absl::Status status = reader.ReadHeader(); !status.ok()) return status;
  return reader;
}

absl::StatusOr<SpoolReader> SpoolReader::FromFd(int fd, const std::string& path) {
  SpoolReader reader(UniqueFd(), fd, path);
  if (absl::Status status = reader.ReadHeader(); !status.ok()) return status;
  return reader;
}

absl::Status SpoolReader::Corrupt(int64_t offset, absl::string_view why) const {
  return absl::DataLossError(absl::StrCat(path_, ": corrupt at byte ", offset, ": ", why));
}

absl::Status SpoolReader::ReadExactly(char* to, size_t size) {
  while (size > 0) {
    const ssize_t got = pread(fd_, to, size, offset_);
    if (got < 0) {
      if (errno == EINTR) continue;
      return FileError("read", absl::StrCat(path_, " at byte ", offset_), errno);
    }
    if (got == 0) {
      return absl::DataLossError(
          absl::StrCat(path_, ": torn: ends at byte ", offset_, ", before its end block"));
    }
    to += got;
    size -= static_cast<size_t>(got);
    offset_ += got;
  }
  return absl::OkStatus();
}

absl::Status SpoolReader::ReadHeader() {
  std::vector<char> bytes(spool_format::kHeaderPrefixBytes);
  if (absl::Status status = ReadExactly(bytes.data(), bytes.size()); !status.ok()) return status;
  if (std::memcmp(bytes.data(), spool_format::kMagic, sizeof(spool_format::kMagic)) != 0) {
    return Corrupt(0, "not a spool file (its first 8 bytes are other ones)");
  }
  uint32_t header_bytes;
  std::memcpy(&header_bytes, bytes.data() + offsetof(Header, header_bytes), sizeof(header_bytes));
  if (header_bytes < bytes.size() + kChecksumBytes ||
      header_bytes > spool_format::kHeaderBytesMax) {
    return Corrupt(offsetof(Header, header_bytes), "impossible size of the header");
  }
  const size_t prefix = bytes.size();
  bytes.resize(header_bytes);
  if (absl::Status status = ReadExactly(bytes.data() + prefix, header_bytes - prefix);
      !status.ok()) {
    return status;
  }
  if (!ChecksumHolds(bytes.data(), bytes.size())) {
    return Corrupt(0, "the header does not match its checksum");
  }
  // The checksum was right, so another version is a newer one and not damage.
  uint32_t version;
  std::memcpy(&version, bytes.data() + offsetof(Header, version), sizeof(version));
  if (version > spool_format::kVersion) {
    return absl::UnimplementedError(absl::StrCat(
        path_, ": of version ", version, " of the spool format at byte ", offsetof(Header, version),
        "; this program reads version ", spool_format::kVersion));
  }
  if (version != spool_format::kVersion || header_bytes != sizeof(Header)) {
    return Corrupt(offsetof(Header, version), "no such version, or not with a header of this size");
  }
  Header encoded;
  std::memcpy(&encoded, bytes.data(), sizeof(encoded));
  if ((encoded.flags & ~spool_format::kFlagsKnown) != 0) {
    return Corrupt(offsetof(Header, flags), "the header has unknown flags");
  }
  if (!AllZero(encoded.reserved, sizeof(encoded.reserved))) {
    return Corrupt(offsetof(Header, reserved), "the header's reserved bytes are not zero");
  }
  if (!AllZero(encoded.gateway + encoded.gateway_bytes,
               sizeof(encoded.gateway) - encoded.gateway_bytes)) {
    return Corrupt(offsetof(Header, gateway), "the bytes behind the gateway's name are not zero");
  }
  header_ = DecodeHeader(encoded);
  if (const HeaderProblem problem = CheckHeader(header_); problem.why != nullptr) {
    return Corrupt(static_cast<int64_t>(problem.offset),
                   absl::StrCat("the header is out of range: ", problem.why));
  }
  XXH3_64bits_update(file_hash_.get(), bytes.data(), bytes.size());
  return absl::OkStatus();
}

absl::StatusOr<bool> SpoolReader::ReadBlock(std::vector<TrafficRow>* rows) {
  rows->clear();
  while (!ended_) {
    if (absl::Status status = FetchBlock(); !status.ok()) return status;
    if (head_.type == spool_format::kEndBlock) {
      if (absl::Status status = TakeEnd(); !status.ok()) return status;
      ended_ = true;
      break;
    }
    const bool is_rows = head_.type == spool_format::kRowBlock;
    if (!is_rows && head_.type != spool_format::kGapBlock) {
      return Corrupt(block_offset_, "a block of an unknown type");
    }
    if (!gaps_.empty()) return Corrupt(block_offset_, "not the end block behind the gap block");
    if (absl::Status status = is_rows ? TakeRows(rows) : TakeGaps(); !status.ok()) return status;
    XXH3_64bits_update(file_hash_.get(), block_.data(), block_.size());
    if (is_rows) return true;
  }
  return false;
}

absl::Status SpoolReader::FetchBlock() {
  block_offset_ = offset_;
  block_.resize(sizeof(head_));
  if (absl::Status status = ReadExactly(block_.data(), sizeof(head_)); !status.ok()) return status;
  std::memcpy(&head_, block_.data(), sizeof(head_));
  const uint64_t payload_bytes = uint64_t{head_.row_bytes} * head_.row_count;
  if (payload_bytes > spool_format::kBlockPayloadBytesMax) {
    return Corrupt(block_offset_, "impossible size of a block");
  }
  block_.resize(sizeof(head_) + payload_bytes + kChecksumBytes);
  if (absl::Status status =
          ReadExactly(block_.data() + sizeof(head_), payload_bytes + kChecksumBytes);
      !status.ok()) {
    return status;
  }
  return ChecksumHolds(block_.data(), block_.size())
             ? absl::OkStatus()
             : Corrupt(block_offset_, "a block does not match its checksum");
}

absl::Status SpoolReader::TakeRows(std::vector<TrafficRow>* rows) {
  const auto family = static_cast<AddressFamily>(head_.address_family);
  const bool ipv4 = family == AddressFamily::kIpv4 && head_.row_bytes == sizeof(Ipv4Row);
  const bool ipv6 = family == AddressFamily::kIpv6 && head_.row_bytes == sizeof(Ipv6Row);
  if ((!ipv4 && !ipv6) || head_.row_count == 0 || head_.row_count > spool_format::kBlockRowsMax) {
    return Corrupt(block_offset_, "impossible row block");
  }
  rows->resize(head_.row_count);
  for (size_t i = 0; i < rows->size(); ++i) {
    TrafficRow& row = (*rows)[i];
    const size_t at = sizeof(head_) + i * head_.row_bytes;
    std::string why =
        ipv4 ? DecodeRow<Ipv4Row>(block_.data() + at, family, header_.interval_end_ns, &row)
             : DecodeRow<Ipv6Row>(block_.data() + at, family, header_.interval_end_ns, &row);
    if (row.open_connections != 0 && !header_.track_open) why = kOpenNotTracked;
    if (why.empty()) {
      if (const RowCounter* const beyond = sums_.Add(row); beyond != nullptr) {
        why = RowSums::Problem(*beyond);
      }
    }
    if (!why.empty()) {
      rows->clear();
      return Corrupt(block_offset_ + static_cast<int64_t>(at), why);
    }
    seen_.packets_src += row.packets_src;
    seen_.packets_dst += row.packets_dst;
    seen_.bytes_src += row.bytes_src;
    seen_.bytes_dst += row.bytes_dst;
  }
  seen_.row_count += rows->size();
  if (seen_.row_count > kSpoolRowsMax) {
    rows->clear();
    return Corrupt(block_offset_, absl::StrCat("more than ", kSpoolRowsMax, " rows"));
  }
  return absl::OkStatus();
}

absl::Status SpoolReader::TakeGaps() {
  if (head_.address_family != 0 || head_.row_bytes != sizeof(GapRecord) || head_.row_count == 0 ||
      head_.row_count > spool_format::kGapsMax) {
    return Corrupt(block_offset_, "impossible gap block");
  }
  gaps_.resize(head_.row_count);
  for (size_t i = 0; i < gaps_.size(); ++i) {
    const size_t at = sizeof(head_) + i * sizeof(GapRecord);
    if (const std::string why = DecodeGap(block_.data() + at, &gaps_[i]); !why.empty()) {
      gaps_.clear();
      return Corrupt(block_offset_ + static_cast<int64_t>(at), why);
    }
  }
  if (const std::string why = GapSumsProblem(gaps_); !why.empty()) {
    gaps_.clear();
    return Corrupt(block_offset_, why);
  }
  for (const Gap& gap : gaps_) {
    header_.completeness = std::max(header_.completeness, gap.completeness);
  }
  return absl::OkStatus();
}

absl::Status SpoolReader::TakeEnd() {
  if (head_.address_family != 0 || head_.row_bytes != sizeof(End) || head_.row_count != 1) {
    return Corrupt(block_offset_, "impossible end block");
  }
  std::memcpy(&totals_, block_.data() + sizeof(head_), sizeof(totals_));
  seen_.file_checksum = XXH3_64bits_digest(file_hash_.get());
  if (seen_.file_checksum != totals_.file_checksum) {
    return Corrupt(block_offset_, "the file does not match its checksum");
  }
  if (seen_ != totals_) return Corrupt(block_offset_, "the rows do not add up to the totals");
  char extra;
  const ssize_t got = pread(fd_, &extra, 1, offset_);
  if (got < 0) return FileError("read", absl::StrCat(path_, " at byte ", offset_), errno);
  if (got != 0) return Corrupt(offset_, "bytes after the end block");
  return absl::OkStatus();
}

}  // namespace ctacct
