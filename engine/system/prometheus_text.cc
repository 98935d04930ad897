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

}  // namespace

std::string SecondsText(int64_t ns) {
  return absl::StrFormat("%d.%09d", ns / kNanosPerSecond, ns % kNanosPerSecond);
}

void PrometheusText::Begin(absl::string_view name, absl::string_view help, absl::string_view type) {
  name_ = absl::StrCat(prefix_, name);
  absl::StrAppend(&text_, "# HELP ", name_, " ", help, "\n# TYPE ", name_, " ", type, "\n");
}

void PrometheusText::AddLabel(absl::string_view separator, absl::string_view label,
                              absl::string_view value) {
  absl::StrAppend(&text_, separator, label, "=\"",
                  absl::StrReplaceAll(value, {{"\\", "\\\\"}, {"\"", "\\\""}, {"\n", "\\n"}}),
                  "\"");
}

void PrometheusText::Value(const Labels& labels, const absl::AlphaNum& value) {
  absl::StrAppend(&text_, name_);
  AddLabel("{", "gateway", gateway_);
  for (const auto& [label, label_value] : labels) AddLabel(",", label, label_value);
  absl::StrAppend(&text_, "} ", value, "\n");
}

MetricsFile::MetricsFile(const std::string& path) : path_(path) {
  const size_t slash = path.rfind('/');
  const size_t name = slash == std::string::npos ? 0 : slash + 1;
  hidden_path_ = absl::StrCat(path.substr(0, name), ".", path.substr(name), ".tmp");
}

absl::Status MetricsFile::Error(int error) const {
  return absl::Status(absl::ErrnoToStatusCode(error),
                      absl::StrCat("metrics file ", path_, ": ", strerror(error)));
}

absl::Status MetricsFile::Write(absl::string_view text) {
  if (text == written_) return absl::OkStatus();
  // A device or a FIFO that is replaced by a file is gone.
  struct stat info {};
  if (lstat(path_.c_str(), &info) == 0 && !S_ISREG(info.st_mode)) {
    return absl::FailedPreconditionError(
        absl::StrCat("metrics file ", path_, ": is there and is no regular file"));
  }
  // What a kill left, or what somebody put there for us to write through.
  unlink(hidden_path_.c_str());
  constexpr int kFlags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
  const UniqueFd fd(open(hidden_path_.c_str(), kFlags, kMode));
  if (!fd.valid()) return Error(errno);
  int error = fchmod(fd.get(), kMode) == 0 ? WriteAll(fd.get(), text) : errno;
  if (error == 0 && rename(hidden_path_.c_str(), path_.c_str()) != 0) error = errno;
  if (error != 0) {
    unlink(hidden_path_.c_str());
    return Error(error);
  }
  written_ = std::string(text);
  return absl::OkStatus();
}

void MetricsFile::Refresh(absl::string_view text,
                          const std::function<void(const absl::Status&)>& log) {
  const absl::Status status = Write(text);
  if (!status.ok()) ++failures_;
  if (status.message() != last_error_) log(status);
  last_error_ = std::string(status.message());
}

}  // namespace ctacct
