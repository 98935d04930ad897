// Our package on a system that a real systemd has booted, in the network namespace of a test's
// gateway: see systemd_container.sh. Up while the object lives. Needs root. Thread-compatible.
#ifndef CTACCT_TESTS_SERVICE_SYSTEMD_CONTAINER_H_
#define CTACCT_TESTS_SERVICE_SYSTEMD_CONTAINER_H_

#include <sys/types.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "tests/support/gateway.h"
#include "tests/support/subprocess.h"

namespace ctacct {

class SystemdContainer {
 public:
  struct Options {
    // Copied over its root: settings of the test.
    std::string files;
    // Of this machine, as PATH or PATH:PATH-INSIDE.
    std::vector<std::string> bind = {};
  };
  // Returns once it has booted. Unavailable, with the reason, where it cannot.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<SystemdContainer>> Boot(
      const Gateway& gateway, const Options& options);

  SystemdContainer(const SystemdContainer&) = delete;
  SystemdContainer& operator=(const SystemdContainer&) = delete;
  ~SystemdContainer();

  // A command inside, to its end.
  [[nodiscard]] absl::StatusOr<Finished> Run(const std::vector<std::string>& argv,
                                             absl::Duration at_most = absl::Seconds(60)) const;
  // The same; an exit status other than 0 is an error that quotes what it said.
  [[nodiscard]] absl::StatusOr<std::string> RunOrError(
      const std::vector<std::string>& argv, absl::Duration at_most = absl::Seconds(60)) const;

  // A property of a unit, as `systemctl show` prints it.
  [[nodiscard]] std::string Property(const std::string& unit, const std::string& name) const;
  // The process id on this machine; 0 if the unit does not run.
  [[nodiscard]] pid_t MainPid(const std::string& unit) const;
  // What a unit, and systemd about it, has logged.
  [[nodiscard]] std::string Journal(const std::string& unit) const;
  // The path on this machine of a file inside.
  [[nodiscard]] std::string Inside(const std::string& path) const;

 private:
  SystemdContainer(std::string name, std::unique_ptr<Subprocess> nspawn)
      : name_(std::move(name)), nspawn_(std::move(nspawn)) {}

  const std::string name_;
  std::unique_ptr<Subprocess> nspawn_;
  pid_t leader_ = 0;  // Its process 1, as this machine numbers it.
};

}  // namespace ctacct

#endif  // CTACCT_TESTS_SERVICE_SYSTEMD_CONTAINER_H_
