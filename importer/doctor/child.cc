#include "importer/doctor/child.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "engine/system/clock.h"

namespace ctacct {
namespace {

constexpr int kExitNotStarted = 127;  // As a shell's.
constexpr absl::Duration kLook =
    absl::Milliseconds(5);                          // Between two looks at whether it has ended.
constexpr size_t kTextBytesMax = size_t{16} << 20;  // A ruleset of 100,000 rules.

// Root's doctor runs what the system has, not what the caller's PATH or other variables make of it.
constexpr const char* kProgramFolders[] = {"/usr/sbin/", "/usr/bin/", "/sbin/", "/bin/"};
constexpr const char* kEnvironment[] = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", nullptr};

// Returns only if it cannot be run; with errno.
void Execute(char* const* argv) {
  auto* const environment = const_cast<char* const*>(kEnvironment);
  if (strchr(argv[0], '/') != nullptr) {
    execve(argv[0], argv, environment);
    return;
  }
  for (const char* const folder : kProgramFolders) {
    execve(absl::StrCat(folder, argv[0]).c_str(), argv, environment);
    if (errno != ENOENT) return;
  }
}

std::string TextOf(int fd) {
  struct stat info {};
  if (fstat(fd, &info) != 0) return "";
  std::string text(std::min(static_cast<size_t>(info.st_size), kTextBytesMax), '\0');
  const ssize_t bytes = pread(fd, text.data(), text.size(), 0);
  text.resize(bytes < 0 ? 0 : static_cast<size_t>(bytes));
  return text;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Child>> Child::Fork(absl::FunctionRef<int()> work) {
  auto child = std::unique_ptr<Child>(new Child());
  // Files of memory have no reader to wait for.
  child->output_ = UniqueFd(memfd_create("output", MFD_CLOEXEC));
  child->errors_ = UniqueFd(memfd_create("errors", MFD_CLOEXEC));
  const UniqueFd nothing(open("/dev/null", O_RDONLY | O_CLOEXEC));
  if (!child->output_.valid() || !child->errors_.valid() || !nothing.valid()) {
    return absl::ResourceExhaustedError(absl::StrCat("descriptors: ", strerror(errno)));
  }
  const pid_t parent = getpid();
  child->pid_ = fork();
  if (child->pid_ < 0) return absl::ResourceExhaustedError(absl::StrCat("fork: ", strerror(errno)));
  if (child->pid_ != 0) {
    setpgid(child->pid_, child->pid_);  // Parent and child both do it: either may run first.
    return child;
  }
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(kExitNotStarted);
  dup2(nothing.get(), STDIN_FILENO);
  dup2(child->output_.get(), STDOUT_FILENO);
  dup2(child->errors_.get(), STDERR_FILENO);
  child->pid_ = -1;
  _exit(work());
}

absl::StatusOr<std::unique_ptr<Child>> Child::Start(const std::vector<std::string>& argv) {
  std::vector<char*> pointers;
  pointers.reserve(argv.size() + 1);
  for (const std::string& argument : argv) pointers.push_back(const_cast<char*>(argument.c_str()));
  pointers.push_back(nullptr);
  return Fork([&pointers] {
    Execute(pointers.data());
    dprintf(STDERR_FILENO, "%s: %s\n", pointers[0], strerror(errno));
    return kExitNotStarted;
  });
}

Child::~Child() {
  if (pid_ < 0 || ended_.has_value()) return;
  kill(-pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
}

std::optional<int> Child::Wait(absl::Duration at_most) {
  for (const absl::Duration deadline = MonotonicNow() + at_most; !ended_.has_value();) {
    int status = 0;
    const pid_t pid = waitpid(pid_, &status, WNOHANG);
    if (pid == pid_) ended_ = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
    if (ended_.has_value() || MonotonicNow() >= deadline) break;
    absl::SleepFor(kLook);
  }
  return ended_;
}

void Child::Signal(int signal_number) const {
  if (!ended_.has_value()) kill(pid_, signal_number);
}

std::string Child::Output() const { return TextOf(output_.get()); }
std::string Child::Errors() const { return TextOf(errors_.get()); }

std::string Child::LastError() const {
  const std::string text = Errors();
  absl::string_view line = absl::StripAsciiWhitespace(text);
  if (const size_t end = line.rfind('\n'); end != absl::string_view::npos) {
    line.remove_prefix(end + 1);
  }
  // Programs of ours, and Execute's failure above.
  if (const size_t colon = line.find(": "); colon != absl::string_view::npos) {
    line.remove_prefix(colon + 2);
  }
  return std::string(line);
}

}  // namespace ctacct
