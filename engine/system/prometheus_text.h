// Prometheus' text format (version 0.0.4), and the file that carries it to the textfile collector
// of node_exporter. Engine and importer report their state in such files.
//
// PrometheusText and MetricsFile are thread-compatible.
#ifndef CTACCT_ENGINE_SYSTEM_PROMETHEUS_TEXT_H_
#define CTACCT_ENGINE_SYSTEM_PROMETHEUS_TEXT_H_

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace ctacct {

// Seconds, without the rounding of a floating-point number.
[[nodiscard]] std::string SecondsText(int64_t ns);

// Metrics one after the other: each has one value, or one value for each set of labels.
class PrometheusText {
 public:
  using Labels = std::vector<std::pair<absl::string_view, absl::string_view>>;

  // `gateway` is a label of every value: then the files of several programs on one host, which
  // node_exporter puts together, cannot claim the same series.
  PrometheusText(std::string prefix, std::string gateway)
      : prefix_(std::move(prefix)), gateway_(std::move(gateway)) {}

  void Counter(absl::string_view name, absl::string_view help) { Begin(name, help, "counter"); }
  void Gauge(absl::string_view name, absl::string_view help) { Begin(name, help, "gauge"); }
  void Counter(absl::string_view name, absl::string_view help, const absl::AlphaNum& value) {
    Counter(name, help);
    Value({}, value);
  }
  void Gauge(absl::string_view name, absl::string_view help, const absl::AlphaNum& value) {
    Gauge(name, help);
    Value({}, value);
  }
  // Of the metric that was begun last. Label values may contain anything.
  void Value(const Labels& labels, const absl::AlphaNum& value);

  [[nodiscard]] std::string Take() { return std::move(text_); }

 private:
  void Begin(absl::string_view name, absl::string_view help, absl::string_view type);

  void AddLabel(absl::string_view separator, absl::string_view label, absl::string_view value);

  const std::string prefix_;
  const std::string gateway_;
  std::string name_;
  std::string text_;
};

// A file that others may read at any time: it is written as `.NAME.tmp` and renamed. It contains no
// addresses, so everybody may read it (mode 0644, whatever the umask): node_exporter runs as a user
// of its own. It is not synced: after a crash it is stale anyway.
class MetricsFile {
 public:
  explicit MetricsFile(const std::string& path);

  // Does nothing if `text` is what was written last.
  [[nodiscard]] absl::Status Write(absl::string_view text);
  // The same, for programs, whose work continues without the file. `log` gets an error once, not at
  // each attempt, and OK when the file can be written again.
  void Refresh(absl::string_view text, const std::function<void(const absl::Status&)>& log);

  uint64_t failures() const { return failures_; }  // Of Refresh.

 private:
  [[nodiscard]] absl::Status Error(int error) const;

  std::string path_;
  std::string hidden_path_;
  std::string written_;
  std::string last_error_;  // Empty: the last attempt went well.
  uint64_t failures_ = 0;
};

}  // namespace ctacct

#endif  // CTACCT_ENGINE_SYSTEM_PROMETHEUS_TEXT_H_
