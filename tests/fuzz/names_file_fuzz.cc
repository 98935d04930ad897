// Any bytes as a names file: first as they are, then with a checksum that holds. What is accepted
// is written again as the same bytes.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>

#include "engine/spool/names_file.h"
#include "tests/fuzz/bounds.h"
#include "xxhash.h"

namespace {

void Read(const std::string& file) {
  const auto snapshot = ctacct::ParseNames(file, "fuzz");
  if (!snapshot.ok()) return;
  const auto again = ctacct::EncodeNames(*snapshot);
  ctacct::Expect(again.ok() && *again == file);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
  std::string file(reinterpret_cast<const char*>(data), bytes);
  Read(file);
  const size_t end = file.find("\nchecksum\t");
  if (end == std::string::npos) return 0;
  file.resize(end + 1);
  char checksum[32];
  snprintf(checksum, sizeof(checksum), "checksum\t%016llx\n",
           static_cast<unsigned long long>(XXH3_64bits(file.data(), file.size())));
  Read(file + checksum);
  return 0;
}
