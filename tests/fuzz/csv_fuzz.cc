// Any bytes as a CSV line, and as a CSV file. What is accepted is within its bounds; a line is
// written again the same.
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>

#include "engine/rows/csv.h"
#include "importer/files/traffic_file.h"
#include "tests/fuzz/bounds.h"

namespace {

void ReadLine(absl::string_view line) {
  ctacct::TrafficRow row;
  bool has_open = false;
  if (!ctacct::ParseCsvLine(line, &row, &has_open).ok()) return;
  ctacct::ExpectWithinBounds(row);
  std::string once;
  ctacct::AppendCsvLine(row, has_open, &once);
  ctacct::Expect(once.empty() != ctacct::HasCsvLine(row));
  if (once.empty()) return;
  ctacct::TrafficRow again;
  bool again_open = false;
  ctacct::Expect(
      ctacct::ParseCsvLine(absl::string_view(once.data(), once.size() - 1), &again, &again_open)
          .ok());
  ctacct::Expect(again == row && again_open == has_open);
}

std::string MakeFolder() {
  std::string pattern = "/dev/shm/csv_fuzz.XXXXXX";  // Memory: a disk takes milliseconds.
  ctacct::Expect(mkdtemp(pattern.data()) != nullptr);
  return pattern;
}

void ReadFile(const uint8_t* data, size_t bytes) {
  static const auto* const path = new std::string(MakeFolder() + "/fuzz.csv");
  static const bool removed_at_exit = atexit([] {
                                        unlink(path->c_str());
                                        rmdir(path->substr(0, path->rfind('/')).c_str());
                                      }) == 0;
  (void)removed_at_exit;
  {
    const ctacct::UniqueFd fd(open(path->c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    if (write(fd.get(), data, bytes) != static_cast<ssize_t>(bytes)) return;
  }
  const auto file = ctacct::TrafficFile::Open({AT_FDCWD, ".", *path, *path});
  if (!file.ok()) return;
  constexpr int64_t kDayNs = 86'400'000'000'000;
  std::map<int64_t, ctacct::ExactSums> sums;
  uint64_t count = 0;
  const auto summary = file->Read([&](absl::Span<const ctacct::TrafficRow> rows) {
    for (const ctacct::TrafficRow& row : rows) {
      ctacct::ExpectWithinBounds(row);
      sums[row.time_ns / kDayNs].Add(row);
    }
    count += rows.size();
    return absl::OkStatus();
  });
  for (const auto& [day, of_day] : sums) of_day.ExpectWithinBounds();
  if (!summary.ok()) return;
  ctacct::Expect(summary->row_count == count && summary->days.size() == sums.size());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
  const absl::string_view text(reinterpret_cast<const char*>(data), bytes);
  ReadLine(text.substr(0, text.find('\n')));
  // Without an end of a line there is no row, and lines alone are much faster.
  if (text.find('\n') != absl::string_view::npos) ReadFile(data, bytes);
  return 0;
}
