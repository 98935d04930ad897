// Captures of netlink traffic: pcap files of link type 253 (LINKTYPE_NETLINK), as a capture on an
// nlmon interface writes them. libpcap does the file format: both byte orders, micro- and
// nanosecond magic.
//
// Each datagram follows a header of 16 bytes, big-endian: packet type (4 = outgoing),
// ARPHRD_NETLINK (0x0338), address length and address (zero), netlink family (12 =
// NETLINK_NETFILTER).
//
// The engine's recordings begin with the request for the first dump, at the time of the
// subscription, and have an NLMSG_OVERRUN where the kernel dropped events (OverrunMessage,
// ctnetlink_parser.h).
//
// Thread-compatible: one thread at a time for each object.
#ifndef CTACCT_NETLINK_CAPTURE_FILE_H_
#define CTACCT_NETLINK_CAPTURE_FILE_H_

#include <pcap/pcap.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace ctacct {

// A datagram of netlink family 12, without the capture's header. Valid until the next call on the
// reader.
struct CapturedDatagram {
  const uint8_t* data = nullptr;
  size_t bytes = 0;
  int64_t time_ns = 0;  // Since the Unix epoch.
};

class CaptureReader {
 public:
  // Fails if the file cannot be read or is not a pcap file of link type 253; the message names the
  // path.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<CaptureReader>> Open(const std::string& path);

  // True: *datagram is the next one; packets of other netlink families are skipped. False: the end.
  // An error, with path and packet number, if the file is damaged or cut off there.
  [[nodiscard]] absl::StatusOr<bool> Next(CapturedDatagram* datagram);

 private:
  struct Closer {
    void operator()(pcap_t* pcap) const { pcap_close(pcap); }
  };

  CaptureReader(std::string path, pcap_t* pcap) : path_(std::move(path)), pcap_(pcap) {}

  const std::string path_;
  const std::unique_ptr<pcap_t, Closer> pcap_;
  uint64_t packets_ = 0;
};

class CaptureWriter {
 public:
  // Creates or truncates the file (mode 0600: it holds addresses).
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<CaptureWriter>> Create(
      const std::string& path);
  ~CaptureWriter();

  // Appends a datagram. Buffered, so an error may show later. After one, nothing is written: what
  // comes after a hole cannot be read.
  void Write(const uint8_t* data, size_t bytes, int64_t time_ns);
  [[nodiscard]] absl::Status Flush();
  // The first error. Any thread.
  [[nodiscard]] absl::Status status() const;

 private:
  CaptureWriter(std::string path, pcap_t* pcap, pcap_dumper_t* dumper);

  const std::string path_;
  pcap_t* const pcap_;
  pcap_dumper_t* const dumper_;
  std::atomic<int> error_{0};
  std::string packet_;  // Reused for the header and the datagram in one piece.
};

}  // namespace ctacct

#endif  // CTACCT_NETLINK_CAPTURE_FILE_H_
