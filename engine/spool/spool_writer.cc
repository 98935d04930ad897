#include "engine/spool/spool_writer.h"

#include <cstring>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/rows/bounds.h"
#include "engine/spool/spool_format.h"
#include "engine/system/durable_file.h"
#include "xxhash.h"

namespace ctacct {
namespace {

using spool_format::BlockHeader;
using spool_format::End;
using spool_format::GapRecord;
using spool_format::Header;
using spool_format::Ipv4Row;
using spool_format::Ipv6Row;
using spool_format::kBlockRowsMax;

// Valid as long as the value.
template <typename Struct>
std::string_view BytesOf(const Struct& value) {
  return std::string_view(reinterpret_cast<const char*>(&value), sizeof(value));
}

// Everything is checked before the first byte is written.
absl::Status CheckRows(const SpoolHeader& header, absl::Span<const TrafficRow> rows) {
  if (rows.size() > kSpoolRowsMax) {
    return absl::InvalidArgumentError(absl::StrCat("spool: more than ", kSpoolRowsMax, " rows"));
  }
  RowSums sums;
  for (size_t i = 0; i < rows.size(); ++i) {
    std::string why = rows[i].time_ns == header.interval_end_ns
                          ? RowProblem(rows[i])
                          : "a row is not of the header's interval";
    if (rows[i].open_connections != 0 && !header.track_open) why = kOpenNotTracked;
    if (why.empty()) {
      if (const RowCounter* const beyond = sums.Add(rows[i]); beyond != nullptr) {
        why = RowSums::Problem(*beyond);
      }
    }
    if (!why.empty()) {
      return absl::InvalidArgumentError(absl::StrCat("spool: row ", i, ": ", why));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckGaps(absl::Span<const Gap> gaps) {
  if (gaps.size() > spool_format::kGapsMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("spool: more than ", spool_format::kGapsMax, " gaps"));
  }
  for (size_t i = 0; i < gaps.size(); ++i) {
    if (const std::string why = GapProblem(gaps[i]); !why.empty()) {
      return absl::InvalidArgumentError(absl::StrCat("spool: gap ", i, ": ", why));
    }
  }
  const std::string why = GapSumsProblem(gaps);
  return why.empty() ? absl::OkStatus() : absl::InvalidArgumentError(absl::StrCat("spool: ", why));
}

Header EncodeHeader(const SpoolHeader& header) {
  Header encoded = {};
  std::memcpy(encoded.magic, spool_format::kMagic, sizeof(encoded.magic));
  encoded.version = spool_format::kVersion;
  encoded.header_bytes = sizeof(Header);
  encoded.flags = (header.track_open ? spool_format::kFlagTrackOpen : 0) |
                  (header.light ? spool_format::kFlagLight : 0);
  encoded.completeness = static_cast<uint8_t>(header.completeness);
  encoded.gateway_bytes = static_cast<uint8_t>(header.gateway.size());
  std::memcpy(encoded.engine_id, header.engine_id.data(), header.engine_id.size());
  encoded.sequence = header.sequence;
  encoded.interval_end_ns = header.interval_end_ns;
  encoded.interval_length_ns = header.interval_length_ns;
  encoded.created_ns = header.created_ns;
  encoded.covered_from_ns = header.covered_from_ns;
  encoded.covered_to_ns = header.covered_to_ns;
  encoded.events_dropped = header.events_dropped;
  encoded.ports_checksum = header.ports_checksum;
  std::memcpy(encoded.src_mask, header.src_mask.data(), sizeof(encoded.src_mask));
  std::memcpy(encoded.dst_mask, header.dst_mask.data(), sizeof(encoded.dst_mask));
  std::memcpy(encoded.src_mask6, header.src_mask6.data(), sizeof(encoded.src_mask6));
  std::memcpy(encoded.dst_mask6, header.dst_mask6.data(), sizeof(encoded.dst_mask6));
  std::memcpy(encoded.gateway, header.gateway.data(), header.gateway.size());
  encoded.checksum = XXH3_64bits(&encoded, offsetof(Header, checksum));
  return encoded;
}

template <typename DiskRow>
DiskRow EncodeRow(const TrafficRow& row) {
  DiskRow encoded = {};
  encoded.protocol = row.protocol;
  encoded.port = row.port;
  std::memcpy(encoded.src, row.src.data(), sizeof(encoded.src));
  std::memcpy(encoded.dst, row.dst.data(), sizeof(encoded.dst));
  encoded.packets_src = row.packets_src;
  encoded.packets_dst = row.packets_dst;
  encoded.bytes_src = row.bytes_src;
  encoded.bytes_dst = row.bytes_dst;
  encoded.connection_time_ms = row.connection_time_ms;
  encoded.connection_count = static_cast<uint32_t>(row.connection_count);
  encoded.open_connections = static_cast<uint32_t>(row.open_connections);
  encoded.flow_count = static_cast<uint32_t>(row.flow_count);
  encoded.unanswered_count = static_cast<uint32_t>(row.unanswered_count);
  return encoded;
}

GapRecord EncodeGap(const Gap& gap) {
  GapRecord encoded = {};
  encoded.began_ns = gap.began_ns;
  encoded.ended_ns = gap.ended_ns;
  encoded.events_dropped = gap.events_dropped;
  encoded.flows_lost = gap.flows_lost;
  encoded.cause = static_cast<uint8_t>(gap.cause);
  encoded.completeness = static_cast<uint8_t>(gap.completeness);
  return encoded;
}

// Blocks go through here, so that the file's own checksum sees every byte before the end block.
class BlockWriter {
 public:
  explicit BlockWriter(DurableFile* file) : file_(file), hash_(XXH3_createState()) {
    XXH3_64bits_reset(hash_.get());
  }

  absl::Status Put(std::string_view bytes) {
    XXH3_64bits_update(hash_.get(), bytes.data(), bytes.size());
    return file_->Append({bytes.data(), bytes.size()});
  }

  template <typename DiskRow>
  absl::Status PutRows(absl::Span<const TrafficRow> rows, AddressFamily family) {
    size_t next = 0;
    while (true) {
      BlockHeader head = {spool_format::kRowBlock, static_cast<uint8_t>(family), sizeof(DiskRow),
                          0};
      block_ = BytesOf(head);
      for (; next < rows.size() && head.row_count < kBlockRowsMax; ++next) {
        if (rows[next].family != family) continue;
        block_ += BytesOf(EncodeRow<DiskRow>(rows[next]));
        ++head.row_count;
      }
      if (head.row_count == 0) return absl::OkStatus();
      std::memcpy(block_.data(), &head, sizeof(head));
      if (absl::Status status = Put(Checksummed()); !status.ok()) return status;
    }
  }

  absl::Status PutGaps(absl::Span<const Gap> gaps) {
    if (gaps.empty()) return absl::OkStatus();
    block_ = BytesOf(BlockHeader{spool_format::kGapBlock, 0, sizeof(GapRecord),
                                 static_cast<uint32_t>(gaps.size())});
    for (const Gap& gap : gaps) block_ += BytesOf(EncodeGap(gap));
    return Put(Checksummed());
  }

  absl::Status PutEnd(End end) {
    end.file_checksum = XXH3_64bits_digest(hash_.get());
    block_ = BytesOf(BlockHeader{spool_format::kEndBlock, 0, sizeof(End), 1});
    block_ += BytesOf(end);
    return Put(Checksummed());
  }

 private:
  struct HashStateDeleter {
    void operator()(XXH3_state_t* state) const { XXH3_freeState(state); }
  };

  std::string_view Checksummed() {
    block_ += BytesOf(XXH3_64bits(block_.data(), block_.size()));
    return block_;
  }

  DurableFile* file_;
  std::unique_ptr<XXH3_state_t, HashStateDeleter> hash_;
  std::string block_;
};

}  // namespace

std::string SpoolFileName(const EngineId& engine_id, uint64_t sequence) {
  return absl::StrFormat("%s-%010d.spool", EngineIdText(engine_id), sequence);
}

absl::StatusOr<std::string> WriteSpoolFile(const std::string& folder, const SpoolHeader& header,
                                           absl::Span<const TrafficRow> rows,
                                           absl::Span<const Gap> gaps,
                                           const std::string& hidden_name) {
  if (const char* const why = CheckHeader(header).why; why != nullptr) {
    return absl::InvalidArgumentError(absl::StrCat("spool: header: ", why));
  }
  if (absl::Status status = CheckRows(header, rows); !status.ok()) return status;
  if (absl::Status status = CheckGaps(gaps); !status.ok()) return status;
  End end = {};
  end.row_count = rows.size();
  for (const TrafficRow& row : rows) {
    end.packets_src += row.packets_src;
    end.packets_dst += row.packets_dst;
    end.bytes_src += row.bytes_src;
    end.bytes_dst += row.bytes_dst;
  }

  std::string name = SpoolFileName(header.engine_id, header.sequence);
  absl::StatusOr<DurableFile> file = DurableFile::Create(folder, name);
  if (!file.ok()) return file.status();
  BlockWriter blocks(&*file);
  absl::Status status = blocks.Put(BytesOf(EncodeHeader(header)));
  if (status.ok()) status = blocks.PutRows<Ipv4Row>(rows, AddressFamily::kIpv4);
  if (status.ok()) status = blocks.PutRows<Ipv6Row>(rows, AddressFamily::kIpv6);
  if (status.ok()) status = blocks.PutGaps(gaps);
  if (status.ok()) status = blocks.PutEnd(end);
  if (status.ok()) status = hidden_name.empty() ? file->Commit() : file->Prepare(hidden_name);
  if (!status.ok()) return status;
  return name;
}

}  // namespace ctacct
