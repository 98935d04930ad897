#include "engine/top/source.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "engine/spool/names_file.h"
#include "engine/system/clock.h"
#include "engine/system/durable_file.h"

namespace ctacct {
namespace {

// A damaged file is reported for this many intervals.
constexpr int kNoticeIntervals = 4;

std::string Files(uint64_t count) { return count == 1 ? "1 file" : absl::StrCat(count, " files"); }

}  // namespace

bool Source::Update() {
  const absl::StatusOr<bool> changed = folder_.Update();
  folder_error_ = changed.ok() ? "" : std::string(changed.status().message());
  const uint64_t files_lost = folder_.skipped() + folder_.missed();
  if (files_lost != files_lost_) lost_at_ns_ = WallClockNs();
  files_lost_ = files_lost;
  if (!metrics_path_.empty()) UpdateHealth();
  const bool renamed = names_wanted_ && UpdateNames();
  return (changed.ok() && *changed) || renamed;
}

bool Source::UpdateNames() {
  const std::string path = absl::StrCat(folder_.path(), "/", kCurrentNamesFile);
  const absl::StatusOr<UniqueFd> fd = OpenRegularFile(AT_FDCWD, path, path);
  struct stat info {};
  if (!fd.ok() || fstat(fd->get(), &info) != 0) {
    names_error_ = absl::StrCat("no names: ", std::string(fd.status().message()));
    names_stamp_ = {};
    return std::exchange(names_, nullptr) != nullptr;
  }
  const std::pair<uint64_t, int64_t> stamp = {info.st_ino, TimespecNs(info.st_mtim)};
  const int64_t now_ns = WallClockNs();
  if (stamp == names_stamp_ && (names_ == nullptr || now_ns < names_->until_ns())) return false;
  names_stamp_ = stamp;
  const absl::StatusOr<NamesSnapshot> snapshot = ReadNamesFile(fd->get(), path);
  names_error_ =
      snapshot.ok() ? "" : absl::StrCat("no names: ", std::string(snapshot.status().message()));
  names_ = snapshot.ok() ? std::make_shared<const TopNames>(*snapshot, now_ns) : nullptr;
  return true;
}

void Source::UpdateHealth() {
  absl::StatusOr<EngineHealth> health = ReadMetricsFile(metrics_path_);
  if (!health.ok()) {
    health_.reset();
    health_error_ = std::string(health.status().message());
    return;
  }
  health_error_.clear();
  if (health_ == *health) return;
  before_ = std::exchange(health_, *std::move(health));
}

void Source::FillIntervals(TopState* state) {
  shown_ = folder_.intervals();
  state->intervals.clear();
  for (const auto& interval : shown_) state->intervals.push_back(interval.get());
  names_shown_ = names_;
  state->names = names_shown_.get();
}

void Source::FillRest(TopState* state) const {
  state->folder = folder_.path();
  state->now_ns = WallClockNs();
  state->interval_ns =
      health_.has_value() ? HealthIntervalNs(*health_).value_or(interval_ns_) : interval_ns_;
  state->health = health_;
  state->health_error = health_error_;
  int64_t length_ns = state->interval_ns;
  for (const auto& interval : folder_.intervals()) {
    length_ns = std::max(length_ns, interval->length_ns);
  }
  state->health_problems.clear();
  if (health_.has_value()) {
    state->health_problems = HealthProblems(*health_, before_.has_value() ? &*before_ : nullptr,
                                            state->now_ns, length_ns);
  }
  state->folder_problems.clear();
  if (!folder_error_.empty()) state->folder_problems.push_back(folder_error_);
  if (!names_error_.empty()) state->folder_problems.push_back(names_error_);
  if (state->now_ns - lost_at_ns_ > kNoticeIntervals * length_ns) return;
  if (folder_.skipped() != 0) {
    state->folder_problems.push_back(
        absl::StrCat(Files(folder_.skipped()), " passed over; the last: ", folder_.skipped_why()));
  }
  if (folder_.missed() != 0) {
    state->folder_problems.push_back(
        absl::StrCat(Files(folder_.missed()), " deleted too soon to be read"));
  }
}

}  // namespace ctacct
