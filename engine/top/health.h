// The state of an engine, from its metrics file (-metrics-file; Prometheus' text format). Top knows
// some metrics by name, for its one-line summary and for problems, and shows all of them as they
// are, so that the metrics of newer engines are seen as well.
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

  friend bool operator==(const MetricSample&, const MetricSample&) = default;
};

struct EngineHealth {
  std::vector<MetricSample> samples;  // In the order of the file.

  // The value of `ctacct_FAMILY`, summed over all labels; nothing if the file does not have it.
  [[nodiscard]] std::optional<double> Value(absl::string_view family) const;

  friend bool operator==(const EngineHealth&, const EngineHealth&) = default;
};

// InvalidArgument names the line.
[[nodiscard]] absl::StatusOr<EngineHealth> ParseMetrics(absl::string_view text);
[[nodiscard]] absl::StatusOr<EngineHealth> ReadMetricsFile(const std::string& path);

// The engine's -interval; nothing if the file does not contain it.
[[nodiscard]] std::optional<int64_t> HealthIntervalNs(const EngineHealth& health);

// The few figures worth a place on every screen, of those in the file: "flows 12,345".
[[nodiscard]] std::vector<std::string> HealthFigures(const EngineHealth& health);

// What an operator should look at now, worst first. `before`: the file's contents before these, to
// see what has grown, or nullptr. `interval_ns`: the interval's length, to notice that an engine is
// silent.
[[nodiscard]] std::vector<std::string> HealthProblems(const EngineHealth& health,
                                                      const EngineHealth* before, int64_t now_ns,
                                                      int64_t interval_ns);

}  // namespace ctacct

#endif  // CTACCT_ENGINE_TOP_HEALTH_H_
