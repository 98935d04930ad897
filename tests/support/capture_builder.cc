#include "tests/support/capture_builder.h"

namespace ctacct {
namespace {

constexpr uint32_t kMagicMicroseconds = 0xa1b2c3d4;
constexpr uint32_t kMagicNanoseconds = 0xa1b23c4d;

}  // namespace

CaptureBuilder::CaptureBuilder(const CaptureFormat& format) : format_(format) {
  Put32(format.nanoseconds ? kMagicNanoseconds : kMagicMicroseconds);
  Put16(2);  // Version 2.4.
  Put16(4);
  Put32(0);  // Time zone and accuracy: always 0.
  Put32(0);
  Put32(format.snap_length);
  Put32(format.link_type);
}

void CaptureBuilder::Add(int64_t time_ns, std::string_view datagram, uint16_t netlink_family) {
  // Always big-endian: 4 (outgoing), ARPHRD_NETLINK, no address, the netlink family.
  std::string packet("\x00\x04\x03\x38", 4);
  packet.append(10, '\0');
  packet += static_cast<char>(netlink_family >> 8);
  packet += static_cast<char>(netlink_family);
  packet += datagram;
  AddRaw(time_ns, packet);
}

void CaptureBuilder::AddRaw(int64_t time_ns, std::string_view packet) {
  constexpr int64_t kSecondNs = 1'000'000'000;
  Put32(static_cast<uint32_t>(time_ns / kSecondNs));
  Put32(static_cast<uint32_t>(time_ns % kSecondNs / (format_.nanoseconds ? 1 : 1000)));
  Put32(static_cast<uint32_t>(packet.size()));
  Put32(static_cast<uint32_t>(packet.size()));
  bytes_ += packet;
}

void CaptureBuilder::Put16(uint16_t value) {
  const char high = static_cast<char>(value >> 8);
  const char low = static_cast<char>(value);
  bytes_ += format_.big_endian ? high : low;
  bytes_ += format_.big_endian ? low : high;
}

void CaptureBuilder::Put32(uint32_t value) {
  const uint16_t high = static_cast<uint16_t>(value >> 16);
  const uint16_t low = static_cast<uint16_t>(value);
  Put16(format_.big_endian ? high : low);
  Put16(format_.big_endian ? low : high);
}

}  // namespace ctacct
