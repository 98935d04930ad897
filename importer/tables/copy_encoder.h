// Encodes rows as PostgreSQL's COPY ... (FORMAT binary) expects them: big-endian, the length before
// every field.
//
// Pure and bounded: no database, no clock; a row adds at most kCopyRowBytesMax bytes and the
// gateway. Thread-compatible.
#ifndef CTACCT_IMPORTER_TABLES_COPY_ENCODER_H_
#define CTACCT_IMPORTER_TABLES_COPY_ENCODER_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "engine/rows/traffic_row.h"

namespace ctacct {

// The columns that CopyEncoder::Append writes, in its order: for COPY vpn_traffic (...).
inline constexpr char kCopyColumns[] =
    "time, src_packets, src_bytes, dst_packets, dst_bytes, connection_times, "
    "connection_count, open_connections, flow_count, unanswered_count, port, src, dst, proto, gateway";

// 114 bytes of numbers with their lengths, two addresses of 24, a protocol name of 13: 175, rounded
// up. The gateway is not included.
inline constexpr size_t kCopyRowBytesMax = 256;

// The bytes that count of a row's address: what the column inet is made of.
[[nodiscard]] inline absl::Span<const uint8_t> InetBytes(AddressFamily family,
                                                         const AddressBytes& address) {
  return {address.data(), family == AddressFamily::kIpv4 ? size_t{4} : address.size()};
}

class CopyEncoder {
 public:
  // All rows get this gateway, in UTF-8.
  explicit CopyEncoder(absl::string_view gateway);

  // Before the first row, and after the last.
  static void AppendHeader(std::string* out);
  static void AppendTrailer(std::string* out);

  // `row` is within the bounds of engine/rows/bounds.h, as readers make sure: so its numbers fit
  // into their columns.
  void Append(const TrafficRow& row, std::string* out) const;

 private:
  std::string gateway_field_;  // With its length.
};

}  // namespace ctacct

#endif  // CTACCT_IMPORTER_TABLES_COPY_ENCODER_H_
