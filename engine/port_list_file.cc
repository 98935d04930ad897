#include "engine/port_list_file.h"

#include <unistd.h>

#include <memory>

#include "absl/strings/str_cat.h"
#include "engine/system/clock.h"

namespace ctacct {
namespace {

constexpr int64_t kSettleMaxNs = 2 * kNanosPerSecond;

}  // namespace

absl::Status PortListFile::Load() {
  if (path_.empty()) return absl::OkStatus();
  file_.emplace(path_, /*may_be_empty=*/true);
  for (const int64_t give_up_ns = MonotonicNs() + kSettleMaxNs;;) {
    const absl::StatusOr<bool> read = Read();
    if (!read.ok()) return read.status();
    if (!file_->is_settling()) return absl::OkStatus();
    if (MonotonicNs() >= give_up_ns) {
      return absl::UnavailableError(
          absl::StrCat("port list ", path_, ": is being written all the time"));
    }
    usleep(static_cast<useconds_t>(FollowedFile::kSettleNs / 1000));
  }
}

absl::StatusOr<bool> PortListFile::ReloadIfChanged() {
  if (path_.empty()) return false;
  const absl::Status before = problem_;
  const absl::StatusOr<bool> read = Read();
  if (!read.ok() && read.status() == before) return false;
  return read;
}

absl::StatusOr<bool> PortListFile::Read() {
  const absl::StatusOr<std::optional<std::string>> text = file_->ReadIfChanged();
  if (!text.ok()) {
    problem_ =
        absl::Status(text.status().code(), absl::StrCat("port list: ", text.status().message()));
    return problem_;
  }
  if (!text->has_value()) return false;
  absl::StatusOr<std::shared_ptr<const PortList>> list = PortList::Parse(**text, path_);
  problem_ = list.status();
  if (!list.ok()) return problem_;
  current_.Replace(*std::move(list));
  return true;
}

}  // namespace ctacct
