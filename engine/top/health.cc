#include "engine/top/health.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <map>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "engine/system/durable_file.h"
#include "engine/system/text.h"
#include "engine/system/unique_fd.h"
#include "engine/top/format.h"

namespace ctacct {
namespace {

// An engine's file has some kilobytes.
constexpr size_t kMetricsBytesMax = 1 << 20;
// Intervals that may pass before an engine that reports none is a problem: dumps of large tables
// and slow disks take time.
constexpr int64_t kSilentIntervals = 3;

// More than that of conntrack's table, and new connections will soon be dropped.
constexpr double kTableFullPercent = 85;

// Shown on every screen, in this order, where the file has them.
constexpr struct {
  const char* family;
  const char* title;
  bool is_seconds = false;
} kFigures[] = {
    {"events_dropped_total", "dropped"}, {"gaps_total", "gaps"},
    {"rows_waiting", "rows waiting"},    {"spool_files", "spool files"},
    {"last_dump_seconds", "dump", true}, {"overruns_total", "overruns"},
    {"rows_folded_total", "folded"},     {"pipe_lines_dropped_total", "pipe drops"},
};

// Worth a look when they have grown.
constexpr struct {
  const char* family;
  const char* text;
} kLosses[] = {
    {"events_dropped_total", "events dropped by the kernel: -receive-buffer is too small"},
    {"rows_folded_total", "rows summed by origin: a scan, or -max-rows is too small"},
    {"pipe_lines_dropped_total", "lines dropped: the FIFO's reader is too slow"},
    {"port_list_errors_total", "port lists unreadable: the last good one is in force"},
};

std::string Count(double value) {
  return WithThousands(static_cast<uint64_t>(std::max(0.0, value)));
}

// How full conntrack's table is, if the file contains that.
std::optional<double> TablePercent(const EngineHealth& health) {
  const std::optional<double> entries = health.Value("conntrack_entries");
  const std::optional<double> most = health.Value("conntrack_entries_max");
  if (!entries.has_value() || !most.has_value() || *most <= 0) return std::nullopt;
  return 100 * *entries / *most;
}

// Without the gateway's label, which every sample of the file has alike.
std::string WithoutGateway(absl::string_view name) {
  constexpr absl::string_view kLabel = "{gateway=\"";
  const size_t begin = name.find('{');
  if (begin == absl::string_view::npos || !absl::StartsWith(name.substr(begin), kLabel)) {
    return std::string(name);
  }
  size_t end = begin + kLabel.size();
  while (end < name.size() && name[end] != '"') end += name[end] == '\\' ? 2 : 1;
  const absl::string_view rest = end < name.size() ? name.substr(end + 1) : "";
  if (absl::StartsWith(rest, ",")) return absl::StrCat(name.substr(0, begin), "{", rest.substr(1));
  return std::string(name.substr(0, begin));
}

absl::string_view FamilyOf(absl::string_view name) { return name.substr(0, name.find('{')); }

}  // namespace

std::optional<double> EngineHealth::Value(absl::string_view family) const {
  std::optional<double> sum;
  for (const MetricSample& sample : samples) {
    absl::string_view name = FamilyOf(sample.name);
    if (absl::ConsumePrefix(&name, "ctacct_") && name == family) {
      sum = sum.value_or(0) + sample.value;
    }
  }
  return sum;
}

absl::StatusOr<EngineHealth> ParseMetrics(absl::string_view text) {
  EngineHealth health;
  std::map<std::string, std::string> help;
  int number = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    if (absl::ConsumePrefix(&line, "# HELP ")) {
      const std::pair<std::string, std::string> parts =
          absl::StrSplit(line, absl::MaxSplits(' ', 1));
      help.insert(parts);
      continue;
    }
    if (line.empty() || line[0] == '#') continue;
    // Labels may hold blanks; a value does not.
    const size_t labels_end = line.rfind('}');
    const size_t blank = line.find(' ', labels_end == absl::string_view::npos ? 0 : labels_end);
    MetricSample sample;
    if (blank != absl::string_view::npos) {
      sample.name = WithoutGateway(line.substr(0, blank));
      sample.text = std::string(line.substr(blank + 1));
    }
    if (sample.name.empty() || !absl::SimpleAtod(sample.text, &sample.value) ||
        !std::isfinite(sample.value)) {
      return absl::InvalidArgumentError(absl::StrCat("line ", number, " is no metric"));
    }
    const auto its_help = help.find(std::string(FamilyOf(sample.name)));
    if (its_help != help.end()) sample.help = its_help->second;
    health.samples.push_back(std::move(sample));
  }
  if (health.samples.empty()) return absl::InvalidArgumentError("no metrics in it");
  return health;
}

absl::StatusOr<EngineHealth> ReadMetricsFile(const std::string& path) {
  const absl::StatusOr<UniqueFd> fd = OpenRegularFile(AT_FDCWD, path, path);
  if (!fd.ok()) return fd.status();
  std::string text(kMetricsBytesMax, '\0');
  // A regular file of this size comes whole.
  const ssize_t got = read(fd->get(), text.data(), text.size());
  if (got < 0) return FileError("read", path, errno);
  text.resize(static_cast<size_t>(got));
  absl::StatusOr<EngineHealth> health = ParseMetrics(text);
  if (!health.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": ", health.status().message()));
  }
  return health;
}

std::optional<int64_t> HealthIntervalNs(const EngineHealth& health) {
  const double seconds = health.Value("interval_seconds").value_or(0);
  if (seconds < 1 || seconds > 1e6) return std::nullopt;
  return static_cast<int64_t>(seconds * 1e9);
}

std::vector<std::string> HealthFigures(const EngineHealth& health) {
  std::vector<std::string> figures;
  if (const std::optional<double> flows = health.Value("flows"); flows.has_value()) {
    figures.push_back(absl::StrCat("flows ", Count(*flows)));
  }
  if (const std::optional<double> percent = TablePercent(health); percent.has_value()) {
    figures.push_back(absl::StrFormat("table %.0f%%", *percent));
  }
  for (const auto& [family, title, is_seconds] : kFigures) {
    const std::optional<double> value = health.Value(family);
    if (!value.has_value()) continue;
    figures.push_back(absl::StrCat(title, " ", is_seconds ? ShortSeconds(*value) : Count(*value)));
  }
  return figures;
}

std::vector<std::string> HealthProblems(const EngineHealth& health, const EngineHealth* before,
                                        int64_t now_ns, int64_t interval_ns) {
  std::vector<std::string> problems;
  if (health.Value("spool_write_failing").value_or(0) != 0) {
    problems.push_back(
        absl::StrCat("rows cannot be written: ", Count(health.Value("rows_waiting").value_or(0)),
                     " wait in memory"));
  }
  double last = health.Value("last_interval_end_timestamp_seconds").value_or(0);
  if (last == 0) last = health.Value("start_timestamp_seconds").value_or(0);
  const auto silent_ns = static_cast<int64_t>(static_cast<double>(now_ns) - last * 1e9);
  if (last != 0 && silent_ns > kSilentIntervals * interval_ns) {
    problems.push_back(absl::StrCat("the engine's metrics report no interval since ",
                                    Duration(silent_ns), " ago: does it run?"));
  }
  if (const double percent = TablePercent(health).value_or(0); percent > kTableFullPercent) {
    problems.push_back(absl::StrFormat(
        "conntrack's table is %.0f %% full (nf_conntrack_max): at 100, new connections drop",
        percent));
  }
  for (const auto& [family, text] : kLosses) {
    if (before == nullptr) break;
    const double growth = health.Value(family).value_or(0) - before->Value(family).value_or(0);
    if (growth > 0) problems.push_back(absl::StrCat(Count(growth), " ", text));
  }
  return problems;
}

}  // namespace ctacct
