// Capture files of netlink datagrams for tests: pcap written by hand, so that it shares no mistake
// with the engine's own reader and writer.
//
//   CaptureBuilder capture;
//   capture.Add(time_ns, BuildMessage(message));
//   WriteFile(path, capture.bytes());
#ifndef CTACCT_TESTS_SUPPORT_CAPTURE_BUILDER_H_
#define CTACCT_TESTS_SUPPORT_CAPTURE_BUILDER_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

namespace ctacct {

struct CaptureFormat {
  bool nanoseconds = true;  // Else microseconds: what is below is cut off.
  bool big_endian = false;  // Of pcap's own headers; the netlink messages stay in host order.
  uint32_t link_type = 253;
  uint32_t snap_length = 1 << 18;
};

class CaptureBuilder {
 public:
  explicit CaptureBuilder(const CaptureFormat& format = {});

  // One packet with one datagram, behind the 16-byte header that an nlmon interface gives.
  void Add(int64_t time_ns, std::string_view datagram, uint16_t netlink_family = 12);

  // One packet of any bytes.
  void AddRaw(int64_t time_ns, std::string_view packet);

  // The file so far.
  const std::string& bytes() const { return bytes_; }

  // What was not taken before, for a file that is written piece by piece.
  std::string Take() { return std::exchange(bytes_, {}); }

 private:
  void Put16(uint16_t value);
  void Put32(uint32_t value);

  CaptureFormat format_;
  std::string bytes_;
};

}  // namespace ctacct

#endif  // CTACCT_TESTS_SUPPORT_CAPTURE_BUILDER_H_
