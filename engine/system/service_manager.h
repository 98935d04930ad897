// What a program of ours and the service manager that started it (systemd, or whoever speaks
// sd_notify(3)) tell each other: readiness, signs of life for its watchdog, a line for `systemctl
// status`, the end, and the descriptor store, which keeps sockets alive while no engine runs.
// Without a service manager nothing happens. On libsystemd.
//
// Thread safety: TakeHandedBack by one thread, before others start; TellAlive and TellStatus by one
// thread each; the rest by any.
#ifndef CTACCT_ENGINE_SYSTEM_SERVICE_MANAGER_H_
#define CTACCT_ENGINE_SYSTEM_SERVICE_MANAGER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "engine/system/unique_fd.h"

namespace ctacct {

class ServiceManager {
 public:
  // Whoever waits, and has a watchdog to feed, looks up so often.
  static constexpr int kAlivePollMillis = 1000;

  ServiceManager();

  struct Descriptor {
    std::string name;
    UniqueFd fd;
  };
  // What was stored by an earlier process ($LISTEN_FDS, $LISTEN_FDNAMES), and is in the store
  // still. Once: the next call returns nothing.
  [[nodiscard]] std::vector<Descriptor> TakeHandedBack();

  // Keeps the descriptor's open file beyond this process, under a name without colons, until it is
  // removed or the service is stopped. Nothing is heard of whether that was done.
  void Store(const std::string& name, int fd) const;
  // All of that name.
  void Remove(const std::string& name) const;

  void TellReady() const;
  // From here on no sign of life is waited for: how long an end may take is the service manager's
  // to say (TimeoutStopSec=).
  void TellStopping() const;

  // A watchdog (WatchdogSec= of at least 5 s) waits for a sign of life, which is due four times in
  // its period. False: nobody waits for one now.
  [[nodiscard]] bool AliveIsDue() const;
  // Sends it, if it is due. By whoever knows that the program makes progress; if none comes for a
  // whole period, the program is killed and started again.
  void TellAlive();

  // One line for people. Sent only if it is not what was sent last.
  void TellStatus(const std::string& status);

 private:
  int64_t alive_period_ns_ = 0;  // 0: there is no watchdog.
  int64_t next_alive_ns_ = 0;    // Monotonic.
  std::string last_status_;
};

}  // namespace ctacct

#endif  // CTACCT_ENGINE_SYSTEM_SERVICE_MANAGER_H_
