// Writes spool files with rows as a real gateway makes them: every pair of a number of client and
// server networks, on several ports, over TCP and UDP. The same flags make the same rows. Prints a
// line for each file: name, rows, packets sent, bytes sent, bytes received. By these sums a caller
// checks whether all rows arrived.
#include <algorithm>
#include <cstdint>
#include <iostream>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "engine/rows/traffic_row.h"
#include "engine/spool/engine_id.h"
#include "engine/spool/spool_writer.h"
#include "engine/system/command_line.h"

ABSL_FLAG(std::string, output, "", "folder for the files");
ABSL_FLAG(int, files, 10, "number of files; one interval each");
ABSL_FLAG(int, rows, 100'000, "in each file; at most 200,000");
ABSL_FLAG(
    int, keys, 0,
    "a game: number of keys in use, of 200,000; each interval has about -rows of them; 0: the "
    "first -rows keys, in every interval");
ABSL_FLAG(bool, scan, false,
          "an address scan: each row has a destination of its own; then -rows may be 16,000,000");
ABSL_FLAG(int64_t, first, 1'600'000'005, "end of the first interval, seconds since the epoch");
ABSL_FLAG(int, pace, 0, "milliseconds from one file to the next; 0: as fast as possible");

namespace ctacct {
namespace {

constexpr char kProgram[] = "spool_generator";
constexpr int kNetworks = 100;
constexpr int kScanRowsMax = 16'000'000;
constexpr int kRowsMax = kNetworks * kNetworks * 10 * 2;
constexpr int32_t kPorts[] = {22, 25, 53, 80, 123, 443, 993, 3306, 5432, kPortNotListed};
constexpr uint8_t kTcp = 6;
constexpr uint8_t kUdp = 17;
constexpr int64_t kIntervalNs = 15'000'000'000;

TrafficRow MakeRow(int index, int64_t time_ns, std::mt19937_64& random) {
  TrafficRow row;
  row.time_ns = time_ns;
  row.protocol = index % 2 == 0 ? kTcp : kUdp;
  row.port = kPorts[index / 2 % 10];
  row.src = {10, 32, static_cast<uint8_t>(index / 20 % kNetworks), 0};
  row.dst = {10, 33, static_cast<uint8_t>(index / 20 / kNetworks), 0};
  row.packets_src = 1 + random() % 2000;
  row.packets_dst = random() % 3000;
  row.bytes_src = row.packets_src * (60 + random() % 500);
  row.bytes_dst = row.packets_dst * (60 + random() % 1400);
  if (row.protocol == kTcp) {
    row.connection_count = random() % 20;
    row.connection_time_ms = row.connection_count * (random() % 30'000);
    row.open_connections = random() % 10;
  }
  return row;
}

// As MakeRow, of TCP connections that nobody answered.
TrafficRow MakeScanRow(int index, int64_t time_ns) {
  TrafficRow row;
  row.time_ns = time_ns;
  row.protocol = kTcp;
  row.port = kPorts[index % 9];
  row.src = {10, 32, static_cast<uint8_t>(index % kNetworks), 0};
  row.dst = {11, static_cast<uint8_t>(index >> 16), static_cast<uint8_t>(index >> 8),
             static_cast<uint8_t>(index)};
  row.packets_src = 1;
  row.bytes_src = 60;
  return row;
}

int Main(int argc, char** argv) {
  const absl::StatusOr<CommandLine> line = ParseCommandLine(argc, argv);
  if (!line.ok()) {
    PrintError(kProgram, line.status());
    return kExitUsageError;
  }
  if (line->help) {
    std::cout << FlagsHelp("usage: spool_generator -output=FOLDER [FLAGS]");
    return kExitOk;
  }
  const int rows_per_file = absl::GetFlag(FLAGS_rows);
  const bool scan = absl::GetFlag(FLAGS_scan);
  const int rows_max = scan ? kScanRowsMax : kRowsMax;
  const int keys = absl::GetFlag(FLAGS_keys) == 0 ? rows_per_file : absl::GetFlag(FLAGS_keys);
  if (rows_per_file < 0 || keys < rows_per_file || keys > rows_max ||
      absl::GetFlag(FLAGS_output).empty()) {
    PrintError(kProgram, absl::InvalidArgumentError(absl::StrCat(
                             "give -output, -rows, and -keys from -rows to ", rows_max)));
    return kExitUsageError;
  }
  std::mt19937_64 random(1);
  SpoolHeader header;
  header.engine_id = NewEngineId().value();
  header.interval_length_ns = kIntervalNs;
  header.track_open = true;
  header.gateway = "vpn1";
  std::vector<int> indexes(static_cast<size_t>(rows_max));
  std::iota(indexes.begin(), indexes.end(), 0);
  if (keys != rows_per_file) std::shuffle(indexes.begin(), indexes.end(), random);
  indexes.resize(static_cast<size_t>(keys));
  std::sort(indexes.begin(), indexes.end());
  std::vector<TrafficRow> rows;
  for (int file = 0; file < absl::GetFlag(FLAGS_files); ++file) {
    header.sequence = static_cast<uint64_t>(file) + 1;
    header.interval_end_ns = absl::GetFlag(FLAGS_first) * 1'000'000'000 + file * kIntervalNs;
    header.created_ns = header.interval_end_ns;
    header.covered_from_ns = header.interval_end_ns - kIntervalNs;
    header.covered_to_ns = header.interval_end_ns;
    rows.clear();
    uint64_t packets_src = 0, bytes_src = 0, bytes_dst = 0;
    for (const int index : indexes) {
      if (keys != rows_per_file &&
          random() % static_cast<uint64_t>(keys) >= static_cast<uint64_t>(rows_per_file)) {
        continue;
      }
      rows.push_back(scan ? MakeScanRow(index, header.interval_end_ns)
                          : MakeRow(index, header.interval_end_ns, random));
      packets_src += rows.back().packets_src;
      bytes_src += rows.back().bytes_src;
      bytes_dst += rows.back().bytes_dst;
    }
    if (file != 0 && absl::GetFlag(FLAGS_pace) != 0) {
      absl::SleepFor(absl::Milliseconds(absl::GetFlag(FLAGS_pace)));
    }
    const absl::StatusOr<std::string> name =
        WriteSpoolFile(absl::GetFlag(FLAGS_output), header, rows);
    if (!name.ok()) {
      PrintError(kProgram, name.status());
      return kExitOperatingError;
    }
    std::cout << *name << ' ' << rows.size() << ' ' << packets_src << ' ' << bytes_src << ' '
              << bytes_dst << std::endl;
  }
  return kExitOk;
}

}  // namespace
}  // namespace ctacct

int main(int argc, char** argv) { return ctacct::Main(argc, argv); }
