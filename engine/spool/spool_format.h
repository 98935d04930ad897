// The bytes of a spool file: constants and structs that writer and reader share, no code.
// SPOOL_FORMAT.md says the same in prose, with an example.
//
//   +--------+-----------+     +-----------+-------------------+-----------+
//   | header | row block | ... | row block | gap block, if any | end block |
//   +--------+-----------+     +-----------+-------------------+-----------+
//
//   block:   +--------------+---------------------------------+----------+
//            | block header | payload: row_count * row_bytes  | checksum |
//            +--------------+---------------------------------+----------+
//
// Integers are little-endian, addresses in network byte order. Checksums are XXH3, 64 bits, seed 0.
#ifndef CTACCT_ENGINE_SPOOL_SPOOL_FORMAT_H_
#define CTACCT_ENGINE_SPOOL_SPOOL_FORMAT_H_

#include <bit>
#include <cstddef>
#include <cstdint>

#include "engine/rows/gateway_name.h"

namespace ctacct::spool_format {

// The structs below are copied to and from files as they lie in memory.
static_assert(std::endian::native == std::endian::little);

inline constexpr char kMagic[8] = {'C', 'T', 'S', 'P', 'O', 'O', 'L', '\n'};
inline constexpr uint32_t kVersion = 3;

// A header of any version is read whole before its version is believed, so it needs a bound; 4 KiB
// is one page.
inline constexpr uint32_t kHeaderBytesMax = 4096;
// 4,096 IPv4 rows are 288 KiB: large enough that system calls and checksums vanish per row, small
// enough to be the reader's whole memory.
inline constexpr uint32_t kBlockRowsMax = 4096;
// Gaps in a file, all in one block. A worker sees at most one overrun in each of its naps, 3,000 in
// an interval of 15 s, and gaps that overlap are joined.
inline constexpr uint32_t kGapsMax = 4096;

inline constexpr uint32_t kFlagTrackOpen = 1;  // open_connections was tracked.
inline constexpr uint32_t kFlagLight = 2;      // -mode=light; otherwise precise.
inline constexpr uint32_t kFlagsKnown = kFlagTrackOpen | kFlagLight;

enum BlockType : uint8_t {
  kRowBlock = 1,
  kGapBlock = 2,  // At most one, between the row blocks and the end block.
  kEndBlock = 3,
};

// What the fields may be: engine/rows/bounds.h. All versions begin with the first 16 bytes of this
// header and end it with the checksum.
struct Header {
  char magic[8];
  uint32_t version;
  uint32_t header_bytes;  // Of the whole header, checksum included.
  uint32_t flags;
  uint8_t completeness;   // ctacct::Completeness.
  uint8_t gateway_bytes;  // How many of `gateway` count; the others are zero.
  uint8_t reserved[2];    // Zero.
  uint8_t engine_id[16];
  uint64_t sequence;        // From 1 in each run of the engine.
  int64_t interval_end_ns;  // Since the Unix epoch; the time of every row.
  int64_t interval_length_ns;
  int64_t created_ns;       // Since the Unix epoch.
  int64_t covered_from_ns;  // Since the Unix epoch: the rows contain what moved between these
  int64_t covered_to_ns;    // two moments. Not before covered_from_ns.
  uint64_t events_dropped;  // By the kernel, within the interval.
  uint64_t ports_checksum;  // Of the port list when the interval ended; 0: none.
  uint8_t src_mask[4];      // Group masks, in network byte order.
  uint8_t dst_mask[4];
  uint8_t src_mask6[16];
  uint8_t dst_mask6[16];
  char gateway[kGatewayBytesMax + 1];
  uint64_t checksum;  // Of all bytes of the header before it.
};
static_assert(offsetof(Header, version) == 8);
static_assert(offsetof(Header, header_bytes) == 12);
static_assert(offsetof(Header, flags) == 16);
static_assert(offsetof(Header, completeness) == 20);
static_assert(offsetof(Header, engine_id) == 24);
static_assert(offsetof(Header, sequence) == 40);
static_assert(offsetof(Header, interval_end_ns) == 48);
static_assert(offsetof(Header, interval_length_ns) == 56);
static_assert(offsetof(Header, created_ns) == 64);
static_assert(offsetof(Header, covered_from_ns) == 72);
static_assert(offsetof(Header, covered_to_ns) == 80);
static_assert(offsetof(Header, events_dropped) == 88);
static_assert(offsetof(Header, ports_checksum) == 96);
static_assert(offsetof(Header, src_mask) == 104);
static_assert(offsetof(Header, dst_mask) == 108);
static_assert(offsetof(Header, src_mask6) == 112);
static_assert(offsetof(Header, dst_mask6) == 128);
static_assert(offsetof(Header, gateway) == 144);
static_assert(offsetof(Header, checksum) == 400);
static_assert(sizeof(Header) == 408);
static_assert(sizeof(Header) <= kHeaderBytesMax);

inline constexpr uint32_t kHeaderPrefixBytes = offsetof(Header, flags);
inline constexpr size_t kChecksumBytes = sizeof(uint64_t);

// The checksum behind a block's payload covers this and the payload.
struct BlockHeader {
  uint8_t type;
  uint8_t address_family;  // ctacct::AddressFamily in a row block, else 0.
  uint16_t row_bytes;
  uint32_t row_count;
};
static_assert(offsetof(BlockHeader, row_bytes) == 2);
static_assert(offsetof(BlockHeader, row_count) == 4);
static_assert(sizeof(BlockHeader) == 8);

template <size_t kAddressBytes>
struct Row {
  uint8_t protocol;
  uint8_t reserved[3];  // Zero.
  int32_t port;
  uint8_t src[kAddressBytes];
  uint8_t dst[kAddressBytes];
  uint64_t packets_src;
  uint64_t packets_dst;
  uint64_t bytes_src;
  uint64_t bytes_dst;
  uint64_t connection_time_ms;
  uint32_t connection_count;
  uint32_t open_connections;
  uint32_t flow_count;
  uint32_t unanswered_count;
};
using Ipv4Row = Row<4>;
static_assert(offsetof(Ipv4Row, port) == 4);
static_assert(offsetof(Ipv4Row, src) == 8);
static_assert(offsetof(Ipv4Row, packets_src) == 16);
static_assert(offsetof(Ipv4Row, connection_time_ms) == 48);
static_assert(offsetof(Ipv4Row, open_connections) == 60);
static_assert(offsetof(Ipv4Row, unanswered_count) == 68);
static_assert(sizeof(Ipv4Row) == 72);
using Ipv6Row = Row<16>;
static_assert(offsetof(Ipv6Row, packets_src) == 40);
static_assert(offsetof(Ipv6Row, open_connections) == 84);
static_assert(offsetof(Ipv6Row, unanswered_count) == 92);
static_assert(sizeof(Ipv6Row) == 96);

// The gap block's "row": ctacct::Gap.
struct GapRecord {
  int64_t began_ns;  // Since the Unix epoch.
  int64_t ended_ns;  // Not before began_ns.
  uint64_t events_dropped;
  uint64_t flows_lost;   // At least.
  uint8_t cause;         // ctacct::GapCause.
  uint8_t completeness;  // ctacct::Completeness, not kComplete.
  uint8_t reserved[6];   // Zero.
};
static_assert(offsetof(GapRecord, ended_ns) == 8);
static_assert(offsetof(GapRecord, events_dropped) == 16);
static_assert(offsetof(GapRecord, flows_lost) == 24);
static_assert(offsetof(GapRecord, cause) == 32);
static_assert(offsetof(GapRecord, completeness) == 33);
static_assert(offsetof(GapRecord, reserved) == 34);
static_assert(sizeof(GapRecord) == 40);

// The end block's payload, its one "row".
struct End {
  uint64_t row_count = 0;  // Rows of all blocks.
  uint64_t packets_src = 0;
  uint64_t packets_dst = 0;
  uint64_t bytes_src = 0;
  uint64_t bytes_dst = 0;
  uint64_t file_checksum = 0;  // Of all bytes of the file before the end block.

  friend bool operator==(const End&, const End&) = default;
};
static_assert(offsetof(End, file_checksum) == 40);
static_assert(sizeof(End) == 48);

inline constexpr size_t kBlockPayloadBytesMax = kBlockRowsMax * sizeof(Ipv6Row);
static_assert(kGapsMax * sizeof(GapRecord) <= kBlockPayloadBytesMax);

}  // namespace ctacct::spool_format

#endif  // CTACCT_ENGINE_SPOOL_SPOOL_FORMAT_H_
