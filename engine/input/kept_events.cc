#include "engine/input/kept_events.h"

#include <xxhash.h>

#include <cstdint>
#include <map>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace ctacct {

std::string KeptEventsName(const EventSocket::Options& options, size_t worker, size_t workers) {
  // The first number is the version of this list.
  std::vector<uint64_t> settings = {1, options.destroy_only, options.receive_buffer_bytes, worker,
                                    workers};
  for (const sock_filter& code : options.filter) {
    settings.push_back(uint64_t{code.code} << 48 | uint64_t{code.jt} << 40 |
                       uint64_t{code.jf} << 32 | uint64_t{code.k});
  }
  const uint64_t hash = XXH3_64bits(settings.data(), settings.size() * sizeof(settings[0]));
  return absl::StrCat("ctacct-", absl::Hex(hash, absl::kZeroPad16));
}

absl::StatusOr<KeptEvents> OpenEventSockets(const std::vector<EventSocket::Options>& options,
                                            std::vector<ServiceManager::Descriptor> handed_back,
                                            bool usable, bool store, const ServiceManager& manager,
                                            const std::function<void(const std::string&)>& log) {
  KeptEvents events;
  std::vector<std::string>& names = events.names;
  for (size_t i = 0; i < options.size(); ++i) {
    names.push_back(KeptEventsName(options[i], i, options.size()));
  }
  std::string why;
  std::map<std::string, UniqueFd> by_name;
  for (ServiceManager::Descriptor& descriptor : handed_back) {
    if (!by_name.emplace(descriptor.name, std::move(descriptor.fd)).second) why = "stored twice";
  }
  for (size_t i = 0; i < options.size() && usable && why.empty(); ++i) {
    const auto found = by_name.find(names[i]);
    if (found == by_name.end()) {
      why = "made for other settings";
      break;
    }
    absl::StatusOr<std::unique_ptr<EventSocket>> socket =
        EventSocket::Adopt(found->second.Release(), options[i]);
    by_name.erase(found);
    if (socket.ok()) {
      events.sockets.push_back(*std::move(socket));
    } else {
      why = std::string(socket.status().message());
    }
  }
  events.kept = !options.empty() && events.sockets.size() == options.size();
  if (!handed_back.empty() && !events.kept) {
    log(absl::StrCat("event sockets of an earlier engine are of no use: ",
                     usable ? why : "without nf_conntrack_timestamp old flows look like new ones"));
  }
  // Removed by name, which the ones in use need.
  for (const ServiceManager::Descriptor& descriptor : handed_back) {
    if (!store || !events.kept || by_name.contains(descriptor.name))
      manager.Remove(descriptor.name);
  }
  if (events.kept) return events;

  events.sockets.clear();
  for (size_t i = 0; i < options.size(); ++i) {
    absl::StatusOr<std::unique_ptr<EventSocket>> socket = EventSocket::Open(options[i]);
    if (!socket.ok()) return socket.status();
    if (store) manager.Store(names[i], (*socket)->fd());
    events.sockets.push_back(*std::move(socket));
  }
  return events;
}

}  // namespace ctacct
