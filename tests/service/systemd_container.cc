#include "tests/service/systemd_container.h"

#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"

namespace ctacct {
namespace {

constexpr absl::Duration kBootMax = absl::Seconds(60);

// The children of a process, by /proc.
std::vector<pid_t> Children(pid_t parent) {
  std::vector<pid_t> children;
  std::ifstream file(absl::StrCat("/proc/", parent, "/task/", parent, "/children"));
  for (pid_t child = 0; file >> child;) children.push_back(child);
  return children;
}

// The process's number in each of its namespaces, outermost first.
std::vector<pid_t> Numbers(pid_t pid) {
  std::ifstream file(absl::StrCat("/proc/", pid, "/status"));
  for (std::string line; std::getline(file, line);) {
    absl::string_view text = line;
    if (!absl::ConsumePrefix(&text, "NSpid:")) continue;
    std::istringstream words{std::string(text)};
    std::vector<pid_t> numbers;
    for (pid_t number = 0; words >> number;) numbers.push_back(number);
    return numbers;
  }
  return {};
}

// Empty control groups only: the processes are dead by then, or soon.
void RemoveControlGroups(const std::string& name) {
  for (const char* hierarchy :
       {"/sys/fs/cgroup/systemd/", "/sys/fs/cgroup/unified/", "/sys/fs/cgroup/"}) {
    const std::string top = hierarchy + name;
    for (int tries = 0; tries < 100 && access(top.c_str(), F_OK) == 0; ++tries) {
      std::vector<std::string> folders = {top};
      std::error_code error;
      for (const auto& entry : std::filesystem::recursive_directory_iterator(top, error)) {
        if (entry.is_directory(error)) folders.push_back(entry.path());
      }
      for (auto folder = folders.rbegin(); folder != folders.rend(); ++folder) {
        rmdir(folder->c_str());
      }
      if (access(top.c_str(), F_OK) == 0) absl::SleepFor(absl::Milliseconds(50));
    }
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<SystemdContainer>> SystemdContainer::Boot(const Gateway& gateway,
                                                                         const Options& options) {
  static std::atomic<int> number = 0;
  const std::string name = absl::StrCat("ctacct-test-", getpid(), "-", number++);
  // Process 1 in there does not die with what started it; in a process namespace of ours it does.
  std::vector<std::string> argv = {
      "unshare",
      "--mount",
      "--pid",
      "--mount-proc",
      "--kill-child",
      DataPath("tests/service/systemd_container.sh"),
      name,
      "/run/netns/" + gateway.gateway_namespace(),
      DataPath("configs/ctacct.deb") + " " + DataPath("configs/ctacct-names.deb"),
      options.files};
  for (const std::string& bind : options.bind) argv.push_back("--bind=" + bind);
  auto nspawn = Subprocess::Start(argv);
  if (!nspawn.ok()) return nspawn.status();
  auto container =
      std::unique_ptr<SystemdContainer>(new SystemdContainer(name, *std::move(nspawn)));
  const absl::Time deadline = absl::Now() + kBootMax;
  std::string why = "it did not come so far in a minute";
  while (absl::Now() < deadline) {
    if (!container->nspawn_->Running()) {
      why = absl::StrCat(container->nspawn_->Stderr(), container->nspawn_->Stdout());
      break;
    }
    // unshare, systemd-nspawn as process 1 of the outer namespace, process 1 of the inner one.
    for (const pid_t nspawn_pid : Children(container->nspawn_->pid())) {
      for (const pid_t child : Children(nspawn_pid)) {
        const std::vector<pid_t> numbers = Numbers(child);
        if (numbers.size() == Numbers(nspawn_pid).size() + 1 && numbers.back() == 1) {
          container->leader_ = child;
        }
      }
    }
    if (container->leader_ != 0) {
      const auto state = container->Run({"systemctl", "is-active", "ctacct-test.target"});
      if (state.ok() && state->exit.ok()) return container;
    }
    absl::SleepFor(absl::Milliseconds(100));
  }
  return absl::UnavailableError(
      absl::StrCat("systemd cannot be booted here: ", absl::StripAsciiWhitespace(why)));
}

SystemdContainer::~SystemdContainer() {
  nspawn_.reset();
  RemoveControlGroups(name_);
}

absl::StatusOr<Finished> SystemdContainer::Run(const std::vector<std::string>& argv,
                                               absl::Duration at_most) const {
  return RunProcess(Joined({{"nsenter", absl::StrCat("--target=", leader_), "--mount", "--pid",
                             "--net", "--uts", "--ipc"},
                            argv}),
                    at_most);
}

absl::StatusOr<std::string> SystemdContainer::RunOrError(const std::vector<std::string>& argv,
                                                         absl::Duration at_most) const {
  const auto run = Run(argv, at_most);
  if (!run.ok()) return run.status();
  if (run->exit.ok()) return run->out;
  return absl::InternalError(
      absl::StrCat(argv[0], ": ", run->exit.ToString(), ": ", run->out, run->err));
}

std::string SystemdContainer::Property(const std::string& unit, const std::string& name) const {
  const auto value = RunOrError({"systemctl", "show", "--value", "--property=" + name, unit});
  return value.ok() ? std::string(absl::StripAsciiWhitespace(*value)) : value.status().ToString();
}

pid_t SystemdContainer::MainPid(const std::string& unit) const {
  pid_t inner = 0;
  if (!absl::SimpleAtoi(Property(unit, "MainPID"), &inner) || inner == 0) return 0;
  for (const pid_t child : Children(leader_)) {
    const std::vector<pid_t> numbers = Numbers(child);
    if (!numbers.empty() && numbers.back() == inner) return child;
  }
  return 0;
}

std::string SystemdContainer::Journal(const std::string& unit) const {
  const auto text = RunOrError({"journalctl", "--no-pager", "--output=cat", "--unit=" + unit});
  return text.ok() ? *text : text.status().ToString();
}

std::string SystemdContainer::Inside(const std::string& path) const {
  return absl::StrCat("/proc/", leader_, "/root", path);
}

}  // namespace ctacct
