#include "engine/names/wireguard.h"

#include <errno.h>
#include <linux/genetlink.h>
#include <linux/rtnetlink.h>
#include <linux/wireguard.h>
#include <string.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstddef>
#include <optional>

#include "absl/functional/function_ref.h"
#include "absl/strings/str_cat.h"

namespace ctacct {
namespace {

using Bytes = absl::Span<const uint8_t>;

// Of one datagram; a dump's have at most 32 KiB.
constexpr size_t kDatagramBytesMax = 65536;
// The kernel cuts a dump short when the device changes meanwhile.
constexpr int kAttemptsMax = 10;

absl::Status Malformed() {
  return absl::DataLossError("malformed message of WireGuard's from the kernel");
}

// Calls `take` for each attribute; false if they are malformed, or if `take` says so.
bool ForEachAttribute(Bytes bytes, absl::FunctionRef<bool(uint16_t type, Bytes payload)> take) {
  while (!bytes.empty()) {
    nlattr header;
    if (bytes.size() < sizeof(header)) return false;
    memcpy(&header, bytes.data(), sizeof(header));
    if (header.nla_len < sizeof(header) || header.nla_len > bytes.size()) return false;
    if (!take(header.nla_type & NLA_TYPE_MASK,
              bytes.subspan(sizeof(header), header.nla_len - sizeof(header)))) {
      return false;
    }
    bytes.remove_prefix(std::min<size_t>(NLA_ALIGN(header.nla_len), bytes.size()));
  }
  return true;
}

// Nothing: malformed.
std::optional<Network> NetworkOf(Bytes attributes) {
  uint16_t family = AF_UNSPEC;
  Bytes address;
  std::optional<uint8_t> length;
  const bool sound = ForEachAttribute(attributes, [&](uint16_t type, Bytes payload) {
    if (type == WGALLOWEDIP_A_FAMILY && payload.size() == sizeof(family)) {
      memcpy(&family, payload.data(), sizeof(family));
    } else if (type == WGALLOWEDIP_A_IPADDR) {
      address = payload;
    } else if (type == WGALLOWEDIP_A_CIDR_MASK && payload.size() == 1) {
      length = payload[0];
    }
    return true;
  });
  Network network;
  network.family = family == AF_INET ? AddressFamily::kIpv4 : AddressFamily::kIpv6;
  const uint8_t bits = AddressBits(network.family);
  if (!sound || (family != AF_INET && family != AF_INET6) || address.size() != bits / 8u ||
      !length.has_value() || *length > bits) {
    return std::nullopt;
  }
  std::copy(address.begin(), address.end(), network.address.begin());
  network.prefix_length = *length;
  network.address = MaskedTo(network.address, network.prefix_length);
  return network;
}

Bytes AttributesOf(const nlmsghdr* message, size_t header_bytes) {
  const size_t bytes = mnl_nlmsg_get_payload_len(message);
  if (bytes <= header_bytes) return {};
  return {static_cast<const uint8_t*>(mnl_nlmsg_get_payload_offset(message, header_bytes)),
          bytes - header_bytes};
}

// Sends the request and calls `take` for each message of the answer. Aborted: cut short.
absl::Status Exchange(mnl_socket* socket, nlmsghdr* request, const char* what,
                      absl::FunctionRef<absl::Status(const nlmsghdr*)> take) {
  const auto error = [what](int number) {
    const std::string why =
        absl::StrCat(what, ": ", strerror(number), number == EPERM ? " (needs CAP_NET_ADMIN)" : "");
    if (number == ENODEV || number == ENOENT || number == EOPNOTSUPP) {
      return absl::NotFoundError(why);
    }
    return number == EPERM ? absl::PermissionDeniedError(why) : absl::UnavailableError(why);
  };
  if (mnl_socket_sendto(socket, request, request->nlmsg_len) < 0) return error(errno);
  struct Data {
    absl::FunctionRef<absl::Status(const nlmsghdr*)> take;
    absl::Status status;
  } data{take, absl::OkStatus()};
  const auto callback = [](const nlmsghdr* message, void* context) {
    auto* const taker = static_cast<Data*>(context);
    taker->status = taker->take(message);
    return taker->status.ok() ? MNL_CB_OK : MNL_CB_STOP;
  };
  std::vector<uint8_t> buffer(kDatagramBytesMax);
  int more = MNL_CB_OK;
  absl::Status status;
  while (more > MNL_CB_STOP) {
    const ssize_t bytes = mnl_socket_recvfrom(socket, buffer.data(), buffer.size());
    if (bytes < 0 && errno == EINTR) continue;
    if (bytes < 0) {
      status = error(errno);
      break;
    }
    // The rest of an answer that was given up.
    const auto* const first = reinterpret_cast<const nlmsghdr*>(buffer.data());
    if (static_cast<size_t>(bytes) < sizeof(nlmsghdr) || first->nlmsg_seq != request->nlmsg_seq) {
      continue;
    }
    more = mnl_cb_run(buffer.data(), static_cast<size_t>(bytes), request->nlmsg_seq,
                      mnl_socket_get_portid(socket), callback, &data);
    if (more < 0) status = errno == EINTR ? absl::AbortedError(what) : error(errno);
    // The answer to one message is one message, or an error.
    if (more == MNL_CB_OK && (request->nlmsg_flags & NLM_F_DUMP) != NLM_F_DUMP) break;
  }
  // Answers contain the device's private key.
  explicit_bzero(buffer.data(), buffer.size());
  status.Update(data.status);
  return status;
}

nlmsghdr* PutGenericRequest(void* buffer, uint16_t type, uint16_t flags, uint32_t sequence,
                            uint8_t command, uint8_t version) {
  nlmsghdr* const header = mnl_nlmsg_put_header(buffer);
  header->nlmsg_type = type;
  header->nlmsg_flags = static_cast<uint16_t>(NLM_F_REQUEST | flags);
  header->nlmsg_seq = sequence;
  auto* const generic =
      static_cast<genlmsghdr*>(mnl_nlmsg_put_extra_header(header, sizeof(genlmsghdr)));
  generic->cmd = command;
  generic->version = version;
  return header;
}

// Asks again while the answer is cut short.
absl::Status Repeat(absl::FunctionRef<absl::Status()> exchange) {
  absl::Status status;
  for (int attempt = 0; attempt < kAttemptsMax; ++attempt) {
    status = exchange();
    if (!absl::IsAborted(status)) return status;
  }
  return absl::UnavailableError(
      absl::StrCat(std::string(status.message()), ": it changes all the time"));
}

}  // namespace

absl::Status WireguardDump::Add(absl::Span<const uint8_t> attributes) {
  absl::Status status;
  const bool sound = ForEachAttribute(attributes, [&](uint16_t type, Bytes payload) {
    if (type != WGDEVICE_A_PEERS) return true;
    return ForEachAttribute(payload, [&](uint16_t, Bytes peer) {
      status = AddPeer(peer);
      return status.ok();
    });
  });
  if (!status.ok()) return status;
  return sound ? absl::OkStatus() : Malformed();
}

absl::Status WireguardDump::AddPeer(absl::Span<const uint8_t> attributes) {
  WireguardPeer peer;
  bool has_key = false;
  const bool sound = ForEachAttribute(attributes, [&](uint16_t type, Bytes payload) {
    if (type == WGPEER_A_PUBLIC_KEY && payload.size() == peer.public_key.size()) {
      std::copy(payload.begin(), payload.end(), peer.public_key.begin());
      has_key = true;
    } else if (type == WGPEER_A_ALLOWEDIPS) {
      return ForEachAttribute(payload, [&](uint16_t, Bytes allowed) {
        const std::optional<Network> network = NetworkOf(allowed);
        if (network.has_value()) peer.allowed.push_back(*network);
        return network.has_value();
      });
    }
    return true;
  });
  if (!sound || !has_key) return Malformed();
  if (!peers_.empty() && peers_.back().public_key == peer.public_key) {
    std::vector<Network>& allowed = peers_.back().allowed;
    allowed.insert(allowed.end(), peer.allowed.begin(), peer.allowed.end());
  } else {
    peers_.push_back(std::move(peer));
  }
  return absl::OkStatus();
}

std::string WireguardLinkName(absl::Span<const uint8_t> attributes) {
  const auto text = [](Bytes payload) {
    const auto* const begin = reinterpret_cast<const char*>(payload.data());
    return std::string(begin, strnlen(begin, payload.size()));
  };
  std::string name;
  bool is_wireguard = false;
  const bool sound = ForEachAttribute(attributes, [&](uint16_t type, Bytes payload) {
    if (type == IFLA_IFNAME) name = text(payload);
    if (type != IFLA_LINKINFO) return true;
    return ForEachAttribute(payload, [&](uint16_t info, Bytes kind) {
      if (info == IFLA_INFO_KIND) is_wireguard = text(kind) == WG_GENL_NAME;
      return true;
    });
  });
  return sound && is_wireguard ? name : "";
}

absl::StatusOr<std::unique_ptr<WireguardSocket>> WireguardSocket::Open() {
  Socket generic(mnl_socket_open2(NETLINK_GENERIC, SOCK_CLOEXEC));
  Socket route(mnl_socket_open2(NETLINK_ROUTE, SOCK_CLOEXEC));
  if (generic == nullptr || route == nullptr ||
      mnl_socket_bind(generic.get(), 0, MNL_SOCKET_AUTOPID) != 0 ||
      mnl_socket_bind(route.get(), 0, MNL_SOCKET_AUTOPID) != 0) {
    return absl::UnavailableError(absl::StrCat("netlink socket: ", strerror(errno)));
  }
  return std::unique_ptr<WireguardSocket>(
      new WireguardSocket(std::move(generic), std::move(route)));
}

// Asked each time: after the module was loaded again, the number is another one.
absl::StatusOr<uint16_t> WireguardSocket::ReadFamily() {
  alignas(nlmsghdr) uint8_t buffer[256];
  nlmsghdr* const request =
      PutGenericRequest(buffer, GENL_ID_CTRL, 0, ++sequence_, CTRL_CMD_GETFAMILY, 1);
  mnl_attr_put_strz(request, CTRL_ATTR_FAMILY_NAME, WG_GENL_NAME);
  uint16_t family = 0;
  absl::Status status =
      Exchange(generic_.get(), request, "WireGuard", [&family](const nlmsghdr* message) {
        ForEachAttribute(AttributesOf(message, GENL_HDRLEN), [&family](uint16_t type, Bytes value) {
          if (type == CTRL_ATTR_FAMILY_ID && value.size() == sizeof(family)) {
            memcpy(&family, value.data(), sizeof(family));
          }
          return true;
        });
        return absl::OkStatus();
      });
  if (!status.ok()) return status;
  if (family == 0) return absl::NotFoundError("WireGuard: not loaded");
  return family;
}

absl::StatusOr<std::vector<WireguardPeer>> WireguardSocket::ReadPeers(const std::string& device) {
  const absl::StatusOr<uint16_t> family = ReadFamily();
  if (!family.ok()) return family.status();
  const std::string what = absl::StrCat("WireGuard's device ", device);
  std::optional<WireguardDump> dump;
  absl::Status status = Repeat([&] {
    dump.emplace();
    alignas(nlmsghdr) uint8_t buffer[256];
    nlmsghdr* const request = PutGenericRequest(buffer, *family, NLM_F_DUMP, ++sequence_,
                                                WG_CMD_GET_DEVICE, WG_GENL_VERSION);
    mnl_attr_put_strz(request, WGDEVICE_A_IFNAME, device.c_str());
    return Exchange(generic_.get(), request, what.c_str(), [&dump](const nlmsghdr* message) {
      return dump->Add(AttributesOf(message, GENL_HDRLEN));
    });
  });
  if (!status.ok()) return status;
  return dump->peers();
}

absl::StatusOr<std::vector<std::string>> WireguardSocket::ReadDevices() {
  std::vector<std::string> devices;
  absl::Status status = Repeat([&] {
    devices.clear();
    alignas(nlmsghdr) uint8_t buffer[256];
    nlmsghdr* const request = mnl_nlmsg_put_header(buffer);
    request->nlmsg_type = RTM_GETLINK;
    request->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
    request->nlmsg_seq = ++sequence_;
    mnl_nlmsg_put_extra_header(request, sizeof(ifinfomsg));
    return Exchange(route_.get(), request, "network devices", [&devices](const nlmsghdr* message) {
      std::string name = WireguardLinkName(AttributesOf(message, NLMSG_ALIGN(sizeof(ifinfomsg))));
      if (!name.empty()) devices.push_back(std::move(name));
      return absl::OkStatus();
    });
  });
  if (!status.ok()) return status;
  return devices;
}

}  // namespace ctacct
