#include "importer/copy_encoder.h"

#include <cstdint>
#include <cstring>
#include <limits>

#include "absl/strings/str_cat.h"
#include "engine/protocol_names.h"

namespace ctacct {
namespace {

constexpr int16_t kFields = 13;
constexpr char kSignature[] = "PGCOPY\n\377\r\n";  // Its closing NUL is part of it.
// PostgreSQL counts time from 2000-01-01, in microseconds.
constexpr int64_t kPostgresEpochUs = 946'684'800'000'000;
// Address families of inet's binary form: PostgreSQL's own numbers, not the system's.
constexpr char kInetIpv4 = 2;
constexpr char kInetIpv6 = 3;

char* Put16(char* at, int16_t value) {
  const uint16_t swapped = __builtin_bswap16(static_cast<uint16_t>(value));
  std::memcpy(at, &swapped, sizeof(swapped));
  return at + sizeof(swapped);
}

char* Put32(char* at, int32_t value) {
  const uint32_t swapped = __builtin_bswap32(static_cast<uint32_t>(value));
  std::memcpy(at, &swapped, sizeof(swapped));
  return at + sizeof(swapped);
}

char* PutInt4(char* at, int32_t value) { return Put32(Put32(at, 4), value); }

char* PutInt8(char* at, int64_t value) {
  at = Put32(at, 8);
  const uint64_t swapped = __builtin_bswap64(static_cast<uint64_t>(value));
  std::memcpy(at, &swapped, sizeof(swapped));
  return at + sizeof(swapped);
}

char* PutText(char* at, absl::string_view text) {
  at = Put32(at, static_cast<int32_t>(text.size()));
  std::memcpy(at, text.data(), text.size());
  return at + text.size();
}

// A single host each: masked addresses compare equal to plain ones, as in WHERE src = '10.32.1.0'.
char* PutInet(char* at, AddressFamily family, const AddressBytes& address) {
  const bool ipv4 = family == AddressFamily::kIpv4;
  const char bytes = ipv4 ? 4 : 16;
  at = Put32(at, 4 + bytes);
  *at++ = ipv4 ? kInetIpv4 : kInetIpv6;
  *at++ = static_cast<char>(bytes * 8);  // Prefix length.
  *at++ = 0;                             // inet, not cidr.
  *at++ = bytes;
  std::memcpy(at, address.data(), static_cast<size_t>(bytes));
  return at + bytes;
}

absl::Status TooLarge(absl::string_view column) {
  return absl::InvalidArgumentError(absl::StrCat(column, " is larger than its column"));
}

}  // namespace

CopyEncoder::CopyEncoder(absl::string_view gateway) : gateway_field_(4 + gateway.size(), '\0') {
  PutText(gateway_field_.data(), gateway);
}

void CopyEncoder::AppendHeader(std::string* out) {
  out->append(kSignature, sizeof(kSignature));
  out->append(8, '\0');  // No flags, no header extension.
}

void CopyEncoder::AppendTrailer(std::string* out) { out->append("\377\377", 2); }

absl::Status CopyEncoder::Append(const TrafficRow& row, std::string* out) const {
  constexpr uint64_t kInt8Max = std::numeric_limits<int64_t>::max();
  constexpr uint64_t kInt4Max = std::numeric_limits<int32_t>::max();
  if (row.packets_src > kInt8Max) return TooLarge("src_packets");
  if (row.packets_dst > kInt8Max) return TooLarge("dst_packets");
  if (row.bytes_src > kInt8Max) return TooLarge("src_bytes");
  if (row.bytes_dst > kInt8Max) return TooLarge("dst_bytes");
  if (row.connection_time_ms > kInt8Max) return TooLarge("connection_times");
  if (row.connection_count > kInt4Max) return TooLarge("connection_count");
  if (row.open_connections > kInt4Max) return TooLarge("open_connections");

  char bytes[kCopyRowBytesMax];
  char* at = Put16(bytes, kFields);
  at = PutInt8(at, row.time_ns / 1000 - kPostgresEpochUs);
  at = PutInt8(at, static_cast<int64_t>(row.packets_src));
  at = PutInt8(at, static_cast<int64_t>(row.bytes_src));
  at = PutInt8(at, static_cast<int64_t>(row.packets_dst));
  at = PutInt8(at, static_cast<int64_t>(row.bytes_dst));
  at = PutInt8(at, static_cast<int64_t>(row.connection_time_ms));
  at = PutInt4(at, static_cast<int32_t>(row.connection_count));
  at = PutInt4(at, static_cast<int32_t>(row.open_connections));
  at = PutInt4(at, row.port);
  at = PutInet(at, row.family, row.src);
  at = PutInet(at, row.family, row.dst);
  at = PutText(at, ProtocolName(row.protocol));
  out->append(bytes, static_cast<size_t>(at - bytes));
  out->append(gateway_field_);
  return absl::OkStatus();
}

}  // namespace ctacct
