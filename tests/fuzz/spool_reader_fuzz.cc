// Any bytes as a spool file. The checksums keep the fuzzer from getting far by chance, so the
// corpus holds sound files.
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/spool_reader.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
  static const int fd = memfd_create("spool", MFD_CLOEXEC);
  if (ftruncate(fd, 0) != 0 || pwrite(fd, data, bytes, 0) != static_cast<ssize_t>(bytes)) return 0;
  auto reader = ctacct::SpoolReader::FromFd(fd, "fuzz");
  if (!reader.ok()) return 0;
  std::vector<ctacct::TrafficRow> rows;
  for (;;) {
    const auto more = reader->ReadBlock(&rows);
    if (!more.ok() || !*more) return 0;
  }
}
