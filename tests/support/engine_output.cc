#include "tests/support/engine_output.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "engine/rows/csv.h"
#include "engine/rows/protocol_names.h"
#include "engine/spool/spool_reader.h"
#include "gtest/gtest.h"
#include "tests/support/conditions.h"
#include "tests/support/files.h"

namespace ctacct {
namespace {

uint32_t HostOrder(const uint8_t* bytes) {
  return uint32_t{bytes[0]} << 24 | uint32_t{bytes[1]} << 16 | uint32_t{bytes[2]} << 8 | bytes[3];
}

}  // namespace

void Rows::Add(const TrafficRow& row) {
  ++rows;
  others += static_cast<size_t>(IsOtherRow(row));
  open_connections[row.time_ns] += row.open_connections;
  connection_time_ms += row.connection_time_ms;
  const TrafficTotals sums = {row.packets_src, row.packets_dst, row.bytes_src, row.bytes_dst,
                              row.connection_count};
  flow_count += row.flow_count;
  unanswered_count += row.unanswered_count;
  if (sums == TrafficTotals() && (row.open_connections | row.flow_count) != 0) return;
  // As the generator's sums: it plays within one network of 96 bits.
  const bool ipv6 = row.family == AddressFamily::kIpv6;
  const uint8_t* const src = row.src.data() + (ipv6 ? 12 : 0);
  const uint8_t* const dst = row.dst.data() + (ipv6 ? 12 : 0);
  traffic[{absl::StrCat(ProtocolName(row.protocol), ipv6 ? "6" : ""), HostOrder(src),
           HostOrder(dst), row.port}] += sums;
}

Rows ReadCsv(const std::string& csv) {
  Rows rows;
  for (absl::string_view line : absl::StrSplit(csv, '\n', absl::SkipEmpty())) {
    TrafficRow row;
    bool has_open = false;
    const absl::Status status = ParseCsvLine(line, &row, &has_open);
    EXPECT_TRUE(status.ok()) << status;
    rows.Add(row);
  }
  return rows;
}

Rows ReadCsvFolder(const std::string& folder) {
  std::string csv;
  for (const std::string& path : VisibleFilesIn(folder)) csv += ReadFile(path);
  return ReadCsv(csv);
}

std::vector<std::string> SpoolFilesIn(const std::string& folder) {
  std::vector<std::string> files = VisibleFilesIn(folder);
  std::erase_if(files, [](const std::string& path) { return !path.ends_with(".spool"); });
  return files;
}

std::string GapsText(const std::vector<Gap>& gaps) {
  std::string text;
  for (const Gap& gap : gaps) {
    absl::StrAppend(&text, "gap of ", (gap.ended_ns - gap.began_ns) / 1'000'000,
                    " ms: ", GapCauseName(gap.cause), ", ", gap.events_dropped, " events, ",
                    gap.flows_lost, " flows\n");
  }
  return text;
}

SpoolRows ReadSpool(const std::string& folder) {
  SpoolRows all;
  std::vector<TrafficRow> block;
  for (const std::string& path : SpoolFilesIn(folder)) {
    auto reader = SpoolReader::Open(path);
    EXPECT_TRUE(reader.ok()) << reader.status();
    if (!reader.ok()) continue;
    for (;;) {
      const auto more = reader->ReadBlock(&block);
      EXPECT_TRUE(more.ok()) << more.status();
      if (!more.ok() || !*more) break;
      for (const TrafficRow& row : block) all.Add(row);
    }
    all.gaps.insert(all.gaps.end(), reader->gaps().begin(), reader->gaps().end());
    all.headers.push_back(reader->header());
    all.events_dropped += reader->header().events_dropped;
  }
  return all;
}

std::string Spooldump(const std::string& folder) {
  const std::vector<std::string> files = SpoolFilesIn(folder);
  if (files.empty()) return "";
  const auto csv =
      RunProcessOrError(Joined({{DataPath("engine/spool/spooldump")}, files}), kPatience);
  EXPECT_TRUE(csv.ok()) << csv.status();
  return csv.value_or("");
}

}  // namespace ctacct
