// A child process of a test: started, watched, ended; never left behind.
//
// The child leads a process group of its own. Once it is seen to have ended, and in the destructor,
// the whole group is killed, so its children go too (a daemon leaves the group: stop it yourself).
// The kernel kills the child if the test's thread that started it dies. Its output goes to memory
// files (or named files), which have no reader to wait for: a child never blocks on a test that
// looks the other way, and the test may look at any time. Standard input is empty.
//
// Thread-compatible. Start and end a child on the same thread, or on one that outlives it (see
// above). Errors: NotFound and such from starting, with the program's name; DeadlineExceeded from
// waiting; Internal otherwise. A child that fails is no error here: see ExitStatus.
#ifndef CTACCT_TESTS_SUPPORT_SUBPROCESS_H_
#define CTACCT_TESTS_SUPPORT_SUBPROCESS_H_

#include <sys/types.h>

#include <initializer_list>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace ctacct {

struct SubprocessOptions {
  std::map<std::string, std::string> environment = {};  // Added to the test's own.
  std::string working_directory = {};                   // Empty: the test's own.
  std::string stdout_path = {};  // Truncated and written; empty: captured in memory.
  std::string stderr_path = {};
};

// How a process ended: with an exit code, or by a signal.
struct ExitStatus {
  int code = 0;    // Meaningful if signal is 0.
  int signal = 0;  // 0: it was not killed by a signal.

  bool ok() const { return code == 0 && signal == 0; }
  std::string ToString() const;  // "exit status 1", "killed by signal 9"

  friend bool operator==(const ExitStatus&, const ExitStatus&) = default;
};

class Subprocess {
 public:
  // argv[0] is looked up in PATH unless it holds a slash.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<Subprocess>> Start(
      const std::vector<std::string>& argv, const SubprocessOptions& options = {});

  Subprocess(const Subprocess&) = delete;
  Subprocess& operator=(const Subprocess&) = delete;
  ~Subprocess();  // Kills (SIGKILL) and reaps whatever is left of the group.

  pid_t pid() const { return pid_; }

  // False once it has ended. Does not wait.
  [[nodiscard]] bool Running();

  // Waits until the process has ended, however often it is asked. DeadlineExceeded: it still runs;
  // nothing was done to it.
  [[nodiscard]] absl::StatusOr<ExitStatus> Wait(absl::Duration at_most);

  // To the process alone. FailedPrecondition once it has been seen to have ended.
  [[nodiscard]] absl::Status Signal(int signal_number);

  // What it wrote so far; of the first kOutputBytesMax. Empty if it went to a named file.
  [[nodiscard]] std::string Stdout() const;
  [[nodiscard]] std::string Stderr() const;

  // Waits until standard output or error holds `text`. FailedPrecondition with both if the process
  // ends without it.
  [[nodiscard]] absl::Status WaitForOutput(const std::string& text, absl::Duration at_most);

  // A test that reads more than this into a string has lost its way.
  static constexpr size_t kOutputBytesMax = size_t{256} << 20;

 private:
  Subprocess() = default;

  std::string name_;
  pid_t pid_ = -1;
  int pidfd_ = -1;
  int stdout_fd_ = -1;
  int stderr_fd_ = -1;
  std::optional<ExitStatus> ended_;
};

struct Finished {
  ExitStatus exit;
  std::string out;
  std::string err;
};

// Start and Wait in one; the process is killed at the deadline.
[[nodiscard]] absl::StatusOr<Finished> RunProcess(const std::vector<std::string>& argv,
                                                  absl::Duration at_most,
                                                  const SubprocessOptions& options = {});

// As RunProcess, and an exit status other than 0 is an error that quotes standard error. Returns
// standard output.
[[nodiscard]] absl::StatusOr<std::string> RunProcessOrError(const std::vector<std::string>& argv,
                                                            absl::Duration at_most,
                                                            const SubprocessOptions& options = {});

// Command lines put together from parts.
[[nodiscard]] std::vector<std::string> Joined(
    std::initializer_list<std::vector<std::string>> parts);

// Path of a file that the test's BUILD rule names in `data`, such as "engine/engine" or
// "tests/support/gateway.sh": in Bazel's runfiles, else below the current folder (a test started by
// hand from the workspace).
[[nodiscard]] std::string DataPath(const std::string& path_in_workspace);

}  // namespace ctacct

#endif  // CTACCT_TESTS_SUPPORT_SUBPROCESS_H_
