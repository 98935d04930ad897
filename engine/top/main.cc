// top: the busiest pairs, origins, destinations and ports of the last interval, and how the engine
// does, from the files that it writes anyway; full-screen, or once as plain text.
//
// It needs no rights but to read these files (a user of their group), and changes nothing.
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
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
#include "engine/spool/spool_header.h"
#include "engine/system/command_line.h"
#include "engine/system/durable_file.h"
#include "engine/system/unique_fd.h"
#include "engine/top/health.h"
#include "engine/top/screen.h"
#include "engine/top/spool_watch.h"
#include "engine/top/terminal.h"
#include "engine/top/traffic.h"

ABSL_FLAG(std::string, spool, "/var/spool/ctacct",
          "folder that engines write to (their -output), or that an importer moves files to");
ABSL_FLAG(std::string, metrics_file, "", "the engine's -metrics-file, to show how it does");
ABSL_FLAG(std::string, gateway, "", "only this gateway; without it all in the folder");
ABSL_FLAG(std::string, by, "",
          "pairs, origins, destinations or ports: what to show (first); with -once: all, if not "
          "given");
ABSL_FLAG(std::string, sort, "bytes", "bytes, packets, connections, time, open or name");
ABSL_FLAG(std::string, filter, "",
          "only addresses (of either end) that begin so, or are in this network: 10.32.1. or "
          "10.32.0.0/11");
ABSL_FLAG(int, interval, 15,
          "seconds: the engine's -interval, where no file tells: CSV files, and before the first "
          "one");
ABSL_FLAG(bool, once, false,
          "print the newest interval as plain text, or the next one if there is none, and exit");
ABSL_FLAG(int, limit, 10, "with -once: lines of each table; 0: all");
ABSL_FLAG(int, timeout, 60, "with -once: seconds to wait for an interval; 0: for ever");

namespace ctacct {
namespace {

constexpr char kProgram[] = "top";
constexpr char kUsage[] =
    "usage: top [FLAGS]\n"
    "Shows the last interval's busiest pairs, origins, destinations and ports, live, from the\n"
    "files that engines write. It only reads, and needs no root: be of the files' group (ctacct).\n"
    "The key ? shows the keys.\n"
    "\n"
    "-once prints lines of fields separated by tabs. The first field is the kind of a line; a "
    "line\n"
    "#KIND names the fields. Kinds: interval (one for each gateway), gap, total, pair, origin,\n"
    "destination, port, health (each metric), problem (what an operator should look at). `-`: not\n"
    "known. Times are UTC. New fields come last, new kinds may come. Exit status 0 if an interval\n"
    "was printed.";

// Files of several gateways, whose intervals end at the same moment, come one after the other.
constexpr absl::Duration kOtherGateways = absl::Seconds(1);
constexpr absl::Duration kTick = absl::Seconds(1);
// A damaged file is told for so many intervals.
constexpr int kNoticeIntervals = 4;
constexpr int kSecondsMax = 86'400;

struct Options {
  std::optional<TopView> view;
  TopSort sort = TopSort::kBytes;
  AddressFilter filter;
  int64_t interval_ns = 0;
  std::string gateway;
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
  if (absl::GetFlag(FLAGS_spool).empty()) return BadValue("spool", "", "must name a folder");
  options.gateway = absl::GetFlag(FLAGS_gateway);
  if (absl::Status status = CheckGatewayName(options.gateway); !status.ok()) {
    return BadValue("gateway", options.gateway, status.message());
  }
  if (const std::string by = absl::GetFlag(FLAGS_by); !by.empty()) {
    options.view = ParseTopView(by);
    if (!options.view) return BadValue("by", by, "pairs, origins, destinations or ports");
  }
  const std::string sort = absl::GetFlag(FLAGS_sort);
  const std::optional<TopSort> parsed = ParseTopSort(sort);
  if (!parsed) return BadValue("sort", sort, "bytes, packets, connections, time, open or name");
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
  if (!status.ok()) return status;
  options.interval_ns = int64_t{absl::GetFlag(FLAGS_interval)} * 1'000'000'000;
  return options;
}

std::string Files(uint64_t count) { return count == 1 ? "1 file" : absl::StrCat(count, " files"); }

// What the files tell; the newest, and what they told before it.
class Source {
 public:
  Source(TopFolder folder, const Options& options)
      : folder_(std::move(folder)),
        metrics_path_(absl::GetFlag(FLAGS_metrics_file)),
        interval_ns_(options.interval_ns) {
    Update();
  }

  [[nodiscard]] int fd() const { return folder_.fd(); }

  // True if there are new intervals.
  bool Update() {
    const absl::StatusOr<bool> changed = folder_.Update();
    folder_error_ = changed.ok() ? "" : std::string(changed.status().message());
    const uint64_t told = folder_.skipped() + folder_.missed();
    if (told != told_) {
      told_ = told;
      told_at_ = absl::Now();
    }
    UpdateHealth();
    return changed.ok() && *changed;
  }

  [[nodiscard]] std::vector<std::shared_ptr<const TopInterval>> intervals() const {
    return folder_.intervals();
  }

  // All but the intervals.
  void Fill(TopState* state) const {
    const int64_t now_ns = absl::ToUnixNanos(absl::Now());
    state->folder = absl::GetFlag(FLAGS_spool);
    state->now_ns = now_ns;
    state->interval_ns =
        health_.has_value() ? HealthIntervalNs(*health_).value_or(interval_ns_) : interval_ns_;
    state->health = health_;
    state->health_error = health_error_;
    int64_t length_ns = state->interval_ns;
    for (const auto& interval : folder_.intervals()) {
      length_ns = std::max(length_ns, interval->length_ns);
    }
    state->health_problems.clear();
    if (health_.has_value()) {
      state->health_problems =
          HealthProblems(*health_, before_.has_value() ? &*before_ : nullptr, now_ns, length_ns);
    }
    state->folder_problems.clear();
    if (!folder_error_.empty()) state->folder_problems.push_back(folder_error_);
    if (absl::Now() - told_at_ > kNoticeIntervals * absl::Nanoseconds(length_ns)) return;
    if (folder_.skipped() != 0) {
      state->folder_problems.push_back(absl::StrCat(
          Files(folder_.skipped()), " passed over; the last: ", folder_.skipped_why()));
    }
    if (folder_.missed() != 0) {
      state->folder_problems.push_back(
          absl::StrCat(Files(folder_.missed()), " deleted too soon to be read"));
    }
  }

 private:
  void UpdateHealth() {
    if (metrics_path_.empty()) return;
    struct stat info {};
    if (stat(metrics_path_.c_str(), &info) == 0) {
      const int64_t modified_ns =
          int64_t{info.st_mtim.tv_sec} * 1'000'000'000 + info.st_mtim.tv_nsec;
      if (health_.has_value() && info.st_ino == inode_ && modified_ns == modified_ns_) return;
      inode_ = info.st_ino;
      modified_ns_ = modified_ns;
    }
    absl::StatusOr<EngineHealth> health = ReadMetricsFile(metrics_path_);
    if (!health.ok()) {
      health_.reset();
      health_error_ = std::string(health.status().message());
      return;
    }
    before_ = std::move(health_);
    health_ = *std::move(health);
    health_error_.clear();
  }

  TopFolder folder_;
  std::string metrics_path_;
  int64_t interval_ns_;
  std::string folder_error_;
  uint64_t told_ = 0;
  absl::Time told_at_ = absl::InfinitePast();
  std::optional<EngineHealth> health_;
  std::optional<EngineHealth> before_;  // The file's contents before that.
  std::string health_error_;
  ino_t inode_ = 0;
  int64_t modified_ns_ = 0;
};

// Returns once something may have happened to one of `fds`, or after `at_most`.
void WaitFor(std::array<pollfd, 3>* fds, absl::Duration at_most) {
  const absl::Duration rounded =
      absl::Ceil(std::max(at_most, absl::ZeroDuration()), absl::Milliseconds(1));
  if (poll(fds->data(), fds->size(), static_cast<int>(absl::ToInt64Milliseconds(rounded))) < 0) {
    for (pollfd& fd : *fds) fd.revents = 0;
  }
}

int RunOnce(Source* source, const Options& options) {
  std::vector<std::shared_ptr<const TopInterval>> intervals;
  TopState state;
  state.gateway = options.gateway;
  const auto look = [&] {
    source->Update();
    intervals = source->intervals();
    state.intervals.clear();
    for (const auto& interval : intervals) state.intervals.push_back(interval.get());
    return !ChosenIntervals(state).empty();
  };
  const auto wait = [source](absl::Duration at_most) {
    std::array<pollfd, 3> fds = {{{source->fd(), POLLIN, 0}, {-1, 0, 0}, {-1, 0, 0}}};
    WaitFor(&fds, std::min(at_most, kTick));
  };
  if (!look()) {
    const int timeout = absl::GetFlag(FLAGS_timeout);
    const std::string within = timeout == 0 ? "" : absl::StrCat(" within ", timeout, " s");
    PrintError(kProgram,
               absl::UnknownError(absl::StrCat("waiting for an interval to end", within)));
    const absl::Time deadline =
        timeout == 0 ? absl::InfiniteFuture() : absl::Now() + absl::Seconds(timeout);
    while (!look()) {
      if (absl::Now() >= deadline) {
        source->Fill(&state);
        const std::string more =
            state.folder_problems.empty() ? "" : absl::StrCat("; ", state.folder_problems[0]);
        PrintError(kProgram, absl::DeadlineExceededError(absl::StrCat(
                                 "no interval with traffic ended in ", state.folder, within,
                                 ": does an engine write there? (-timeout)", more)));
        return kExitOperatingError;
      }
      wait(deadline - absl::Now());
    }
    const absl::Time others = absl::Now() + kOtherGateways;
    while (options.gateway.empty() && absl::Now() < others) {
      wait(others - absl::Now());
      look();
    }
  }
  source->Fill(&state);
  std::vector<TopView> views;
  for (int i = 0; i < kTopViews; ++i) {
    const auto view = static_cast<TopView>(i);
    if (!options.view.has_value() || *options.view == view) views.push_back(view);
  }
  const std::string text = OnceText(state, views, options.sort, options.filter,
                                    static_cast<size_t>(absl::GetFlag(FLAGS_limit)));
  if (const absl::Status status = WriteToStdout(text); !status.ok()) {
    PrintError(kProgram, status);
    return kExitOperatingError;
  }
  return kExitOk;
}

// The full-screen view.
class Screen {
 public:
  Screen(Source* source, const Options& options) : source_(source) {
    screen_.time_zone = absl::LocalTimeZone();
    screen_.state.gateway = options.gateway;
    screen_.view = options.view.value_or(TopView::kPairs);
    screen_.sort = options.sort;
    screen_.filter = options.filter;
    Load();
  }

  // Until a key or a signal ends it.
  absl::Status Run() {
    sigset_t signals;
    sigemptyset(&signals);
    for (const int number : {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGWINCH})
      sigaddset(&signals, number);
    sigprocmask(SIG_BLOCK, &signals, nullptr);
    const UniqueFd signal_fd(signalfd(-1, &signals, SFD_NONBLOCK | SFD_CLOEXEC));
    if (!signal_fd.valid()) return FileError("make a", "signalfd", errno);
    absl::StatusOr<std::unique_ptr<Terminal>> terminal = Terminal::Open();
    if (!terminal.ok()) return terminal.status();
    terminal_ = terminal->get();
    while (!quit_) {
      if (source_->Update() && !screen_.paused) Load();
      source_->Fill(&screen_.state);
      const auto [shown, all] = TableExtent(screen_, terminal_->width(), terminal_->height());
      page_ = std::max<size_t>(shown, 1);
      screen_.scroll = std::min(screen_.scroll, all > shown ? all - shown : 0);
      terminal_->Draw(RenderTop(screen_, terminal_->width(), terminal_->height()));
      std::array<pollfd, 3> fds = {
          {{STDIN_FILENO, POLLIN, 0}, {signal_fd.get(), POLLIN, 0}, {source_->fd(), POLLIN, 0}}};
      // The clock on the screen goes by the second.
      WaitFor(&fds, kTick - (absl::Now() - absl::UnixEpoch()) % kTick);
      signalfd_siginfo info;
      while (read(signal_fd.get(), &info, sizeof(info)) == sizeof(info)) {
        if (info.ssi_signo != SIGWINCH) return absl::OkStatus();
        terminal_->Resize();
      }
      if ((fds[0].revents & (POLLHUP | POLLERR)) != 0) return absl::OkStatus();
      while (!quit_) {
        const std::optional<int> key = terminal_->ReadKey();
        if (!key.has_value()) break;
        OnKey(*key);
      }
    }
    return absl::OkStatus();
  }

 private:
  // Shows what the source has now.
  void Load() {
    intervals_ = source_->intervals();
    screen_.state.intervals.clear();
    for (const auto& interval : intervals_) screen_.state.intervals.push_back(interval.get());
    Sort();
  }

  void Sort() {
    const std::vector<const TopInterval*> chosen = ChosenIntervals(screen_.state);
    screen_.table = MakeTopTable(chosen.empty() ? chosen : PresentIntervals(chosen), screen_.view,
                                 screen_.sort, screen_.reverse, screen_.filter);
  }

  void OnKey(int key) {
    if (screen_.prompt.has_value()) {
      OnPromptKey(key);
    } else if (screen_.help) {
      screen_.help = false;
    } else if (!OnMove(key)) {
      OnCommand(key);
    }
  }

  void OnPromptKey(int key) {
    screen_.prompt_error.clear();
    if (key == kKeyEscape) {
      screen_.prompt.reset();
    } else if (key == kKeyEnter) {
      absl::StatusOr<AddressFilter> filter = AddressFilter::Parse(*screen_.prompt);
      if (!filter.ok()) {
        screen_.prompt_error = std::string(filter.status().message());
        return;
      }
      screen_.filter = *std::move(filter);
      screen_.prompt.reset();
      screen_.scroll = 0;
      Sort();
    } else if (key == kKeyBackspace) {
      if (!screen_.prompt->empty()) screen_.prompt->pop_back();
    } else if (key < 128 && std::isprint(key) != 0 && screen_.prompt->size() < kFilterBytesMax) {
      screen_.prompt->push_back(static_cast<char>(key));
    }
  }

  // True: it was one that moves within the table.
  bool OnMove(int key) {
    size_t& scroll = screen_.scroll;
    switch (key) {
      case kKeyUp:
        scroll -= std::min<size_t>(scroll, 1);
        return true;
      case kKeyDown:
        ++scroll;  // Not beyond the end: see Run.
        return true;
      case kKeyPageUp:
        scroll -= std::min(scroll, page_);
        return true;
      case kKeyPageDown:
        scroll += page_;
        return true;
      case kKeyHome:
        scroll = 0;
        return true;
      case kKeyEnd:
        scroll = screen_.table.entries.size();
        return true;
      default:
        return false;
    }
  }

  void OnCommand(int key) {
    constexpr int kTabs = kTopViews + 1;
    const int tab = screen_.show_health ? kTopViews : static_cast<int>(screen_.view);
    switch (key) {
      case 'q':
        quit_ = true;
        break;
      case '\t':
      case kKeyRight:
        ShowTab((tab + 1) % kTabs);
        break;
      case kKeyBackTab:
      case kKeyLeft:
        ShowTab((tab + kTabs - 1) % kTabs);
        break;
      case '1':
      case '2':
      case '3':
      case '4':
      case '5':
        ShowTab(key - '1');
        break;
      case 's':
        SortBy(1);
        break;
      case 'S':
        SortBy(kTopSorts - 1);
        break;
      case 'r':
        screen_.reverse = !screen_.reverse;
        screen_.scroll = 0;
        Sort();
        break;
      case 'p':
      case ' ':
        screen_.paused = !screen_.paused;
        if (!screen_.paused) Load();
        break;
      case '/':
        screen_.prompt = "";
        break;
      case 'g':
        NextGateway();
        break;
      case '?':
      case 'h':
        screen_.help = true;
        break;
      default:
        break;
    }
  }

  void ShowTab(int tab) {
    screen_.show_health = tab == kTopViews;
    if (!screen_.show_health) screen_.view = static_cast<TopView>(tab);
    screen_.scroll = 0;
    Sort();
  }

  void SortBy(int step) {
    // Open connections only where they are known.
    do {
      screen_.sort = static_cast<TopSort>((static_cast<int>(screen_.sort) + step) % kTopSorts);
    } while (screen_.sort == TopSort::kOpen && !screen_.table.has_open);
    screen_.scroll = 0;
    Sort();
  }

  // All, then each by name, then all again.
  void NextGateway() {
    std::string* const gateway = &screen_.state.gateway;
    const std::vector<const TopInterval*>& all = screen_.state.intervals;
    const auto next = std::find_if(all.begin(), all.end(), [gateway](const TopInterval* interval) {
      return interval->gateway > *gateway;
    });
    *gateway = next == all.end() ? "" : (*next)->gateway;
    screen_.scroll = 0;
    Sort();
  }

  static constexpr size_t kFilterBytesMax = 45;  // An IPv6 address and its prefix' length.

  Source* source_;
  Terminal* terminal_ = nullptr;
  TopScreen screen_;
  std::vector<std::shared_ptr<const TopInterval>> intervals_;  // What screen_ points to.
  size_t page_ = 1;
  bool quit_ = false;
};

int Main(int argc, char** argv) {
  const absl::StatusOr<CommandLine> line = ParseCommandLine(argc, argv);
  if (line.ok() && line->help) {
    const std::string help = FlagsHelp(kUsage);
    std::fwrite(help.data(), 1, help.size(), stdout);
    return kExitOk;
  }
  const absl::StatusOr<Options> options = line.ok() ? TakeOptions(*line) : line.status();
  if (!options.ok()) {
    PrintError(kProgram, options.status());
    return kExitUsageError;
  }
  absl::StatusOr<TopFolder> folder =
      TopFolder::Open(absl::GetFlag(FLAGS_spool), options->interval_ns);
  if (!folder.ok()) {
    const char* const hint =
        absl::IsPermissionDenied(folder.status()) ? "; its group may (as a rule ctacct)" : "";
    PrintError(kProgram,
               absl::UnknownError(absl::StrCat(std::string(folder.status().message()), hint)));
    return kExitOperatingError;
  }
  Source source(*std::move(folder), *options);
  if (absl::GetFlag(FLAGS_once)) return RunOnce(&source, *options);
  if (const absl::Status status = Screen(&source, *options).Run(); !status.ok()) {
    PrintError(kProgram, status);
    return kExitOperatingError;
  }
  return kExitOk;
}

}  // namespace
}  // namespace ctacct

int main(int argc, char** argv) { return ctacct::Main(argc, argv); }
