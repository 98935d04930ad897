// Prints spool files as CSV (contract, section 3), nothing else, on standard output; gaps, one line
// each, on standard error. A bad file's sound blocks are printed too, then what is wrong with it
// and where, on standard error: for salvage the rows are worth more than nothing, and the exit
// status tells.
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "engine/rows/csv.h"
#include "engine/rows/gap.h"
#include "engine/rows/traffic_row.h"
#include "engine/spool/spool_reader.h"
#include "engine/system/command_line.h"

namespace ctacct {
namespace {

constexpr char kProgram[] = "spooldump";
constexpr size_t kOutputBufferBytes = 256 * 1024;  // One block's lines, about.

class Output {
 public:
  std::string* buffer() { return &buffer_; }

  [[nodiscard]] absl::Status FlushIfFull() {
    return buffer_.size() < kOutputBufferBytes ? absl::OkStatus() : Flush();
  }

  [[nodiscard]] absl::Status Flush() {
    absl::Status status = WriteToStdout(buffer_);
    buffer_.clear();
    return status;
  }

 private:
  std::string buffer_;
};

// RFC 3339, UTC, always to the nanosecond.
std::string TimeText(int64_t ns) {
  return absl::FormatTime("%Y-%m-%dT%H:%M:%E9SZ", absl::FromUnixNanos(ns), absl::UTCTimeZone());
}

std::string GapLine(const std::string& path, const Gap& gap) {
  return absl::StrCat(path, ": gap from ", TimeText(gap.began_ns), " to ", TimeText(gap.ended_ns),
                      ": cause ", GapCauseName(gap.cause), ", completeness ",
                      CompletenessName(gap.completeness), ", events dropped ", gap.events_dropped,
                      ", flows lost ", gap.flows_lost);
}

// *output_status is what became of standard output; the returned one is about the file.
absl::Status Dump(const std::string& path, Output* output, std::vector<Gap>* gaps,
                  absl::Status* output_status) {
  absl::StatusOr<SpoolReader> reader = SpoolReader::Open(path);
  if (!reader.ok()) return reader.status();
  std::vector<TrafficRow> rows;
  while (true) {
    const absl::StatusOr<bool> more = reader->ReadBlock(&rows);
    *gaps = reader->gaps();
    if (!more.ok()) return more.status();
    if (!*more) return absl::OkStatus();
    for (const TrafficRow& row : rows) {
      AppendCsvLine(row, reader->header().track_open, output->buffer());
      *output_status = output->FlushIfFull();
      if (!output_status->ok()) return absl::OkStatus();
    }
  }
}

int Main(int argc, char** argv) {
  const absl::StatusOr<CommandLine> line = ParseCommandLine(argc, argv);
  if (!line.ok()) {
    PrintError(kProgram, line.status());
    return kExitUsageError;
  }
  Output output;
  if (line->help) {
    *output.buffer() = FlagsHelp(
        "usage: spooldump FILE...\nPrints spool files as CSV, and their gaps on standard error. "
        "Exit status 1 if one is bad.");
    if (const absl::Status status = output.Flush(); !status.ok()) {
      PrintError(kProgram, status);
      return kExitOperatingError;
    }
    return kExitOk;
  }
  if (line->arguments.empty()) {
    PrintError(kProgram, absl::InvalidArgumentError("no files given; --help says more"));
    return kExitUsageError;
  }
  int exit_status = kExitOk;
  for (const std::string& path : line->arguments) {
    absl::Status output_status;
    std::vector<Gap> gaps;
    const absl::Status status = Dump(path, &output, &gaps, &output_status);
    // Before the other lines, so that the two streams on one terminal keep their order.
    if (output_status.ok()) output_status = output.Flush();
    for (const Gap& gap : gaps) {
      PrintError(kProgram, absl::UnknownError(GapLine(path, gap)));
    }
    if (!status.ok()) {
      PrintError(kProgram, status);
      exit_status = kExitOperatingError;
    }
    if (!output_status.ok()) {
      PrintError(kProgram, output_status);
      return kExitOperatingError;
    }
  }
  return exit_status;
}

}  // namespace
}  // namespace ctacct

int main(int argc, char** argv) { return ctacct::Main(argc, argv); }
