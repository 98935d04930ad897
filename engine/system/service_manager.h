// The protocol with the service manager that started the program (systemd, or another that speaks
// sd_notify(3)): readiness, keep-alives for its watchdog, a line for `systemctl status`, the end,
// and the descriptor store, which keeps sockets open while no engine runs. Without a service
// manager nothing happens. On libsystemd.
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
  // A thread that waits, and has to feed the watchdog, wakes up this often.
  static constexpr int kAlivePollMillis = 1000;

  ServiceManager();

  struct Descriptor {
    std::string name;
    UniqueFd fd;
  };
  // The descriptors that an earlier process stored ($LISTEN_FDS, $LISTEN_FDNAMES); they stay in the
  // store. The next call returns nothing.
  [[nodiscard]] std::vector<Descriptor> TakeHandedBack();

  // Keeps the descriptor open after this process ends, under a name without colons, until it is
  // removed or the service is stopped. systemd does not report whether it did.
  void Store(const std::string& name, int fd) const;
  // All of that name.
  void Remove(const std::string& name) const;

  void TellReady() const;
  // Ends the watchdog: TimeoutStopSec= limits how long the end may take.
  void TellStopping() const;

  // Whether a keep-alive is due: four times in the watchdog's period (WatchdogSec= of at least 5
  // s). False also without a watchdog.
  [[nodiscard]] bool AliveIsDue() const;
  // Sends it, if it is due. Call it only where the program makes progress: without a keep-alive for
  // a whole period, systemd kills and restarts the program.
  void TellAlive();

  // One line for `systemctl status`. Sent only if it has changed.
  void TellStatus(const std::string& status);

 private:
  int64_t alive_period_ns_ = 0;  // 0: there is no watchdog.
  int64_t next_alive_ns_ = 0;    // Monotonic.
  std::string last_status_;
};

}  // namespace ctacct

#endif  // CTACCT_ENGINE_SYSTEM_SERVICE_MANAGER_H_
