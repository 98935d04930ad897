// The ports that are accounted one by one. All other ports of their protocol are summed under
// kPortNotListed.
//
// Text format: one `protocol:port` a line (protocol by name or decimal number, port 0 to 65535);
// `#` starts a comment. The file is read and watched by engine/port_list_file.h.
#ifndef CTACCT_ENGINE_ACCOUNTING_PORT_LIST_H_
#define CTACCT_ENGINE_ACCOUNTING_PORT_LIST_H_

#include <bitset>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "engine/accounting/current.h"

namespace ctacct {

// Immutable once parsed; thread-safe.
class PortList {
 public:
  // An error names `path` and the line.
  [[nodiscard]] static absl::StatusOr<std::shared_ptr<const PortList>> Parse(
      const std::string& text, const std::string& path);

  bool Contains(uint8_t protocol, uint16_t port) const {
    const Ports* ports = protocols_[protocol].get();
    return ports != nullptr && ports->test(port);
  }
  size_t size() const { return size_; }
  // Two lists of the same ports have the same checksum, however their files look. Never 0.
  uint64_t checksum() const { return checksum_; }

 private:
  uint64_t MakeChecksum() const;

  using Ports = std::bitset<65536>;

  std::unique_ptr<Ports> protocols_[256];
  size_t size_ = 0;
  uint64_t checksum_ = 0;
};

// The port list in force. Without one (nullptr) every port is accounted.
using CurrentPortList = Current<PortList>;

}  // namespace ctacct

#endif  // CTACCT_ENGINE_ACCOUNTING_PORT_LIST_H_
