// Prometheus' text format (version 0.0.4), and the file that carries it to the textfile collector
// of node_exporter. Both programs tell how they do by it.
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
#include "absl/strings/string_view.h"

namespace ctacct {

// Seconds, without the rounding of a floating-point number.
[[nodiscard]] std::string SecondsText(int64_t ns);

// Metrics one after the other: each is begun, then has one value, or one for each set of labels.
class PrometheusText {
 public:
  using Labels = std::vector<std::pair<absl::string_view, absl::string_view>>;

  explicit PrometheusText(std::string prefix) : prefix_(std::move(prefix)) {}

  void Counter(absl::string_view name, absl::string_view help) { Begin(name, help, "counter"); }
  void Gauge(absl::string_view name, absl::string_view help) { Begin(name, help, "gauge"); }
  void Counter(absl::string_view name, absl::string_view help, uint64_t value);
  void Counter(absl::string_view name, absl::string_view help, const std::string& value);
  void Gauge(absl::string_view name, absl::string_view help, uint64_t value);
  void Gauge(absl::string_view name, absl::string_view help, const std::string& value);
  // Of the metric that was begun last. Label values may hold anything.
  void Value(const Labels& labels, const std::string& value);
  void Value(const Labels& labels, uint64_t value);

  [[nodiscard]] std::string Take() { return std::move(text_); }

 private:
  void Begin(absl::string_view name, absl::string_view help, absl::string_view type);

  const std::string prefix_;
  std::string name_;
  std::string text_;
};

// A file that others may read at any time: it is replaced as a whole, by way of `.NAME.tmp` beside
// it. There are no addresses in it, so everybody may read it (mode 0644, whatever the umask):
// node_exporter runs as a user of its own. It is not synced: after a crash it is stale anyway.
class MetricsFile {
 public:
  // An error names the path: what is there must be a regular file, or nothing. Nothing is written.
  [[nodiscard]] static absl::StatusOr<MetricsFile> Open(const std::string& path);

  // Does nothing if `text` is what was written last.
  [[nodiscard]] absl::Status Write(absl::string_view text);
  // The same, for a program that goes on without it: `log` is told once when it cannot be written,
  // and once when it can be again.
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
