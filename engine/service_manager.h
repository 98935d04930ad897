// What the engine and the service manager that started it (systemd, or whoever speaks sd_notify(3))
// tell each other: readiness, the end, and the descriptor store, which keeps sockets alive while no
// engine runs. Without a service manager nothing happens. On libsystemd.
//
// Thread safety: TakeHandedBack by one thread, before others start; the rest by any.
#ifndef CTACCT_ENGINE_SERVICE_MANAGER_H_
#define CTACCT_ENGINE_SERVICE_MANAGER_H_

#include <string>
#include <vector>

#include "engine/unique_fd.h"

namespace ctacct {

class ServiceManager {
 public:
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
  void TellStopping() const;
};

}  // namespace ctacct

#endif  // CTACCT_ENGINE_SERVICE_MANAGER_H_
