// What an engine wrote, as sums to compare with what was sent: rows as CSV text, spool files, and
// what an importer made of them in PostgreSQL. Input that is not sound fails the test.
#ifndef CTACCT_TESTS_SUPPORT_ENGINE_OUTPUT_H_
#define CTACCT_TESTS_SUPPORT_ENGINE_OUTPUT_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "engine/rows/gap.h"
#include "engine/rows/traffic_row.h"
#include "engine/spool/spool_header.h"
#include "tests/support/gateway.h"

namespace ctacct {

struct Rows {
  Traffic traffic;  // Without rows that only report open connections.
  // By the interval's end, nanoseconds since the Unix epoch.
  std::map<int64_t, uint64_t> open_connections;
  uint64_t connection_time_ms = 0;  // In all, like the next two.
  uint64_t flow_count = 0;          // None in CSV.
  uint64_t unanswered_count = 0;

  size_t rows = 0;    // All.
  size_t others = 0;  // Of these, sums of what -max-rows folded.

  void Add(const TrafficRow& row);
};

struct SpoolRows : Rows {
  std::vector<Gap> gaps;
  std::vector<SpoolHeader> headers;  // Of all files, in the order of their names.
  uint64_t events_dropped = 0;       // By the headers.
};

[[nodiscard]] Rows ReadCsv(const std::string& csv);
// All visible files of a folder that an engine filled with -output-format=csv.
[[nodiscard]] Rows ReadCsvFolder(const std::string& folder);
// The visible spool files, by their paths. A test may have put others beside them.
[[nodiscard]] std::vector<std::string> SpoolFilesIn(const std::string& folder);
[[nodiscard]] SpoolRows ReadSpool(const std::string& folder);
// A line for each, for messages.
[[nodiscard]] std::string GapsText(const std::vector<Gap>& gaps);

// What spooldump prints of all of them; "" if there are none.
[[nodiscard]] std::string Spooldump(const std::string& folder);

}  // namespace ctacct

#endif  // CTACCT_TESTS_SUPPORT_ENGINE_OUTPUT_H_
