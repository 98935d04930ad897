// top: the busiest pairs, origins, destinations and ports of the last interval, and the state of
// the engine, from the files that it writes anyway; full-screen, or once as plain text.
//
// It only needs to read these files (as a user of their group), and changes nothing.
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "engine/rows/gateway_name.h"
#include "engine/system/clock.h"
#include "engine/system/command_line.h"
#include "engine/system/durable_file.h"
#include "engine/system/unique_fd.h"
#include "engine/top/keys.h"
#include "engine/top/plain_text.h"
#include "engine/top/screen.h"
#include "engine/top/source.h"
#include "engine/top/spool_watch.h"
#include "engine/top/terminal.h"
#include "engine/top/traffic.h"

ABSL_FLAG(std::string, spool, "/var/spool/ctacct",
          "folder that engines write to (their -output), or that an importer moves files to");
ABSL_FLAG(std::string, metrics_file, "", "the engine's -metrics-file, to show its health");
ABSL_FLAG(std::string, gateway, "", "only this gateway (default: all in the folder)");
ABSL_FLAG(
    std::string, by, "",
    "view to show first: pairs, origins, destinations, ports or services; with -once: the only one "
    "(default: all)");
ABSL_FLAG(std::string, sort, "bytes",
          "bytes, packets, connections, time, open, unanswered or name");
ABSL_FLAG(
    std::string, filter, "",
    "only rows with an address that begins like this or is in this network: 10.32.1. or 10.32.0.0/11");
ABSL_FLAG(int, interval, 15,
          "the engine's -interval in seconds; used for CSV files, and until the first file");
ABSL_FLAG(bool, names, false,
          "show who holds each address, from the snapshots that ctacct-names writes");
ABSL_FLAG(std::string, timezone, "",
          "time zone of the screen (Europe/Berlin); default: that of this machine");
ABSL_FLAG(bool, once, false,
          "print the newest interval as plain text, or the next one if there is none, and exit");
ABSL_FLAG(int, limit, 10, "with -once: largest number of lines of each table; 0: all");
ABSL_FLAG(int, timeout, 60, "with -once: seconds to wait for an interval; 0: no limit");

namespace ctacct {
namespace {

constexpr char kProgram[] = "top";
// clang-format off
constexpr char kUsage[] =
    "usage: top [FLAGS]\n"
    "Shows the busiest pairs, origins, destinations, ports and services (ports of destinations) of\n"
    "the newest interval, from the files that engines write. It only reads and needs no root, only\n"
    "the files' group (ctacct). The key ? lists the keys.\n"
    "\n"
    "-once prints lines of fields separated by tabs. The first field is the kind of a line; a line\n"
    "#KIND names the fields. Kinds: interval (one for each gateway), gap, total, pair, origin,\n"
    "destination, port, service, health (each metric), problem (what an operator should look at).\n"
    "`-`: unknown. Times are UTC. New fields are added last; new kinds may be added. Exit status 0\n"
    "if an interval was printed.";
// clang-format on

// Files of several gateways, whose intervals end at the same moment, come one after the other.
constexpr absl::Duration kOtherGateways = absl::Seconds(1);
constexpr absl::Duration kTick = absl::Seconds(1);
constexpr int kSecondsMax = 86'400;

struct Options {
  absl::TimeZone time_zone = absl::LocalTimeZone();
  std::string spool;
  std::string metrics_file;
  std::string gateway;
  std::optional<TopView> view;
  TopSort sort = TopSort::kBytes;
  AddressFilter filter;
  int64_t interval_ns = 0;
  bool names = false;
  bool once = false;
  size_t limit = 0;
  absl::Duration timeout;  // Infinite: for ever.
};

constexpr FlagRule kFlagRules[] = {
    {"limit timeout", FlagRule::Kind::kNeeds, "once"},
    {"timezone", FlagRule::Kind::kRefuses, "once"},
};

absl::Status BadValue(absl::string_view flag, const std::string& value, absl::string_view why) {
  return absl::InvalidArgumentError(
      absl::StrCat("flag -", flag, ": bad value ", QuotedForLog(value), ": ", why));
}

absl::StatusOr<Options> TakeOptions(const CommandLine& line) {
  if (!line.arguments.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "unexpected argument ", QuotedForLog(line.arguments[0]), "; --help says more"));
  }
  Options options;
  options.spool = absl::GetFlag(FLAGS_spool);
  if (options.spool.empty()) return BadValue("spool", "", "must name a folder");
  options.metrics_file = absl::GetFlag(FLAGS_metrics_file);
  options.gateway = absl::GetFlag(FLAGS_gateway);
  if (absl::Status status = CheckGatewayName(options.gateway); !status.ok()) {
    return BadValue("gateway", options.gateway, status.message());
  }
  if (const std::string by = absl::GetFlag(FLAGS_by); !by.empty()) {
    options.view = ParseTopView(by);
    if (!options.view) return BadValue("by", by, "pairs, origins, destinations, ports or services");
  }
  if (const std::string zone = absl::GetFlag(FLAGS_timezone);
      !zone.empty() && !absl::LoadTimeZone(zone, &options.time_zone)) {
    return BadValue("timezone", zone, "no such time zone");
  }
  const std::string sort = absl::GetFlag(FLAGS_sort);
  const std::optional<TopSort> parsed = ParseTopSort(sort);
  if (!parsed)
    return BadValue("sort", sort, "bytes, packets, connections, time, open, unanswered or name");
  options.sort = *parsed;
  const std::string filter_text = absl::GetFlag(FLAGS_filter);
  absl::StatusOr<AddressFilter> filter = AddressFilter::Parse(filter_text);
  if (!filter.ok()) return BadValue("filter", filter_text, filter.status().message());
  options.filter = *std::move(filter);
  const auto in_range = [](const char* name, int value, int least, int most) {
    return value >= least && value <= most
               ? absl::OkStatus()
               : BadValue(name, absl::StrCat(value), absl::StrCat("from ", least, " to ", most));
  };
  absl::Status status = in_range("interval", absl::GetFlag(FLAGS_interval), 1, kSecondsMax);
  status.Update(in_range("limit", absl::GetFlag(FLAGS_limit), 0, static_cast<int>(kTopRowsMax)));
  status.Update(in_range("timeout", absl::GetFlag(FLAGS_timeout), 0, kSecondsMax));
  status.Update(CheckFlagRules(kFlagRules));
  if (!status.ok()) return status;
  options.interval_ns = absl::GetFlag(FLAGS_interval) * kNanosPerSecond;
  options.names = absl::GetFlag(FLAGS_names);
  options.once = absl::GetFlag(FLAGS_once);
  options.limit = static_cast<size_t>(absl::GetFlag(FLAGS_limit));
  const int timeout = absl::GetFlag(FLAGS_timeout);
  options.timeout = timeout == 0 ? absl::InfiniteDuration() : absl::Seconds(timeout);
  return options;
}

std::string WithinText(absl::Duration timeout) {
  if (timeout == absl::InfiniteDuration()) return "";
  return absl::StrCat(" within ", absl::ToInt64Seconds(timeout), " s");
}

// Returns once something may have happened to one of `fds`, or after `at_most`.
void WaitFor(std::array<pollfd, 3>* fds, absl::Duration at_most) {
  const absl::Duration rounded =
      absl::Ceil(std::max(at_most, absl::ZeroDuration()), absl::Milliseconds(1));
  if (poll(fds->data(), fds->size(), static_cast<int>(absl::ToInt64Milliseconds(rounded))) < 0) {
    for (pollfd& fd : *fds) fd.revents = 0;
  }
}

// False if no interval came in time.
bool WaitForIntervals(const Options& options, Source* source, TopState* state) {
  const auto look = [source, state] {
    source->Update();
    source->FillIntervals(state);
    return !ChosenIntervals(*state).empty();
  };
  const auto wait_until = [source](absl::Time time) {
    std::array<pollfd, 3> fds = {{{source->fd(), POLLIN, 0}, {-1, 0, 0}, {-1, 0, 0}}};
    WaitFor(&fds, std::min(time - absl::Now(), kTick));
  };
  if (look()) return true;
  PrintError(kProgram, absl::UnknownError(absl::StrCat("waiting for an interval to end",
                                                       WithinText(options.timeout))));
  const absl::Time deadline = absl::Now() + options.timeout;
  while (!look()) {
    if (absl::Now() >= deadline) return false;
    wait_until(deadline);
  }
  const absl::Time others = absl::Now() + kOtherGateways;
  while (options.gateway.empty() && absl::Now() < others) {
    wait_until(others);
    look();
  }
  return true;
}

absl::Status RunOnce(const Options& options, Source* source) {
  TopState state;
  state.gateway = options.gateway;
  const bool found = WaitForIntervals(options, source, &state);
  source->FillRest(&state);
  if (!found) {
    return absl::DeadlineExceededError(absl::StrCat(
        "no interval with traffic ended in ", state.folder, WithinText(options.timeout),
        ": does an engine write there? (-timeout)",
        state.folder_problems.empty() ? "" : absl::StrCat("; ", state.folder_problems[0])));
  }
  std::vector<TopView> views;
  for (int i = 0; i < kTopViews; ++i) {
    const auto view = static_cast<TopView>(i);
    if (options.view.value_or(view) == view) views.push_back(view);
  }
  return WriteToStdout(OnceText(state, views, options.sort, options.filter, options.limit));
}

// The full-screen view, until a key or a signal ends it.
absl::Status RunFullScreen(const Options& options, Source* source) {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int number : {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGWINCH}) sigaddset(&signals, number);
  sigprocmask(SIG_BLOCK, &signals, nullptr);
  const UniqueFd signal_fd(signalfd(-1, &signals, SFD_NONBLOCK | SFD_CLOEXEC));
  if (!signal_fd.valid()) return FileError("make a", "signalfd", errno);
  const absl::StatusOr<std::unique_ptr<Terminal>> opened = Terminal::Open();
  if (!opened.ok()) return opened.status();
  Terminal& terminal = **opened;
  TopScreen screen;
  screen.time_zone = options.time_zone;
  screen.state.gateway = options.gateway;
  screen.view = options.view.value_or(TopView::kPairs);
  screen.sort = options.sort;
  screen.filter = options.filter;
  for (bool stale = true;;) {
    stale |= source->Update();
    if (stale && !screen.paused) {
      source->FillIntervals(&screen.state);
      UpdateTable(&screen);
      stale = false;
    }
    source->FillRest(&screen.state);
    terminal.Draw(RenderTop(&screen, terminal.width(), terminal.height()));
    std::array<pollfd, 3> fds = {
        {{STDIN_FILENO, POLLIN, 0}, {signal_fd.get(), POLLIN, 0}, {source->fd(), POLLIN, 0}}};
    // The clock on the screen goes by the second.
    WaitFor(&fds, kTick - (absl::Now() - absl::UnixEpoch()) % kTick);
    signalfd_siginfo info;
    while (read(signal_fd.get(), &info, sizeof(info)) == sizeof(info)) {
      if (info.ssi_signo != SIGWINCH) return absl::OkStatus();
      terminal.Resize();
    }
    if ((fds[0].revents & (POLLHUP | POLLERR)) != 0) return absl::OkStatus();
    while (const std::optional<int> key = terminal.ReadKey()) {
      if (!OnKey(*key, &screen)) return absl::OkStatus();
    }
  }
}

int Main(int argc, char** argv) {
  const absl::StatusOr<CommandLine> line = ParseCommandLine(argc, argv);
  if (line.ok() && line->help) {
    const absl::Status status = WriteToStdout(FlagsHelp(kUsage));
    if (status.ok()) return kExitOk;
    PrintError(kProgram, status);
    return kExitOperatingError;
  }
  const absl::StatusOr<Options> options = line.ok() ? TakeOptions(*line) : line.status();
  if (!options.ok()) {
    PrintError(kProgram, options.status());
    return kExitUsageError;
  }
  absl::StatusOr<TopFolder> folder = TopFolder::Open(options->spool, options->interval_ns);
  absl::Status status = folder.status();
  if (absl::IsPermissionDenied(status)) {
    status = absl::PermissionDeniedError(
        absl::StrCat(status.message(), "; its group may (as a rule ctacct)"));
  }
  if (status.ok()) {
    Source source(*std::move(folder), options->metrics_file, options->interval_ns, options->names);
    status = options->once ? RunOnce(*options, &source) : RunFullScreen(*options, &source);
  }
  if (status.ok()) return kExitOk;
  PrintError(kProgram, status);
  return kExitOperatingError;
}

}  // namespace
}  // namespace ctacct

int main(int argc, char** argv) { return ctacct::Main(argc, argv); }
