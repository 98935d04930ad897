#include "engine/rows/influx_line.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>

#include "absl/strings/str_cat.h"
#include "engine/rows/protocol_names.h"
#include "engine/rows/row_text.h"

namespace ctacct {
namespace {

constexpr absl::string_view kEscaped = " ,=";

struct Field {
  absl::string_view name;  // With what stands before and after it.
  uint64_t TrafficRow::*value;
};
constexpr std::array kFields = {
    Field{" src_packets=", &TrafficRow::packets_src},
    Field{"i,dst_packets=", &TrafficRow::packets_dst},
    Field{"i,src_bytes=", &TrafficRow::bytes_src},
    Field{"i,dst_bytes=", &TrafficRow::bytes_dst},
    Field{"i,connection_count=", &TrafficRow::connection_count},
    Field{"i,connection_times=", &TrafficRow::connection_time_ms},
    Field{"i,open_connections=", &TrafficRow::open_connections},
    Field{"i,flow_count=", &TrafficRow::flow_count},
    Field{"i,unanswered_count=", &TrafficRow::unanswered_count},
};

char* PutCounter(char* at, uint64_t counter) {
  constexpr uint64_t kMax = std::numeric_limits<int64_t>::max();
  return PutInteger(at, std::min(counter, kMax));
}

}  // namespace

absl::Status CheckInfluxGateway(absl::string_view gateway) {
  for (size_t i = 0; i < gateway.size(); ++i) {
    if (gateway[i] != '\\') continue;
    const bool last = i + 1 == gateway.size();
    if (last || gateway[i + 1] == '\\' || kEscaped.find(gateway[i + 1]) != kEscaped.npos) {
      return absl::InvalidArgumentError(
          "Influx line protocol cannot express a backslash at the end of the gateway's name or "
          "before a blank, a comma, = or a backslash");
    }
  }
  return absl::OkStatus();
}

InfluxLineEncoder::InfluxLineEncoder(absl::string_view gateway) {
  if (gateway.empty()) return;  // A tag without a value is an error there.
  gateway_tag_ = ",gateway=";
  for (const char c : gateway) {
    if (kEscaped.find(c) != kEscaped.npos) gateway_tag_.push_back('\\');
    gateway_tag_.push_back(c);
  }
}

void InfluxLineEncoder::Append(const TrafficRow& row, bool track_open, std::string* out) const {
  char line[kInfluxLineBytesMax];
  char* at = PutText(line, "traffic,dst=");
  at = PutAddress(at, row.family, row.dst);
  at = PutText(at, gateway_tag_);
  at = PutText(at, ",port=");
  at = PutInteger(at, row.port);
  at = PutText(at, ",proto=");
  at = PutText(at, ProtocolName(row.protocol));
  at = PutText(at, ",src=");
  at = PutAddress(at, row.family, row.src);
  for (const Field& field : kFields) {
    if (field.value == &TrafficRow::open_connections && !track_open) continue;
    at = PutText(at, field.name);
    at = PutCounter(at, row.*field.value);
  }
  at = PutText(at, "i ");
  at = PutInteger(at, row.time_ns);
  *at++ = '\n';
  out->append(line, static_cast<size_t>(at - line));
}

}  // namespace ctacct
