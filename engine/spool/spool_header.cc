#include "engine/spool/spool_header.h"

#include "engine/rows/gap.h"
#include "engine/rows/gateway_name.h"
#include "engine/spool/spool_format.h"

namespace ctacct {
namespace {

bool IsTime(int64_t ns) { return ns >= 0 && ns < spool_format::kTimeEndNs; }

}  // namespace

const char* HeaderProblem(const SpoolHeader& header) {
  if (CompletenessName(header.completeness) == nullptr) return "its completeness is unknown";
  if (header.sequence == 0) return "the sequence is 0";
  if (header.sequence > spool_format::kCountMax) return "the sequence is 2^63 or more";
  if (!IsTime(header.interval_end_ns)) return "the interval ends before 1970 or after 2199";
  if (header.interval_length_ns < spool_format::kIntervalLengthMinNs ||
      header.interval_length_ns > spool_format::kIntervalLengthMaxNs) {
    return "the interval's length is not from 1 to 86400 seconds";
  }
  if (!IsTime(header.created_ns)) return "it was created before 1970 or after 2199";
  if (!IsTime(header.covered_from_ns) || !IsTime(header.covered_to_ns)) {
    return "the covered time is before 1970 or after 2199";
  }
  if (header.covered_to_ns < header.covered_from_ns) return "the covered time ends before it began";
  if (header.events_dropped > spool_format::kCountMax) {
    return "the number of dropped events is 2^63 or more";
  }
  if (!CheckGatewayName(header.gateway).ok()) {
    return "the gateway's name is too long, not UTF-8, or has control characters";
  }
  return nullptr;
}

}  // namespace ctacct
