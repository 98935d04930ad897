// What the doctor has found, and the screen that shows it. Pure functions of values; thread-safe.
#ifndef CTACCT_IMPORTER_DOCTOR_FINDINGS_H_
#define CTACCT_IMPORTER_DOCTOR_FINDINGS_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace ctacct {

enum class Verdict {
  kOk,
  kWarn,     // Counts right, but at a cost, or perhaps not for long.
  kFail,     // Something counts wrong, or not at all.
  kSkipped,  // Not looked at; the text says why.
};

// Of one check. Names come with the table of checks, so a check need not know its own.
struct Finding {
  Verdict verdict = Verdict::kOk;
  std::string text;
  std::vector<std::string> remedies;  // Commands to type: all in turn, or the one that fits.
  std::string name;
};

[[nodiscard]] inline Finding Ok(std::string text) {
  return {Verdict::kOk, std::move(text), {}, {}};
}
[[nodiscard]] inline Finding Warn(std::string text, std::vector<std::string> remedies) {
  return {Verdict::kWarn, std::move(text), std::move(remedies), {}};
}
[[nodiscard]] inline Finding Fail(std::string text, std::vector<std::string> remedies) {
  return {Verdict::kFail, std::move(text), std::move(remedies), {}};
}
[[nodiscard]] inline Finding Skip(std::string text) {
  return {Verdict::kSkipped, std::move(text), {}, {}};
}

// For 80 columns: names and texts aligned, remedies below, never broken, and one line that sums it
// all up at the end.
[[nodiscard]] std::string ReportText(absl::Span<const Finding> findings, bool colour);
[[nodiscard]] std::string ReportJson(absl::Span<const Finding> findings);
[[nodiscard]] bool AnyFailed(absl::Span<const Finding> findings);

// As one word for a shell.
[[nodiscard]] std::string ShellQuoted(absl::string_view text);

// "128 MiB"; downwards.
[[nodiscard]] std::string BytesText(uint64_t bytes);
// "1 file", "2 files".
[[nodiscard]] std::string CountText(uint64_t count, absl::string_view thing);

}  // namespace ctacct

#endif  // CTACCT_IMPORTER_DOCTOR_FINDINGS_H_
