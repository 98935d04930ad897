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

  explicit PrometheusText(std::string prefix) : prefix_(std::move(prefix)) {}

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

  const std::string prefix_;
  std::string name_;
  std::string text_;
};

// A file that others may read at any time: it is written as `.NAME.tmp` and renamed. It contains no
// addresses, so everybody may read it (mode 0644, whatever the umask): node_exporter runs as a user
// of its own. It is not synced: after a crash it is stale anyway.
class MetricsFile {
 public:
  // Writes nothing yet. An error that names the path if it exists and is not a regular file.
  [[nodiscard]] static absl::StatusOr<MetricsFile> Open(const std::string& path);

  // Does nothing if `text` is what was written last.
  [[nodiscard]] absl::Status Write(absl::string_view text);
  // The same, for a program that does not stop on an error: `log` gets one line when the file
  // cannot be written, and one when it can be written again.
  void Refresh(absl::string_view text, const std::function<void(const std::string&)>& log);

 private:
  MetricsFile(std::string path, std::string hidden_path)
      : path_(std::move(path)), hidden_path_(std::move(hidden_path)) {}

  std::string path_;
  std::string hidden_path_;
  std::string written_;
  bool failing_ = false;
};

}  // namespace ctacct

#endif  // CTACCT_ENGINE_SYSTEM_PROMETHEUS_TEXT_H_
