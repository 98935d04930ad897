#include "engine/output/row_sink.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <functional>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "engine/rows/csv.h"
#include "engine/spool/spool_writer.h"
#include "engine/system/clock.h"
#include "engine/system/durable_file.h"

namespace ctacct {
namespace {

constexpr size_t kOutputBytes = 1 << 18;
// How long the reader of standard output may take once the program is asked to end.
constexpr int kReaderPatienceMillis = 2000;

// Hands CSV text of at least kOutputBytes, or the rest, to `write`.
absl::Status WriteCsv(const IntervalRows& interval, bool track_open,
                      const std::function<absl::Status(absl::string_view)>& write) {
  std::string text;
  text.reserve(kOutputBytes + kCsvLineBytesMax);
  for (const TrafficRow& row : interval.rows) {
    AppendCsvLine(row, track_open, &text);
    if (text.size() < kOutputBytes) continue;
    if (absl::Status status = write(text); !status.ok()) return status;
    text.clear();
  }
  return text.empty() ? absl::OkStatus() : write(text);
}

}  // namespace

bool RowSink::Takes(const IntervalRows& interval) const {
  return std::any_of(interval.rows.begin(), interval.rows.end(), HasCsvLine);
}

absl::Status SpoolSink::Write(const IntervalRows& interval, const std::string& hidden_name) {
  header_.sequence = interval.sequence;
  header_.created_ns = interval.created_ns;
  header_.interval_end_ns = interval.end_ns;
  header_.covered_from_ns = interval.covered_from_ns;
  header_.covered_to_ns = interval.covered_to_ns;
  header_.ports_checksum = interval.ports_checksum;
  header_.completeness = interval.completeness;
  header_.events_dropped = interval.events_dropped;
  return WriteSpoolFile(folder_, header_, interval.rows, interval.gaps, hidden_name).status();
}

std::string SpoolSink::FileName(const IntervalRows& interval) const {
  return SpoolFileName(header_.engine_id, interval.sequence);
}

absl::Status CsvSink::Write(const IntervalRows& interval, const std::string& hidden_name) {
  absl::Status status;
  for (int copy = 0; copy < kSameNameMax; ++copy) {
    absl::StatusOr<DurableFile> file =
        DurableFile::Create(folder_, NameOfCopy(FileName(interval), copy));
    if (!file.ok()) return file.status();
    status =
        WriteCsv(interval, track_open_, [&](absl::string_view text) { return file->Append(text); });
    if (status.ok()) status = hidden_name.empty() ? file->Commit() : file->Prepare(hidden_name);
    if (!absl::IsAlreadyExists(status)) break;
  }
  return status;
}

std::string CsvSink::FileName(const IntervalRows& interval) const {
  const time_t seconds = interval.end_ns / kNanosPerSecond;
  tm utc{};
  gmtime_r(&seconds, &utc);
  char name[64];
  strftime(name, sizeof(name), "traffic_%Y-%m-%dT%H_%M_%S.csv", &utc);
  return name;
}

std::string CsvSink::NameOfCopy(const std::string& name, int copy) {
  if (copy == 0) return name;
  return absl::StrCat(absl::StripSuffix(name, ".csv"), "_", copy, ".csv");
}

absl::Status StandardOutputSink::Write(const IntervalRows& interval, const std::string&) {
  return WriteCsv(interval, track_open_, [&](absl::string_view text) -> absl::Status {
    while (!text.empty()) {
      pollfd fds[] = {{STDOUT_FILENO, POLLOUT, 0}, {cancel_fd_, POLLIN, 0}};
      poll(fds, 2, -1);
      if (fds[0].revents == 0 && fds[1].revents != 0 && poll(fds, 1, kReaderPatienceMillis) == 0) {
        return absl::CancelledError("standard output: nobody reads it");
      }
      // No more than a pipe that is ready takes without blocking.
      const ssize_t written =
          write(STDOUT_FILENO, text.data(), std::min<size_t>(text.size(), PIPE_BUF));
      if (written < 0 && (errno == EINTR || errno == EAGAIN)) continue;
      if (written < 0) {
        return absl::UnavailableError(absl::StrCat("standard output: ", strerror(errno)));
      }
      text.remove_prefix(static_cast<size_t>(written));
    }
    return absl::OkStatus();
  });
}

}  // namespace ctacct
