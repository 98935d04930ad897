// Rows as lines of the Influx line protocol, for the FIFO: Telegraf, InfluxDB and VictoriaMetrics
// read it. One point a row; measurement, tags and fields have the names that the Go tool's Telegraf
// configuration gives its CSV, and the table vpn_traffic its columns:
//
//   traffic,dst=10.32.250.0,gateway=vpn1,port=443,proto=tcp,src=10.32.251.0
//   src_packets=16i,dst_packets=13i,src_bytes=3220i,dst_bytes=1884i,connection_count=1i,
//   connection_times=65021i,open_connections=3i,flow_count=1i,unanswered_count=0i
//   1600000005000000000
//
// (in one line), open_connections only if they are tracked. Tags are sorted by name, so that the
// database need not sort them. Integers are signed there: a counter above 2^63-1, which no interval
// can reach, is written as 2^63-1.
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

// At most 471 bytes without the gateway's name, of which every byte may need an escape.
inline constexpr size_t kInfluxLineBytesMax = 512 + 2 * kGatewayBytesMax;

// For a name that CheckGatewayName accepts. Blanks, commas and equals signs are escaped.
// Backslashes cannot be escaped, and databases read one before a delimiter or another backslash
// differently: InvalidArgument if the name has one there, or at its end. Elsewhere it is an
// ordinary character.
[[nodiscard]] absl::Status CheckInfluxGateway(absl::string_view gateway);

class InfluxLineEncoder {
 public:
  // `gateway`: a name that CheckInfluxGateway accepts; empty: lines without that tag.
  explicit InfluxLineEncoder(absl::string_view gateway);

  // Appends one line with its '\n'.
  void Append(const TrafficRow& row, bool track_open, std::string* out) const;

 private:
  std::string gateway_tag_;  // With its comma.
};

}  // namespace ctacct

#endif  // CTACCT_ENGINE_ROWS_INFLUX_LINE_H_
