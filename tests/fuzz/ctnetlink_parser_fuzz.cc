// Any bytes as a datagram: bounded, no read past the end; what is accepted is within the bytes.
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "netlink/ctnetlink_parser.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
  ctacct::DatagramCursor cursor(data, bytes);
  ctacct::NetlinkMessage message;
  size_t messages = 0;
  while (cursor.Next(&message)) {
    if (message.data < data || message.data + message.bytes > data + bytes) std::abort();
    if (++messages > bytes / 16) std::abort();  // Each has a header of 16 bytes.
    ctacct::FlowEvent event;
    ctacct::Ipv6FlowEvent ipv6;
    if (ctacct::ParseFlowMessage(message, &event) == ctacct::ParseResult::kIpv6) {
      (void)ctacct::ParseIpv6FlowMessage(message, &ipv6);
    }
    (void)ctacct::MessageError(message);
  }
  return 0;
}
