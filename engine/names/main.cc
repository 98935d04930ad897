// names: learns who holds which network on this gateway, and writes it into the spool folder when
// it changes. See docs/names.md and `--help`.
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "engine/names/flags.h"
#include "engine/names/holders.h"
#include "engine/names/sources.h"
#include "engine/names/spool.h"
#include "engine/rows/bounds.h"
#include "engine/system/clock.h"
#include "engine/system/command_line.h"
#include "engine/system/durable_file.h"
#include "engine/system/handover.h"
#include "engine/system/privileges.h"
#include "engine/system/service_manager.h"
#include "engine/system/unique_fd.h"

namespace ctacct {
namespace {

constexpr char kProgram[] = "names";
constexpr mode_t kFolderMode = 0750;
constexpr int64_t kNanosPerMilli = 1'000'000;
// Each snapshot is a file, and a transaction in the database.
constexpr int64_t kBetweenSnapshotsNs = kNanosPerSecond;
// A file that is never at rest is no list.
constexpr int64_t kSettleMaxNs = 10 * kNanosPerSecond;

void Log(const std::string& line) { PrintError(kProgram, absl::UnknownError(line)); }

std::vector<std::unique_ptr<NamesSource>> MakeSources(const NamesConfig& config) {
  std::vector<std::unique_ptr<NamesSource>> sources;
  for (const NameSource kind : config.order) {
    switch (kind) {
      case NameSource::kFile:
        for (const std::string& path : config.files) sources.push_back(MakeFileSource(path));
        break;
      case NameSource::kWireguard:
        sources.push_back(MakeWireguardSource(config.wireguard_options));
        break;
      case NameSource::kOpenvpn:
        for (const std::string& path : config.openvpn_status) {
          sources.push_back(MakeOpenvpnSource(path));
        }
        break;
    }
  }
  return sources;
}

// Not the files of OpenVPN, which may come later.
std::vector<NeededPath> NeededPaths(const NamesConfig& config) {
  using enum NeededPath::Kind;
  std::vector<NeededPath> paths = {{"output folder", config.output, kFolder, kFolderMode},
                                   {"-wireguard-names", config.wireguard_options.names, kInput}};
  for (const std::string& path : config.files) paths.push_back({"-file", path, kInput});
  for (const std::string& path : config.wireguard_options.configs) {
    paths.push_back({"-wireguard-config", path, kInput});
  }
  return paths;
}

class Names {
 public:
  Names(const NamesConfig& config, NamesSpool spool, const Privileges& privileges)
      : config_(config),
        spool_(std::move(spool)),
        privileges_(privileges),
        sources_(MakeSources(config)),
        reported_(sources_.size()) {}

  // Reads all sources for the first time. An error: names cannot do its work.
  absl::Status Start() {
    const int64_t until_ns = MonotonicNs() + kSettleMaxNs;
    do {
      for (const auto& source : sources_) {
        if (source->version() == 0 && source->problem().ok()) source->Update();
      }
      if (!IsSettling()) break;
      usleep(static_cast<useconds_t>(FollowedFile::kSettleNs / 1000));
    } while (MonotonicNs() < until_ns);
    for (const auto& source : sources_) {
      if (source->version() != 0) continue;
      if (source->problem().ok())
        return absl::UnavailableError("a file is being written all the time");
      if (config_.once || !source->may_come()) return source->problem();
    }
    Report();
    return Write();
  }

  std::string Summary() const {
    return absl::StrCat("networks named: ", written_.size(), "; snapshots are written to ",
                        config_.output);
  }

  void Run(int signal_fd, ServiceManager* manager) {
    int64_t next_ns = MonotonicNs() + config_.interval_ns;
    for (;;) {
      if (WaitUntil(next_ns, signal_fd, manager)) return;
      for (const auto& source : sources_) source->Update();
      Report();
      next_ns =
          MonotonicNs() + (IsSettling() ? std::min(FollowedFile::kSettleNs, config_.interval_ns)
                                        : config_.interval_ns);
      if (!IsStale() || MonotonicNs() < may_write_ns_) continue;
      const absl::Status status = Write();
      // Whatever goes wrong, the sources are looked at again, and then all is written.
      if (!status.ok() && write_problem_.ok()) {
        Log(absl::StrCat(std::string(privileges_.Explain(status).message()), "; trying again"));
      } else if (status.ok() && !write_problem_.ok()) {
        Log("snapshots can be written again");
      }
      write_problem_ = status;
    }
  }

 private:
  bool IsSettling() const {
    return std::any_of(sources_.begin(), sources_.end(),
                       [](const auto& source) { return source->is_settling(); });
  }

  std::vector<uint64_t> Versions() const {
    std::vector<uint64_t> versions;
    for (const auto& source : sources_) versions.push_back(source->version());
    return versions;
  }

  // Whether holders may be others than were written.
  bool IsStale() const {
    const int64_t now_ns = WallClockNs();
    return !write_problem_.ok() || merged_ != Versions() || now_ns >= next_change_ns_ ||
           now_ns < written_ns_;
  }

  // Writes a snapshot, if it differs from the last one.
  absl::Status Write() {
    std::vector<const std::vector<NamesEntry>*> lists;
    for (const auto& source : sources_) lists.push_back(&source->entries());
    const std::vector<uint64_t> versions = Versions();
    const int64_t now_ns = FitTime(WallClockNs());
    Holders holders = MergeNames(lists, now_ns);
    if (holders.conflicts != conflicts_ && holders.conflicts != 0) {
      Log(absl::StrCat("entries that an earlier source overrules: ", holders.conflicts));
    }
    conflicts_ = holders.conflicts;
    const bool went_back = now_ns < written_ns_;
    if (went_back) Log("the clock was set back");
    if (went_back || written_ns_ == 0 || !write_problem_.ok() || holders.entries != written_) {
      may_write_ns_ = MonotonicNs() + kBetweenSnapshotsNs;
      if (absl::Status status = spool_.Write(holders.entries, now_ns); !status.ok()) return status;
      written_ = std::move(holders.entries);
      written_ns_ = now_ns;
    }
    merged_ = versions;
    next_change_ns_ = holders.next_change_ns;
    return absl::OkStatus();
  }

  // One line for each problem when it comes, and one when it is gone.
  void Report() {
    for (size_t i = 0; i < sources_.size(); ++i) {
      const absl::Status& problem = sources_[i]->problem();
      if (problem == reported_[i]) continue;
      if (!problem.ok()) {
        Log(absl::StrCat(std::string(privileges_.Explain(problem).message()),
                         sources_[i]->version() == 0 ? "; it gives no names yet"
                         : sources_[i]->in_part()    ? ""
                                                     : "; the last good list stays"));
      } else {
        Log(absl::StrCat(sources_[i]->what(), ": good again"));
      }
      reported_[i] = problem;
    }
  }

  // True: a signal says to end. SIGHUP: looks now.
  static bool WaitUntil(int64_t monotonic_ns, int signal_fd, ServiceManager* manager) {
    for (;;) {
      manager->TellAlive();
      const int64_t left_ns = monotonic_ns - MonotonicNs();
      if (left_ns <= 0) return false;
      pollfd fd = {signal_fd, POLLIN, 0};
      const int64_t millis = (left_ns + kNanosPerMilli - 1) / kNanosPerMilli;
      (void)poll(&fd, 1,
                 static_cast<int>(std::min<int64_t>(millis, ServiceManager::kAlivePollMillis)));
      signalfd_siginfo info;
      if (read(signal_fd, &info, sizeof(info)) != sizeof(info)) continue;
      return info.ssi_signo != SIGHUP;
    }
  }

  const NamesConfig& config_;
  NamesSpool spool_;
  const Privileges& privileges_;
  const std::vector<std::unique_ptr<NamesSource>> sources_;
  std::vector<absl::Status> reported_;
  std::vector<uint64_t> merged_;  // The sources' versions.
  std::vector<NamesEntry> written_;
  int64_t written_ns_ = 0;  // The last snapshot's time; 0: none.
  int64_t next_change_ns_ = 0;
  int64_t may_write_ns_ = 0;  // Monotonic.
  size_t conflicts_ = 0;
  absl::Status write_problem_;
};

absl::StatusOr<UniqueFd> TakeSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int number : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&signals, number);
  sigprocmask(SIG_BLOCK, &signals, nullptr);
  UniqueFd fd(signalfd(-1, &signals, SFD_NONBLOCK | SFD_CLOEXEC));
  if (!fd.valid()) return FileError("make a", "signalfd", errno);
  return fd;
}

absl::Status RunNames(const NamesConfig& config) {
  const absl::StatusOr<UniqueFd> signal_fd = TakeSignals();
  if (!signal_fd.ok()) return signal_fd.status();
  Privileges::Options rights;
  rights.keep_net_admin = config.wireguard;
  if (config.user.has_value()) {
    rights.user = &*config.user;
    if (geteuid() == 0 && rights.user->uid != 0) {
      absl::Status status = HandOver(*rights.user, NeededPaths(config));
      if (!status.ok()) return status;
    }
  }
  const absl::StatusOr<Privileges> privileges = Privileges::Drop(rights);
  if (!privileges.ok()) return privileges.status();
  absl::StatusOr<NamesSpool> spool = NamesSpool::Open(config.output, config.gateway);
  if (!spool.ok()) return privileges->Explain(spool.status());
  Names names(config, *std::move(spool), *privileges);
  if (absl::Status status = names.Start(); !status.ok()) return privileges->Explain(status);
  if (config.once) return absl::OkStatus();
  Log(absl::StrCat("started; ", names.Summary()));
  ServiceManager manager;
  manager.TellReady();
  names.Run(signal_fd->get(), &manager);
  manager.TellStopping();
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  const absl::StatusOr<CommandLine> line = ParseCommandLine(argc, argv);
  if (line.ok() && line->help) {
    std::fputs(FlagsHelp(kNamesUsage).c_str(), stdout);
    return kExitOk;
  }
  const absl::StatusOr<NamesConfig> config =
      line.ok() ? NamesConfigFromFlags(*line) : line.status();
  if (!config.ok()) {
    PrintError(kProgram, config.status());
    return kExitUsageError;
  }
  const absl::Status status = RunNames(*config);
  if (status.ok()) return kExitOk;
  PrintError(kProgram, status);
  return kExitOperatingError;
}

}  // namespace
}  // namespace ctacct

int main(int argc, char** argv) { return ctacct::Main(argc, argv); }
