#include "engine/rows/csv.h"

#include <arpa/inet.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <optional>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "engine/rows/protocol_names.h"
#include "engine/rows/row_text.h"

namespace ctacct {
namespace {

constexpr size_t kColumns = 11;
constexpr size_t kColumnsWithOpen = 12;
constexpr std::array<const char*, kColumnsWithOpen> kColumnNames = {"time",
                                                                    "proto",
                                                                    "src",
                                                                    "dst",
                                                                    "port",
                                                                    "packets_src",
                                                                    "packets_dst",
                                                                    "bytes_src",
                                                                    "bytes_dst",
                                                                    "connection_count",
                                                                    "connection_time",
                                                                    "open_connections"};

// The whole of `text` as a decimal number. from_chars takes a sign only where the type has one.
template <typename Integer>
bool ParseInteger(absl::string_view text, Integer* value) {
  const char* const end = text.data() + text.size();
  const auto [stopped, error] = std::from_chars(text.data(), end, *value);
  return error == std::errc() && stopped == end;
}

bool ParseAddress(absl::string_view text, AddressFamily* family, AddressBytes* address) {
  char terminated[INET6_ADDRSTRLEN];
  if (text.size() >= sizeof(terminated)) return false;
  std::memcpy(terminated, text.data(), text.size());
  terminated[text.size()] = '\0';
  // inet_pton stops at a NUL inside the field.
  if (std::strlen(terminated) != text.size()) return false;
  address->fill(0);
  *family = text.find(':') == absl::string_view::npos ? AddressFamily::kIpv4 : AddressFamily::kIpv6;
  return inet_pton(*family == AddressFamily::kIpv4 ? AF_INET : AF_INET6, terminated,
                   address->data()) == 1;
}

absl::Status BadColumn(size_t column, absl::string_view why) {
  return absl::InvalidArgumentError(
      absl::StrCat("column ", column + 1, " (", kColumnNames[column], "): ", why));
}

}  // namespace

void AppendCsvLine(const TrafficRow& row, bool track_open, std::string* out) {
  char line[kCsvLineBytesMax];
  char* at = PutInteger(line, row.time_ns);
  *at++ = ',';
  at = PutText(at, ProtocolName(row.protocol));
  *at++ = ',';
  at = PutAddress(at, row.family, row.src);
  *at++ = ',';
  at = PutAddress(at, row.family, row.dst);
  *at++ = ',';
  at = PutInteger(at, row.port);
  for (const uint64_t counter : {row.packets_src, row.packets_dst, row.bytes_src, row.bytes_dst,
                                 row.connection_count, row.connection_time_ms}) {
    *at++ = ',';
    at = PutInteger(at, counter);
  }
  if (track_open) {
    *at++ = ',';
    at = PutInteger(at, row.open_connections);
  }
  *at++ = '\n';
  out->append(line, static_cast<size_t>(at - line));
}

absl::Status ParseCsvLine(absl::string_view line, TrafficRow* row, bool* has_open) {
  if (line.size() > kCsvLineBytesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("longer than the ", kCsvLineBytesMax, " bytes that a row can have"));
  }
  std::array<absl::string_view, kColumnsWithOpen> fields;
  size_t columns = 0;
  for (absl::string_view rest = line;; ++columns) {
    const size_t comma = rest.find(',');
    if (columns < fields.size()) fields[columns] = rest.substr(0, comma);
    if (comma == absl::string_view::npos) break;
    rest.remove_prefix(comma + 1);
  }
  ++columns;
  if (columns != kColumns && columns != kColumnsWithOpen) {
    return absl::InvalidArgumentError(
        absl::StrCat(columns, " columns, not ", kColumns, " or ", kColumnsWithOpen));
  }
  *has_open = columns == kColumnsWithOpen;

  if (!ParseInteger(fields[0], &row->time_ns) || row->time_ns < 0) {
    return BadColumn(0, "not a time in nanoseconds");
  }
  const std::optional<uint8_t> protocol = ParseProtocol(fields[1]);
  if (!protocol.has_value()) return BadColumn(1, "not a protocol");
  row->protocol = *protocol;
  AddressFamily dst_family = AddressFamily::kIpv4;
  if (!ParseAddress(fields[2], &row->family, &row->src)) return BadColumn(2, "not an address");
  if (!ParseAddress(fields[3], &dst_family, &row->dst)) return BadColumn(3, "not an address");
  if (dst_family != row->family) return BadColumn(3, "not of the source's address family");
  if (!ParseInteger(fields[4], &row->port) || row->port < kPortNotListed || row->port > 65535) {
    return BadColumn(4, "not a port or -1");
  }
  uint64_t* const counters[] = {
      &row->packets_src,      &row->packets_dst,        &row->bytes_src,       &row->bytes_dst,
      &row->connection_count, &row->connection_time_ms, &row->open_connections};
  row->open_connections = 0;
  for (size_t i = 5; i < columns; ++i) {
    if (!ParseInteger(fields[i], counters[i - 5])) return BadColumn(i, "not a count");
  }
  return absl::OkStatus();
}

}  // namespace ctacct
