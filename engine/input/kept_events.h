// Event sockets that outlive the engine: kept by the service manager, they stay subscribed while no
// engine runs, and the next one reads the events that they have queued. Only sockets made for
// exactly the same settings are used: each is stored under a name that contains them, and checked
// before use.
//
// Thread-compatible.
#ifndef CTACCT_ENGINE_INPUT_KEPT_EVENTS_H_
#define CTACCT_ENGINE_INPUT_KEPT_EVENTS_H_

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/system/service_manager.h"
#include "netlink/event_socket.h"

namespace ctacct {

// The name of a worker's socket in the store: the same for the same settings only.
[[nodiscard]] std::string KeptEventsName(const EventSocket::Options& options, size_t worker,
                                         size_t workers);

struct KeptEvents {
  std::vector<std::unique_ptr<EventSocket>> sockets;  // One per worker, in order.
  // All of them were handed back: no event has been missed since they were made, but for those that
  // the kernel has dropped and counted.
  bool kept = false;
  std::vector<std::string> names;  // To store them under.
};

// The sockets for these settings: all of `handed_back`, or all new (and stored for the next
// engine). Other sockets that were handed back are removed from the store, because the kernel would
// continue to fill them. `usable`: false if kept events would do harm; then all are new. `store`:
// false if the sockets must not outlive a crash; then the caller stores them before a clean end.
[[nodiscard]] absl::StatusOr<KeptEvents> OpenEventSockets(
    const std::vector<EventSocket::Options>& options,
    std::vector<ServiceManager::Descriptor> handed_back, bool usable, bool store,
    const ServiceManager& manager, const std::function<void(const std::string&)>& log);

}  // namespace ctacct

#endif  // CTACCT_ENGINE_INPUT_KEPT_EVENTS_H_
