// How an engine does, by its metrics file (metrics.h): what top makes of Prometheus' text format.
// It knows some metrics by name and shows all others as they are, so that what newer engines tell
// is seen too.
//
// Pure but for ReadMetricsFile; thread-compatible.
#ifndef CTACCT_ENGINE_TOP_HEALTH_H_
#define CTACCT_ENGINE_TOP_HEALTH_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace ctacct {

struct MetricSample {
  std::string name;  // With its labels, as in the file.
  std::string text;  // Its value, as in the file.
  double value = 0;
  std::string help;  // Of its family.
};

struct EngineHealth {
  std::vector<MetricSample> samples;  // In the order of the file.

  // Nothing if there is no such sample.
  [[nodiscard]] std::optional<double> Value(absl::string_view name) const;
  // The sum over all labels of a family.
  [[nodiscard]] std::optional<double> Sum(absl::string_view family) const;
};

// InvalidArgument names the line.
[[nodiscard]] absl::StatusOr<EngineHealth> ParseMetrics(absl::string_view text);
[[nodiscard]] absl::StatusOr<EngineHealth> ReadMetricsFile(const std::string& path);

// The engine's -interval; nothing where its file does not tell.
[[nodiscard]] std::optional<int64_t> HealthIntervalNs(const EngineHealth& health);

// The few figures worth a place on every screen, those that are there: "flows 12,345".
[[nodiscard]] std::vector<std::string> HealthFigures(const EngineHealth& health);

// What an operator should look at now, worst first. `before`: the file as it was earlier, for what
// has grown meanwhile, or nullptr. `interval_ns`: the interval's length, to tell when an engine is
// silent.
[[nodiscard]] std::vector<std::string> HealthProblems(const EngineHealth& health,
                                                      const EngineHealth* before, int64_t now_ns,
                                                      int64_t interval_ns);

}  // namespace ctacct

#endif  // CTACCT_ENGINE_TOP_HEALTH_H_
