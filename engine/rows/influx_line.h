// Rows as lines of the Influx line protocol, for the FIFO: what Telegraf, InfluxDB and
// VictoriaMetrics take as it is. One point a row; measurement, tags and fields have the names that
// the reference's Telegraf configuration gives its CSV, and the table vpn_traffic its columns:
//
//   traffic,dst=10.32.250.0,gateway=vpn1,port=443,proto=tcp,src=10.32.251.0
//   src_packets=16i,dst_packets=13i,src_bytes=3220i,dst_bytes=1884i,connection_count=1i,
//   connection_times=65021i,open_connections=3i 1600000005000000000
//
// (in one line), open_connections only where they are tracked. Tags come in the order of their
// names, which spares the database sorting them. Integers are signed there: a counter above 2^63-1,
// which no interval can reach, is written as 2^63-1.
//
// Immutable; thread-safe.
#ifndef CTACCT_ENGINE_ROWS_INFLUX_LINE_H_
#define CTACCT_ENGINE_ROWS_INFLUX_LINE_H_

#include <cstddef>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "engine/rows/gateway_name.h"
#include "engine/rows/traffic_row.h"

namespace ctacct {

// All but the gateway's name takes 401 bytes at most; of the name, every byte may need an escape.
inline constexpr size_t kInfluxLineBytesMax = 512 + 2 * kGatewayBytesMax;

// For a name that CheckGatewayName accepts. Blanks, commas and equals signs are escaped; for
// backslashes there is no escape, and what one before them or before a delimiter means, databases
// do not agree on. So InvalidArgument if one stands there; elsewhere it is a character like others.
[[nodiscard]] absl::Status CheckInfluxGateway(absl::string_view gateway);

class InfluxLineEncoder {
 public:
  // `gateway`: as CheckInfluxGateway wants it; empty: lines without that tag.
  explicit InfluxLineEncoder(absl::string_view gateway);

  // Appends one line with its '\n'.
  void Append(const TrafficRow& row, bool track_open, std::string* out) const;

 private:
  std::string gateway_tag_;  // With its comma.
};

}  // namespace ctacct

#endif  // CTACCT_ENGINE_ROWS_INFLUX_LINE_H_
