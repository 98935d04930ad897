// Any bytes as a capture: pcap in all its dialects, pcapng. Every byte of each datagram is read;
// times are within what the rest can reckon with.
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "netlink/capture_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
  static const int fd = memfd_create("capture", MFD_CLOEXEC);
  static const std::string path = "/proc/self/fd/" + std::to_string(fd);
  if (ftruncate(fd, 0) != 0 || pwrite(fd, data, bytes, 0) != static_cast<ssize_t>(bytes)) return 0;
  const auto reader = ctacct::CaptureReader::Open(path);
  if (!reader.ok()) return 0;
  ctacct::CapturedDatagram datagram;
  static std::string copy;  // The sanitizer sees every byte read.
  for (size_t read = 0;; read += datagram.bytes + 1) {
    const auto more = (*reader)->Next(&datagram);
    if (!more.ok() || !*more) return 0;
    if (datagram.time_ns < 0 || read > bytes) std::abort();
    copy.assign(reinterpret_cast<const char*>(datagram.data), datagram.bytes);
  }
}
