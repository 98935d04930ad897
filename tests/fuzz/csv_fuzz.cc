// Any bytes as a CSV line. What is accepted is written again the same.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "engine/rows/csv.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
  const absl::string_view line(reinterpret_cast<const char*>(data), bytes);
  ctacct::TrafficRow row;
  bool has_open = false;
  if (!ctacct::ParseCsvLine(line, &row, &has_open).ok()) return 0;
  std::string once;
  ctacct::AppendCsvLine(row, has_open, &once);
  ctacct::TrafficRow again;
  bool again_open = false;
  if (!ctacct::ParseCsvLine(absl::string_view(once.data(), once.size() - 1), &again, &again_open)
           .ok()) {
    std::abort();
  }
  if (!(again == row) || again_open != has_open) std::abort();
  return 0;
}
