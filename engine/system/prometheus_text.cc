#include "engine/system/prometheus_text.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "engine/system/clock.h"
#include "engine/system/unique_fd.h"
#include "engine/system/write_all.h"

namespace ctacct {
namespace {

constexpr mode_t kMode = 0644;

absl::Status Error(absl::string_view path, absl::string_view why) {
  return absl::UnavailableError(absl::StrCat("metrics file ", path, ": ", why));
}

}  // namespace

std::string SecondsText(int64_t ns) {
  return absl::StrFormat("%d.%09d", ns / kNanosPerSecond, ns % kNanosPerSecond);
}

void PrometheusText::Begin(absl::string_view name, absl::string_view help, absl::string_view type) {
  name_ = absl::StrCat(prefix_, name);
  absl::StrAppend(&text_, "# HELP ", name_, " ", help, "\n# TYPE ", name_, " ", type, "\n");
}

void PrometheusText::Counter(absl::string_view name, absl::string_view help, uint64_t value) {
  Counter(name, help, absl::StrCat(value));
}

void PrometheusText::Counter(absl::string_view name, absl::string_view help,
                             const std::string& value) {
  Counter(name, help);
  Value({}, value);
}

void PrometheusText::Gauge(absl::string_view name, absl::string_view help, uint64_t value) {
  Gauge(name, help, absl::StrCat(value));
}

void PrometheusText::Gauge(absl::string_view name, absl::string_view help,
                           const std::string& value) {
  Gauge(name, help);
  Value({}, value);
}

void PrometheusText::Value(const Labels& labels, const std::string& value) {
  absl::StrAppend(&text_, name_);
  const char* separator = "{";
  for (const auto& [label, label_value] : labels) {
    absl::StrAppend(
        &text_, separator, label, "=\"",
        absl::StrReplaceAll(label_value, {{"\\", "\\\\"}, {"\"", "\\\""}, {"\n", "\\n"}}), "\"");
    separator = ",";
  }
  absl::StrAppend(&text_, labels.empty() ? "" : "}", " ", value, "\n");
}

void PrometheusText::Value(const Labels& labels, uint64_t value) {
  Value(labels, absl::StrCat(value));
}

absl::StatusOr<MetricsFile> MetricsFile::Open(const std::string& path) {
  const size_t slash = path.rfind('/');
  const std::string name = slash == std::string::npos ? path : path.substr(slash + 1);
  if (name.empty() || name == "." || name == "..") return Error(path, "is no file's name");
  struct stat info {};
  if (lstat(path.c_str(), &info) == 0) {
    // Replaced by a file, a device or a FIFO would be gone.
    if (!S_ISREG(info.st_mode)) return Error(path, "is there and is no regular file");
  } else if (errno != ENOENT) {
    return Error(path, strerror(errno));
  }
  const std::string folder = slash == std::string::npos ? "" : path.substr(0, slash + 1);
  return MetricsFile(path, absl::StrCat(folder, ".", name, ".tmp"));
}

absl::Status MetricsFile::Write(absl::string_view text) {
  if (text == written_) return absl::OkStatus();
  // What a kill left, or what somebody put there for us to write through.
  unlink(hidden_path_.c_str());
  constexpr int kFlags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
  const UniqueFd fd(open(hidden_path_.c_str(), kFlags, kMode));
  if (!fd.valid()) return Error(path_, strerror(errno));
  int error = fchmod(fd.get(), kMode) == 0 ? WriteAll(fd.get(), text) : errno;
  if (error == 0 && rename(hidden_path_.c_str(), path_.c_str()) != 0) error = errno;
  if (error != 0) {
    unlink(hidden_path_.c_str());
    return Error(path_, strerror(error));
  }
  written_ = std::string(text);
  return absl::OkStatus();
}

void MetricsFile::Refresh(absl::string_view text,
                          const std::function<void(const std::string&)>& log) {
  const absl::Status status = Write(text);
  if (status.ok() == failing_) {
    log(failing_ ? "the metrics file can be written again" : std::string(status.message()));
  }
  failing_ = !status.ok();
}

}  // namespace ctacct
