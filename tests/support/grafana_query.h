// What Grafana makes of a dashboard's SQL before PostgreSQL sees it: first its front end puts in
// the values of variables, then the PostgreSQL data source expands macros. Only what dashboards of
// ours may use; anything else is an error, as it is a mistake in the dashboard.
//
// Pure functions.
#ifndef CTACCT_TESTS_SUPPORT_GRAFANA_QUERY_H_
#define CTACCT_TESTS_SUPPORT_GRAFANA_QUERY_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace ctacct {

struct GrafanaVariable {
  std::string all_value;                           // Put in as it is where everything is chosen.
  std::optional<std::vector<std::string>> chosen;  // Nothing: All.
};

struct GrafanaView {
  absl::Time from;
  absl::Time to;
  absl::Duration interval;  // As the panel's width and the data source's minimum give it.
  std::map<std::string, GrafanaVariable> variables;
};

// InvalidArgument: an unknown variable, format or macro.
[[nodiscard]] absl::StatusOr<std::string> ExpandGrafanaSql(const std::string& sql,
                                                           const GrafanaView& view);

}  // namespace ctacct

#endif  // CTACCT_TESTS_SUPPORT_GRAFANA_QUERY_H_
