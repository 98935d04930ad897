// One row: the traffic between two masked peers within one interval. CSV, spool files and the
// importer all carry these rows.
//
// A plain value; thread-compatible.
#ifndef CTACCT_ENGINE_ROWS_TRAFFIC_ROW_H_
#define CTACCT_ENGINE_ROWS_TRAFFIC_ROW_H_

#include <array>
#include <cstdint>

namespace ctacct {

// Numbers of the spool format, not of any kernel's AF_ constants.
enum class AddressFamily : uint8_t { kIpv4 = 4, kIpv6 = 6 };

// An address in network byte order; IPv4 uses the first four bytes and leaves the others zero.
using AddressBytes = std::array<uint8_t, 16>;

inline constexpr int32_t kPortNotListed = -1;

struct TrafficRow {
  int64_t time_ns = 0;  // End of the interval, nanoseconds since the Unix epoch.
  AddressFamily family = AddressFamily::kIpv4;
  uint8_t protocol = 0;  // IANA number.
  int32_t port = 0;      // Host byte order; kPortNotListed, or 0 where the protocol has none.
  AddressBytes src{};    // Masked source of the original direction.
  AddressBytes dst{};
  uint64_t packets_src = 0;  // Original direction.
  uint64_t packets_dst = 0;  // Reply direction.
  uint64_t bytes_src = 0;
  uint64_t bytes_dst = 0;
  uint64_t connection_count = 0;    // Connections closed.
  uint64_t connection_time_ms = 0;  // Sum of their durations.
  uint64_t open_connections = 0;    // At the interval's end; 0 if not tracked.
  uint64_t flow_count = 0;  // Flows of any protocol that ended. Not in CSV, like the next one.
  uint64_t unanswered_count = 0;  // Of these, those without a reply packet.

  friend bool operator==(const TrafficRow&, const TrafficRow&) = default;
};

// A sum of an origin's rows that were folded because there were more than -max-rows: destination
// 0.0.0.0 (::), protocol 0, port -1. Of the smallest origins there is one such row, whose source is
// 0.0.0.0 as well. No flow makes such a row: only protocols with ports have the port -1.
inline constexpr uint8_t kOtherRowProtocol = 0;
inline bool IsOtherRow(const TrafficRow& row) {
  return row.protocol == kOtherRowProtocol && row.port == kPortNotListed;
}

// Whether an interval's events are complete (docs/accounting.md).
enum class Completeness : uint8_t {
  kComplete = 0,
  // Events were lost, and it is proved what each of them reported: totals are right, some closes
  // may be missing.
  kResynced = 1,
  // Some traffic may be missing.
  kPartial = 2,
};

}  // namespace ctacct

#endif  // CTACCT_ENGINE_ROWS_TRAFFIC_ROW_H_
