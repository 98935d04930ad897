// The header of a spool file: what is common to all its rows. A plain value; thread-compatible.
#ifndef CTACCT_ENGINE_SPOOL_SPOOL_HEADER_H_
#define CTACCT_ENGINE_SPOOL_SPOOL_HEADER_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

#include "engine/rows/traffic_row.h"
#include "engine/spool/engine_id.h"

namespace ctacct {

// A group mask, in network byte order.
using Mask4 = std::array<uint8_t, 4>;
using Mask6 = std::array<uint8_t, 16>;
inline constexpr Mask4 kMask4All = {255, 255, 255, 255};
inline constexpr Mask6 kMask6All = {255, 255, 255, 255, 255, 255, 255, 255,
                                    255, 255, 255, 255, 255, 255, 255, 255};

// Times are since the Unix epoch; engine/rows/bounds.h has the bounds of each field.
struct SpoolHeader {
  EngineId engine_id{};
  uint64_t sequence = 0;        // From 1 in each run; never used twice for other rows.
  int64_t interval_end_ns = 0;  // Equals time_ns of every row.
  int64_t interval_length_ns = 0;
  int64_t created_ns = 0;
  // The rows contain what moved between these moments. Rates are over this time: an engine that
  // started within the interval saw only part of it. Both the same: it is not known.
  int64_t covered_from_ns = 0;
  int64_t covered_to_ns = 0;
  uint64_t events_dropped = 0;  // Within the interval.
  uint64_t ports_checksum = 0;  // PortList::checksum() when the interval ended; 0: no list.
  Mask4 src_mask = kMask4All;
  Mask4 dst_mask = kMask4All;
  Mask6 src_mask6 = kMask6All;
  Mask6 dst_mask6 = kMask6All;
  Completeness completeness = Completeness::kComplete;
  bool track_open = false;
  bool light = false;   // The engine's -mode.
  std::string gateway;  // A name that CheckGatewayName accepts.

  friend bool operator==(const SpoolHeader&, const SpoolHeader&) = default;
};

// Why no file may have a header: "the sequence is 0". nullptr: it is sound.
struct HeaderProblem {
  const char* why = nullptr;
  size_t offset = 0;  // Of the field, in the file.
};
[[nodiscard]] HeaderProblem CheckHeader(const SpoolHeader& header);

// Why a row does not fit its header.
inline constexpr char kOpenNotTracked[] =
    "a row has open_connections, and the header says that they were not tracked";

}  // namespace ctacct

#endif  // CTACCT_ENGINE_SPOOL_SPOOL_HEADER_H_
