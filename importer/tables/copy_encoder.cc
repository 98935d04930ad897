#include "importer/tables/copy_encoder.h"

#include <cstdint>

#include "engine/rows/protocol_names.h"
#include "importer/postgres/pg_binary.h"

namespace ctacct {
namespace {

constexpr int16_t kFields = 15;
constexpr char kSignature[] = "PGCOPY\n\377\r\n";  // With the closing NUL.

}  // namespace

CopyEncoder::CopyEncoder(absl::string_view gateway) : gateway_field_(4 + gateway.size(), '\0') {
  (void)PutString(gateway_field_.data(), gateway);
}

void CopyEncoder::AppendHeader(std::string* out) {
  out->append(kSignature, sizeof(kSignature));
  out->append(8, '\0');  // No flags, no header extension.
}

void CopyEncoder::AppendTrailer(std::string* out) { out->append("\377\377", 2); }

void CopyEncoder::Append(const TrafficRow& row, std::string* out) const {
  char bytes[kCopyRowBytesMax];
  char* at = PutRaw16(bytes, kFields);
  at = PutTime(at, row.time_ns);
  at = PutInt8(at, static_cast<int64_t>(row.packets_src));
  at = PutInt8(at, static_cast<int64_t>(row.bytes_src));
  at = PutInt8(at, static_cast<int64_t>(row.packets_dst));
  at = PutInt8(at, static_cast<int64_t>(row.bytes_dst));
  at = PutInt8(at, static_cast<int64_t>(row.connection_time_ms));
  at = PutInt4(at, static_cast<int32_t>(row.connection_count));
  at = PutInt4(at, static_cast<int32_t>(row.open_connections));
  at = PutInt4(at, static_cast<int32_t>(row.flow_count));
  at = PutInt4(at, static_cast<int32_t>(row.unanswered_count));
  at = PutInt4(at, row.port);
  at = PutInet(at, InetBytes(row.family, row.src));
  at = PutInet(at, InetBytes(row.family, row.dst));
  at = PutString(at, ProtocolName(row.protocol));
  out->append(bytes, static_cast<size_t>(at - bytes));
  out->append(gateway_field_);
}

}  // namespace ctacct
