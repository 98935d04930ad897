#include "engine/spool/spool_header.h"

#include "engine/rows/bounds.h"
#include "engine/rows/gap.h"
#include "engine/rows/gateway_name.h"
#include "engine/spool/spool_format.h"

namespace ctacct {

HeaderProblem CheckHeader(const SpoolHeader& header) {
  using spool_format::Header;
  if (CompletenessName(header.completeness) == nullptr) {
    return {"its completeness is unknown", offsetof(Header, completeness)};
  }
  if (header.sequence == 0) return {"the sequence is 0", offsetof(Header, sequence)};
  if (header.sequence > kSequenceMax) {
    return {"the sequence is 2^63 or more", offsetof(Header, sequence)};
  }
  if (!IsTime(header.interval_end_ns)) {
    return {"the interval ends before 1970 or after 2199", offsetof(Header, interval_end_ns)};
  }
  if (header.interval_length_ns < kIntervalUnitNs ||
      header.interval_length_ns > kIntervalLengthMaxNs ||
      header.interval_length_ns % kIntervalUnitNs != 0) {
    return {"the interval's length is not 1 to 86400 whole seconds",
            offsetof(Header, interval_length_ns)};
  }
  if (header.interval_end_ns % header.interval_length_ns != 0) {
    return {"the interval's end is not a multiple of its length",
            offsetof(Header, interval_end_ns)};
  }
  if (!IsTime(header.created_ns)) {
    return {"it was created before 1970 or after 2199", offsetof(Header, created_ns)};
  }
  if (!IsTime(header.covered_from_ns)) {
    return {"the covered time begins before 1970 or after 2199", offsetof(Header, covered_from_ns)};
  }
  if (!IsTime(header.covered_to_ns)) {
    return {"the covered time ends before 1970 or after 2199", offsetof(Header, covered_to_ns)};
  }
  if (header.covered_to_ns < header.covered_from_ns) {
    return {"the covered time ends before it began", offsetof(Header, covered_to_ns)};
  }
  if (header.covered_to_ns != header.covered_from_ns) {
    if (!IsNearEnough(header.covered_from_ns, header.interval_end_ns)) {
      return {"the covered time begins more than 2 days from the interval's end",
              offsetof(Header, covered_from_ns)};
    }
    if (!IsNearEnough(header.covered_to_ns, header.interval_end_ns)) {
      return {"the covered time ends more than 2 days from the interval's end",
              offsetof(Header, covered_to_ns)};
    }
  }
  if (header.events_dropped > kSumMax) {
    return {"the events dropped are more than 2^53", offsetof(Header, events_dropped)};
  }
  if (header.gateway.size() > kGatewayBytesMax) {
    return {"the gateway's name is too long", offsetof(Header, gateway)};
  }
  if (!CheckGatewayName(header.gateway).ok()) {
    return {"the gateway's name is not UTF-8, or has control characters",
            offsetof(Header, gateway)};
  }
  return {};
}

}  // namespace ctacct
