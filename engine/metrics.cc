#include "engine/metrics.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/unique_fd.h"

namespace ctacct {
namespace {

constexpr mode_t kMode = 0644;
constexpr int64_t kNanosPerSecond = 1'000'000'000;

constexpr const char* kCompleteness[] = {"complete", "resynced", "partial"};
constexpr struct {
  GapCause cause;
  const char* name;
} kCauses[] = {{GapCause::kOverrun, "overrun"},
               {GapCause::kAllocation, "allocation"},
               {GapCause::kRestart, "restart"}};

// Seconds, without the rounding of a floating-point number.
std::string Seconds(int64_t ns) {
  return absl::StrFormat("%d.%09d", ns / kNanosPerSecond, ns % kNanosPerSecond);
}

class Text {
 public:
  void Counter(const char* name, const char* help) { Begin(name, help, "counter"); }
  void Gauge(const char* name, const char* help) { Begin(name, help, "gauge"); }
  void Counter(const char* name, const char* help, uint64_t value) {
    Counter(name, help);
    Value(absl::StrCat(value));
  }
  void Gauge(const char* name, const char* help, const std::string& value) {
    Gauge(name, help);
    Value(value);
  }
  void Value(const std::string& value) { absl::StrAppend(&text_, name_, " ", value, "\n"); }
  void Value(const char* label, const char* label_value, const std::string& value) {
    absl::StrAppend(&text_, name_, "{", label, "=\"", label_value, "\"} ", value, "\n");
  }
  std::string Take() { return std::move(text_); }

 private:
  void Begin(const char* name, const char* help, const char* type) {
    name_ = absl::StrCat("ctacct_", name);
    absl::StrAppend(&text_, "# HELP ", name_, " ", help, "\n# TYPE ", name_, " ", type, "\n");
  }

  std::string name_;
  std::string text_;
};

absl::Status Error(absl::string_view path, absl::string_view why) {
  return absl::UnavailableError(absl::StrCat("metrics file ", path, ": ", why));
}

}  // namespace

void IntervalTotals::Note(int64_t end_ns, Completeness completeness, const std::vector<Gap>& gaps) {
  ++by_completeness[static_cast<size_t>(completeness)];
  last_end_ns = end_ns;
  for (const Gap& gap : gaps) {
    Gaps& same = by_cause[static_cast<size_t>(gap.cause)];
    if (same.count != 0 && gap.began_ns <= same.ended_ns && gap.ended_ns >= same.began_ns) {
      // The same one goes on.
      const int64_t began_ns = std::min(same.began_ns, gap.began_ns);
      const int64_t ended_ns = std::max(same.ended_ns, gap.ended_ns);
      same.duration_ns += (ended_ns - began_ns) - (same.ended_ns - same.began_ns);
      same.began_ns = began_ns;
      same.ended_ns = ended_ns;
      continue;
    }
    ++same.count;
    same.duration_ns += std::max<int64_t>(0, gap.ended_ns - gap.began_ns);
    same.began_ns = gap.began_ns;
    same.ended_ns = gap.ended_ns;
  }
}

std::string MetricsText(const EngineMetrics& metrics) {
  Text text;
  const WorkerCounts& counts = metrics.counts;
  text.Gauge("start_timestamp_seconds", "When this engine started.", Seconds(metrics.started_ns));

  text.Counter("events_total", "Conntrack events read.");
  text.Value("kind", "new", absl::StrCat(counts.events_new));
  text.Value("kind", "update", absl::StrCat(counts.events_update));
  text.Value("kind", "destroy", absl::StrCat(counts.events_destroy));
  text.Counter("dump_entries_total", "Entries read in dumps of the conntrack table.",
               counts.dump_entries);
  text.Counter("filtered_total", "Events and entries outside of what is to be accounted.",
               counts.filtered);
  text.Counter("skipped_ipv6_total", "Events and entries of IPv6.", counts.skipped_ipv6);
  text.Counter("malformed_total", "Messages that are none.", counts.malformed);
  text.Counter("without_counters_total",
               "Ends and entries that told no counters (nf_conntrack_acct was off).",
               counts.without_counters);
  text.Counter("repeated_destroys_total", "Ends of flows that were told again.",
               counts.duplicate_destroys);
  text.Counter("stale_dump_entries_total", "Flows that a dump showed after their end.",
               counts.stale_dump_entries);
  text.Counter("zeroed_flows_total", "Flows whose counters fell: somebody has zeroed them.",
               counts.counter_falls);
  text.Counter("unknown_destroys_total", "Ends of flows older than the engine and never seen.",
               counts.unknown_destroys);
  text.Counter("forgotten_flows_total", "Flows whose end was lost.", counts.forgotten_flows);
  text.Gauge("flows", "Flows known at the last interval's end.", absl::StrCat(metrics.flows));

  text.Counter("overruns_total", "Times that the kernel had to drop events.", counts.overruns);
  text.Counter("events_dropped_total", "Events that the kernel has dropped.",
               counts.events_dropped);
  text.Counter("resyncs_total", "Dumps after which a worker knew all living flows again.",
               counts.resyncs);
  text.Counter("gaps_total", "Stretches of time in which something may be missing.");
  for (const auto& [cause, name] : kCauses) {
    text.Value("cause", name,
               absl::StrCat(metrics.intervals.by_cause[static_cast<size_t>(cause)].count));
  }
  text.Counter("gap_seconds_total", "Their length.");
  for (const auto& [cause, name] : kCauses) {
    text.Value("cause", name,
               Seconds(metrics.intervals.by_cause[static_cast<size_t>(cause)].duration_ns));
  }
  text.Counter("intervals_total", "Intervals that have ended.");
  for (size_t i = 0; i < metrics.intervals.by_completeness.size(); ++i) {
    text.Value("completeness", kCompleteness[i],
               absl::StrCat(metrics.intervals.by_completeness[i]));
  }
  text.Gauge("last_interval_end_timestamp_seconds", "The end of the last interval; 0: none yet.",
             Seconds(metrics.intervals.last_end_ns));

  text.Counter("intervals_written_total", "Intervals whose rows are where they were asked to be.",
               metrics.intervals_written);
  text.Counter("rows_written_total", "Their rows.", metrics.rows_written);
  text.Counter("rows_folded_total", "Rows that were summed as one (-max-rows).",
               metrics.rows_folded);
  text.Gauge("rows_waiting", "Rows in memory that cannot be written yet.",
             absl::StrCat(metrics.rows_waiting));
  text.Gauge("spool_write_failing", "1 while rows cannot be written.",
             metrics.write_failures == 0 ? "0" : "1");
  text.Gauge("spool_write_failures", "Attempts to write that failed since the last success.",
             absl::StrCat(metrics.write_failures));
  text.Gauge("last_write_timestamp_seconds", "When rows were last written; 0: not yet.",
             Seconds(metrics.last_write_ns));
  if (metrics.has_pipe) {
    text.Counter("pipe_lines_written_total", "Lines that a reader of the pipe took.",
                 metrics.pipe_lines_written);
    text.Counter("pipe_lines_dropped_total", "Lines that no reader of the pipe took in time.",
                 metrics.pipe_lines_dropped);
  }
  text.Counter("port_list_errors_total", "Port lists that could not be read.",
               metrics.port_list_errors);
  return text.Take();
}

absl::StatusOr<MetricsFile> MetricsFile::Open(const std::string& path) {
  const size_t slash = path.rfind('/');
  const std::string name = slash == std::string::npos ? path : path.substr(slash + 1);
  if (name.empty() || name == "." || name == "..") return Error(path, "is no file's name");
  struct stat info {};
  if (lstat(path.c_str(), &info) == 0) {
    // Replaced by a file, a device or a FIFO would be gone.
    if (!S_ISREG(info.st_mode)) return Error(path, "is there and is no regular file");
  } else if (errno != ENOENT) {
    return Error(path, strerror(errno));
  }
  const std::string folder = slash == std::string::npos ? "" : path.substr(0, slash + 1);
  return MetricsFile(path, absl::StrCat(folder, ".", name, ".tmp"));
}

absl::Status MetricsFile::Write(absl::string_view text) {
  if (text == written_) return absl::OkStatus();
  // What a kill left, or what somebody put there for us to write through.
  unlink(hidden_path_.c_str());
  constexpr int kFlags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
  const UniqueFd fd(open(hidden_path_.c_str(), kFlags, kMode));
  if (!fd.valid()) return Error(path_, strerror(errno));
  int error = fchmod(fd.get(), kMode) == 0 ? 0 : errno;
  absl::string_view rest = text;
  while (error == 0 && !rest.empty()) {
    const ssize_t written = write(fd.get(), rest.data(), rest.size());
    if (written < 0) {
      if (errno != EINTR) error = errno;
      continue;
    }
    rest.remove_prefix(static_cast<size_t>(written));
  }
  if (error == 0 && rename(hidden_path_.c_str(), path_.c_str()) != 0) error = errno;
  if (error != 0) {
    unlink(hidden_path_.c_str());
    return Error(path_, strerror(error));
  }
  written_ = std::string(text);
  return absl::OkStatus();
}

}  // namespace ctacct
