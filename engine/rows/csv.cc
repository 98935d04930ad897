#include "engine/rows/csv.h"

#include <arpa/inet.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <optional>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "engine/rows/bounds.h"
#include "engine/rows/protocol_names.h"
#include "engine/rows/row_text.h"

namespace ctacct {
namespace {

constexpr size_t kColumns = 11;
constexpr size_t kColumnsWithOpen = 12;
// Before the counters, which come in the order of kRowCounters.
constexpr std::array<const char*, 5> kKeyNames = {"time", "proto", "src", "dst", "port"};
constexpr size_t kFirstCounter = kKeyNames.size();
static_assert(kRowCounters[kColumnsWithOpen - kFirstCounter - 1].value ==
              &TrafficRow::open_connections);

const char* ColumnName(size_t column) {
  return column < kFirstCounter ? kKeyNames[column] : kRowCounters[column - kFirstCounter].name;
}

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
      absl::StrCat("column ", column + 1, " (", ColumnName(column), "): ", why));
}

}  // namespace

bool HasCsvLine(const TrafficRow& row) {
  return std::any_of(kRowCounters.begin(), kRowCounters.begin() + kColumnsWithOpen - kFirstCounter,
                     [&row](const RowCounter& counter) { return row.*counter.value != 0; });
}

void AppendCsvLine(const TrafficRow& row, bool track_open, std::string* out) {
  if (!HasCsvLine(row)) return;
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
  const size_t counters = (track_open ? kColumnsWithOpen : kColumns) - kFirstCounter;
  for (size_t i = 0; i < counters; ++i) {
    *at++ = ',';
    at = PutInteger(at, row.*kRowCounters[i].value);
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

  if (!ParseInteger(fields[0], &row->time_ns)) return BadColumn(0, "not a time in nanoseconds");
  if (!IsTime(row->time_ns)) return BadColumn(0, "before 1970 or after 2199");
  const std::optional<uint8_t> protocol = ParseProtocol(fields[1]);
  if (!protocol.has_value()) return BadColumn(1, "not a protocol");
  row->protocol = *protocol;
  AddressFamily dst_family = AddressFamily::kIpv4;
  if (!ParseAddress(fields[2], &row->family, &row->src)) return BadColumn(2, "not an address");
  if (!ParseAddress(fields[3], &dst_family, &row->dst)) return BadColumn(3, "not an address");
  if (dst_family != row->family) return BadColumn(3, "not of the source's address family");
  if (!ParseInteger(fields[4], &row->port) || row->port < kPortNotListed || row->port > kPortMax) {
    return BadColumn(4, "not a port or -1");
  }
  row->open_connections = 0;
  row->flow_count = 0;
  row->unanswered_count = 0;
  for (size_t i = kFirstCounter; i < columns; ++i) {
    const RowCounter& counter = kRowCounters[i - kFirstCounter];
    uint64_t& value = row->*counter.value;
    if (!ParseInteger(fields[i], &value)) return BadColumn(i, "not a count");
    if (value > counter.most) return BadColumn(i, absl::StrCat("more than ", counter.most));
  }
  return absl::OkStatus();
}

}  // namespace ctacct
