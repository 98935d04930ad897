// WireGuard's peers, from the kernel: who may send from which networks.
//
// WireguardDump is pure: bytes in, peers out. WireguardSocket asks the kernel, and needs
// CAP_NET_ADMIN. Thread-compatible.
#ifndef CTACCT_ENGINE_NAMES_WIREGUARD_H_
#define CTACCT_ENGINE_NAMES_WIREGUARD_H_

#include <libmnl/libmnl.h>

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/rows/network.h"

namespace ctacct {

struct WireguardPeer {
  std::array<uint8_t, 32> public_key{};
  std::vector<Network> allowed;

  friend bool operator==(const WireguardPeer&, const WireguardPeer&) = default;
};

// One device's peers, put together from the messages of a dump. A peer whose networks do not fit
// into one message continues in the next.
class WireguardDump {
 public:
  // Takes the attributes of a message, which follow its generic header. DataLoss: malformed.
  [[nodiscard]] absl::Status Add(absl::Span<const uint8_t> attributes);
  const std::vector<WireguardPeer>& peers() const { return peers_; }

 private:
  [[nodiscard]] absl::Status AddPeer(absl::Span<const uint8_t> attributes);

  std::vector<WireguardPeer> peers_;
};

// The name of the device that a message of a dump of links (RTM_NEWLINK) shows, if WireGuard made
// it; empty otherwise. Takes the attributes, which follow the message's ifinfomsg.
[[nodiscard]] std::string WireguardLinkName(absl::Span<const uint8_t> attributes);

// Of the network namespace in which it was opened.
class WireguardSocket {
 public:
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<WireguardSocket>> Open();

  // NotFound: WireGuard is not loaded, or there is no such device.
  [[nodiscard]] absl::StatusOr<std::vector<WireguardPeer>> ReadPeers(const std::string& device);
  // All devices that WireGuard made.
  [[nodiscard]] absl::StatusOr<std::vector<std::string>> ReadDevices();

 private:
  struct Closer {
    void operator()(mnl_socket* socket) const { mnl_socket_close(socket); }
  };
  using Socket = std::unique_ptr<mnl_socket, Closer>;

  WireguardSocket(Socket generic, Socket route)
      : generic_(std::move(generic)), route_(std::move(route)) {}
  [[nodiscard]] absl::StatusOr<uint16_t> ReadFamily();

  const Socket generic_;
  const Socket route_;
  uint32_t sequence_ = 0;
};

}  // namespace ctacct

#endif  // CTACCT_ENGINE_NAMES_WIREGUARD_H_
