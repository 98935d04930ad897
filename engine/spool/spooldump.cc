// Prints spool files as CSV (docs/formats.md) on standard output; on standard error the gaps, one
// line each, and what a file covers if that is not its whole interval: rates are over that time. Of
// a bad file the sound blocks are printed, then what is wrong with it and at which byte on standard
// error, and the exit status is 1: the rows that can be salvaged are worth more than none.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "engine/rows/csv.h"
#include "engine/rows/gap.h"
#include "engine/rows/traffic_row.h"
#include "engine/spool/spool_reader.h"
#include "engine/system/command_line.h"

namespace ctacct {
namespace {

constexpr char kProgram[] = "spooldump";
// clang-format off
constexpr char kUsage[] =
    "usage: spooldump FILE...\n"
    "Prints spool files as CSV. Gaps and partly covered intervals are reported on standard\n"
    "error. Exit status 1 if a file is invalid.";
// clang-format on

// RFC 3339, UTC, always to the nanosecond.
std::string TimeText(int64_t ns) {
  return absl::FormatTime("%Y-%m-%dT%H:%M:%E9SZ", absl::FromUnixNanos(ns), absl::UTCTimeZone());
}

std::string GapLine(const std::string& path, const Gap& gap) {
  return absl::StrCat(path, ": gap from ", TimeText(gap.began_ns), " to ", TimeText(gap.ended_ns),
                      ": cause ", GapCauseName(gap.cause), ", completeness ",
                      CompletenessName(gap.completeness), ", events dropped ", gap.events_dropped,
                      ", flows lost at least ", gap.flows_lost);
}

// Empty if the file covers its interval, give or take the time by which dumps begin late.
std::string CoverageLine(const std::string& path, const SpoolHeader& header) {
  const int64_t covered_ns = header.covered_to_ns - header.covered_from_ns;
  const int64_t difference_ns = std::abs(covered_ns - header.interval_length_ns);
  if (difference_ns <= header.interval_length_ns / 20) return "";
  return absl::StrCat(path, ": covers ", TimeText(header.covered_from_ns), " to ",
                      TimeText(header.covered_to_ns), " of an interval of ",
                      static_cast<double>(header.interval_length_ns) / 1e9, " s");
}

// The gaps, then the error if there is one: after the rows, so that both streams on one terminal
// keep their order.
void PrintFindings(const std::string& path, const std::vector<Gap>& gaps,
                   const absl::Status& status) {
  for (const Gap& gap : gaps) PrintError(kProgram, absl::UnknownError(GapLine(path, gap)));
  if (!status.ok()) PrintError(kProgram, status);
}

// False if the file is bad. The returned error is about standard output.
absl::StatusOr<bool> Dump(const std::string& path) {
  absl::StatusOr<SpoolReader> reader = SpoolReader::Open(path);
  absl::Status status = reader.status();
  std::vector<TrafficRow> rows;
  while (status.ok()) {
    const absl::StatusOr<bool> more = reader->ReadBlock(&rows);
    status = more.status();
    if (!more.ok() || !*more) break;
    std::string lines;
    for (const TrafficRow& row : rows) AppendCsvLine(row, reader->header().track_open, &lines);
    const absl::Status written = WriteToStdout(lines);
    if (!written.ok()) return written;
  }
  // Of a bad file only what is wrong with it.
  const std::string coverage = status.ok() ? CoverageLine(path, reader->header()) : "";
  if (!coverage.empty()) PrintError(kProgram, absl::UnknownError(coverage));
  PrintFindings(path, reader.ok() ? reader->gaps() : std::vector<Gap>(), status);
  return status.ok();
}

int Main(int argc, char** argv) {
  const absl::StatusOr<CommandLine> line = ParseCommandLine(argc, argv);
  absl::Status usage = line.status();
  if (usage.ok() && !line->help && line->arguments.empty()) {
    usage = absl::InvalidArgumentError("no files given; --help shows the usage");
  }
  if (!usage.ok()) {
    PrintError(kProgram, usage);
    return kExitUsageError;
  }
  absl::Status output = line->help ? WriteToStdout(FlagsHelp(kUsage)) : absl::OkStatus();
  int exit_status = kExitOk;
  for (size_t i = 0; !line->help && output.ok() && i < line->arguments.size(); ++i) {
    const absl::StatusOr<bool> sound = Dump(line->arguments[i]);
    output = sound.status();
    if (sound.ok() && !*sound) exit_status = kExitOperatingError;
  }
  if (output.ok()) return exit_status;
  PrintError(kProgram, output);
  return kExitOperatingError;
}

}  // namespace
}  // namespace ctacct

int main(int argc, char** argv) { return ctacct::Main(argc, argv); }
