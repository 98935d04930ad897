#include "tests/support/subprocess.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"

namespace ctacct {
namespace {

// Between two looks at a child's output.
constexpr absl::Duration kPollInterval = absl::Milliseconds(5);

absl::Status ErrnoStatus(int error, const std::string& what) {
  const std::string message = absl::StrCat(what, ": ", std::strerror(error));
  return error == ENOENT ? absl::NotFoundError(message) : absl::InternalError(message);
}

int OpenOutput(const std::string& path) {
  if (path.empty()) return memfd_create("subprocess", MFD_CLOEXEC);
  return open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
}

std::string ReadFromStart(int fd) {
  struct stat info;
  // A write-only (named) file reads as nothing.
  if (fd < 0 || fstat(fd, &info) != 0 || info.st_size == 0) return "";
  std::string text(std::min(static_cast<size_t>(info.st_size), Subprocess::kOutputBytesMax), '\0');
  size_t done = 0;
  while (done < text.size()) {
    // At an explicit offset: the child writes through the same file description and its position.
    const ssize_t n = pread(fd, text.data() + done, text.size() - done, static_cast<off_t>(done));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    done += static_cast<size_t>(n);
  }
  text.resize(done);
  return text;
}

// The last line or so of a program's standard error, for a message.
std::string Tail(const std::string& text) {
  constexpr size_t kTailBytes = 2000;
  std::string tail = text.size() > kTailBytes ? text.substr(text.size() - kTailBytes) : text;
  while (!tail.empty() && tail.back() == '\n') tail.pop_back();
  return tail;
}

// Everything the child needs between fork and exec, made before: after a fork of a threaded program
// only async-signal-safe functions may run.
struct ChildPlan {
  std::vector<char*> argv;
  std::vector<char*> environment;
  const char* working_directory;
  int stdin_fd;
  int stdout_fd;
  int stderr_fd;
  int error_fd;  // Receives errno if exec fails; closed by exec.
  pid_t parent;
};

[[noreturn]] void BecomeChild(const ChildPlan& plan) {
  // Die with the parent; it may have died before the request was made.
  bool ok = setpgid(0, 0) == 0 && prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 && getppid() == plan.parent;
  ok = ok && dup2(plan.stdin_fd, STDIN_FILENO) >= 0 && dup2(plan.stdout_fd, STDOUT_FILENO) >= 0 &&
       dup2(plan.stderr_fd, STDERR_FILENO) >= 0;
  ok = ok && (plan.working_directory == nullptr || chdir(plan.working_directory) == 0);
  if (ok) execvpe(plan.argv[0], plan.argv.data(), plan.environment.data());
  const int error = errno;
  [[maybe_unused]] const ssize_t ignored = write(plan.error_fd, &error, sizeof error);
  _exit(127);
}

}  // namespace

std::string ExitStatus::ToString() const {
  return signal != 0 ? absl::StrCat("killed by signal ", signal)
                     : absl::StrCat("exit status ", code);
}

absl::StatusOr<std::unique_ptr<Subprocess>> Subprocess::Start(const std::vector<std::string>& argv,
                                                              const SubprocessOptions& options) {
  if (argv.empty()) return absl::InvalidArgumentError("no program to start");
  std::unique_ptr<Subprocess> child(new Subprocess);
  child->name_ = argv[0];
  child->stdout_fd_ = OpenOutput(options.stdout_path);
  if (child->stdout_fd_ < 0) return ErrnoStatus(errno, options.stdout_path);
  child->stderr_fd_ = OpenOutput(options.stderr_path);
  if (child->stderr_fd_ < 0) return ErrnoStatus(errno, options.stderr_path);

  ChildPlan plan;
  for (const std::string& argument : argv) plan.argv.push_back(const_cast<char*>(argument.c_str()));
  plan.argv.push_back(nullptr);
  std::vector<std::string> environment;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string text = *entry;
    if (!options.environment.contains(text.substr(0, text.find('=')))) environment.push_back(text);
  }
  for (const auto& [name, value] : options.environment) {
    environment.push_back(absl::StrCat(name, "=", value));
  }
  for (std::string& entry : environment) plan.environment.push_back(entry.data());
  plan.environment.push_back(nullptr);
  plan.working_directory =
      options.working_directory.empty() ? nullptr : options.working_directory.c_str();
  plan.stdout_fd = child->stdout_fd_;
  plan.stderr_fd = child->stderr_fd_;
  plan.parent = getpid();

  const int null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
  int error_pipe[2];
  if (null_fd < 0 || pipe2(error_pipe, O_CLOEXEC) != 0) {
    const int error = errno;
    if (null_fd >= 0) close(null_fd);
    return ErrnoStatus(error, argv[0]);
  }
  plan.stdin_fd = null_fd;
  plan.error_fd = error_pipe[1];
  const pid_t pid = fork();
  if (pid == 0) BecomeChild(plan);
  const int fork_error = errno;
  close(null_fd);
  close(error_pipe[1]);
  int child_error = 0;
  if (pid > 0) {
    // Ends at once when exec closes the child's end.
    while (read(error_pipe[0], &child_error, sizeof child_error) < 0 && errno == EINTR) {
    }
  }
  close(error_pipe[0]);
  if (pid < 0) return ErrnoStatus(fork_error, absl::StrCat("fork for ", argv[0]));
  if (child_error != 0) {
    waitpid(pid, nullptr, 0);
    return ErrnoStatus(child_error, argv[0]);
  }
  child->pid_ = pid;
  child->pidfd_ = static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
  if (child->pidfd_ < 0) return ErrnoStatus(errno, "pidfd_open");
  return child;
}

Subprocess::~Subprocess() {
  if (pid_ > 0 && !ended_.has_value()) {
    kill(-pid_, SIGKILL);
    while (waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
    }
  }
  for (const int fd : {pidfd_, stdout_fd_, stderr_fd_}) {
    if (fd >= 0) close(fd);
  }
}

bool Subprocess::Running() { return !Wait(absl::ZeroDuration()).ok(); }

absl::StatusOr<ExitStatus> Subprocess::Wait(absl::Duration at_most) {
  const absl::Time deadline = absl::Now() + at_most;
  while (!ended_.has_value()) {
    const int64_t left_ms = std::clamp<int64_t>(
        absl::ToInt64Milliseconds(absl::Ceil(deadline - absl::Now(), absl::Milliseconds(1))), 0,
        INT32_MAX);
    pollfd ready = {pidfd_, POLLIN, 0};
    const int n = poll(&ready, 1, static_cast<int>(left_ms));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus(errno, "poll");
    if (n == 0) {
      return absl::DeadlineExceededError(
          absl::StrCat(name_, ": still running after ", absl::FormatDuration(at_most)));
    }
    // Now, as long as the ended process keeps the group's number from being given to others.
    kill(-pid_, SIGKILL);
    int status;
    if (waitpid(pid_, &status, 0) != pid_) return ErrnoStatus(errno, "waitpid");
    ended_ =
        WIFSIGNALED(status) ? ExitStatus{0, WTERMSIG(status)} : ExitStatus{WEXITSTATUS(status), 0};
  }
  return *ended_;
}

absl::Status Subprocess::Signal(int signal_number) {
  // Until it is reaped (by Wait only) its number is its own.
  if (ended_.has_value()) {
    return absl::FailedPreconditionError(absl::StrCat(name_, ": has ended, ", ended_->ToString()));
  }
  if (kill(pid_, signal_number) != 0) return ErrnoStatus(errno, absl::StrCat("kill ", name_));
  return absl::OkStatus();
}

std::string Subprocess::Stdout() const { return ReadFromStart(stdout_fd_); }
std::string Subprocess::Stderr() const { return ReadFromStart(stderr_fd_); }

absl::Status Subprocess::WaitForOutput(const std::string& text, absl::Duration at_most) {
  const absl::Time deadline = absl::Now() + at_most;
  for (;;) {
    // In this order: what an ended process wrote is all there.
    const bool running = Running();
    const std::string out = Stdout();
    const std::string err = Stderr();
    if (out.find(text) != std::string::npos || err.find(text) != std::string::npos) {
      return absl::OkStatus();
    }
    const std::string said = absl::StrCat("; it said: ", Tail(out), Tail(err));
    if (!running) {
      return absl::FailedPreconditionError(
          absl::StrCat(name_, ": ended, ", ended_->ToString(), ", without '", text, "'", said));
    }
    if (absl::Now() >= deadline) {
      return absl::DeadlineExceededError(
          absl::StrCat(name_, ": no '", text, "' within ", absl::FormatDuration(at_most), said));
    }
    absl::SleepFor(kPollInterval);
  }
}

absl::StatusOr<Finished> RunProcess(const std::vector<std::string>& argv, absl::Duration at_most,
                                    const SubprocessOptions& options) {
  auto process = Subprocess::Start(argv, options);
  if (!process.ok()) return process.status();
  const auto exit = (*process)->Wait(at_most);
  if (!exit.ok()) {
    return absl::Status(exit.status().code(),
                        absl::StrCat(std::string(exit.status().message()),
                                     "; it said: ", Tail((*process)->Stderr())));
  }
  return Finished{*exit, (*process)->Stdout(), (*process)->Stderr()};
}

absl::StatusOr<std::string> RunProcessOrError(const std::vector<std::string>& argv,
                                              absl::Duration at_most,
                                              const SubprocessOptions& options) {
  auto finished = RunProcess(argv, at_most, options);
  if (!finished.ok()) return finished.status();
  if (!finished->exit.ok()) {
    return absl::InternalError(absl::StrCat(absl::StrJoin(argv, " "), ": ",
                                            finished->exit.ToString(), ": ", Tail(finished->err)));
  }
  return std::move(finished->out);
}

std::vector<std::string> Joined(std::initializer_list<std::vector<std::string>> parts) {
  std::vector<std::string> all;
  for (const std::vector<std::string>& part : parts)
    all.insert(all.end(), part.begin(), part.end());
  return all;
}

std::string DataPath(const std::string& path_in_workspace) {
  const char* runfiles = std::getenv("TEST_SRCDIR");
  const char* workspace = std::getenv("TEST_WORKSPACE");
  if (runfiles != nullptr && workspace != nullptr) {
    const std::string path = absl::StrCat(runfiles, "/", workspace, "/", path_in_workspace);
    if (access(path.c_str(), F_OK) == 0) return path;
  }
  // A built program first: by hand, from the workspace, it is below bazel-bin.
  const std::string built = absl::StrCat("bazel-bin/", path_in_workspace);
  return access(built.c_str(), F_OK) == 0 ? built : path_in_workspace;
}

}  // namespace ctacct
