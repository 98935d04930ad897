#include "engine/output/checkpoint.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <limits>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "engine/output/row_sink.h"
#include "engine/system/check.h"
#include "engine/system/durable_file.h"

namespace ctacct {
namespace {

// Two seconds: the kernel takes a tenth of one to end a process of a few hundred megabytes.
constexpr int kLockAttempts = 200;

constexpr char kFolder[] = ".ctacct";
constexpr mode_t kFolderMode = 0750;
constexpr char kCheckpoint[] = ".checkpoint";
constexpr char kNew[] = ".new";
constexpr char kLock[] = ".lock";

}  // namespace

absl::StatusOr<std::unique_ptr<Checkpoint>> Checkpoint::Open(const std::string& folder,
                                                             const std::string& gateway) {
  auto checkpoint = std::unique_ptr<Checkpoint>(new Checkpoint(folder, GatewayTag(gateway)));
  [[maybe_unused]] const int made = mkdir(absl::StrCat(folder, "/", kFolder).c_str(), kFolderMode);
  checkpoint->started_before_ns_ = ModifiedNs(checkpoint->Path(kLock));
  // An engine that was killed just now may still be on its way out.
  if (absl::Status status = checkpoint->TakeLock(kLockAttempts); !status.ok()) return status;
  futimens(checkpoint->lock_.get(), nullptr);
  return checkpoint;
}

absl::Status Checkpoint::TakeLock(int attempts) {
  absl::StatusOr<UniqueFd> lock = LockFile(Path(kLock), attempts);
  if (absl::IsUnavailable(lock.status())) {
    return absl::UnavailableError(
        absl::StrCat("another engine writes for this gateway into ", folder_));
  }
  if (!lock.ok()) return lock.status();
  lock_ = *std::move(lock);
  return absl::OkStatus();
}

std::string Checkpoint::Path(absl::string_view end) const {
  return absl::StrCat(folder_, "/", kFolder, "/", tag_, end);
}

void Checkpoint::EnsureFolder() {
  // If it cannot be made, writing into it will fail and say so.
  if (mkdir(absl::StrCat(folder_, "/", kFolder).c_str(), kFolderMode) != 0) return;
  // It was removed, and the lock with it.
  [[maybe_unused]] const absl::Status ignored = TakeLock(1);
}

absl::StatusOr<UniqueFd> Checkpoint::Read(CheckpointInfo* info) const {
  absl::StatusOr<UniqueFd> file = ReadCheckpoint(Path(kCheckpoint), info);
  if (!file.ok() && info->taken_ns == 0) info->taken_ns = started_before_ns_;
  return file;
}

absl::Status Checkpoint::Recover(const std::function<bool(const CheckpointInfo&)>& begin,
                                 const std::function<void(const FlowRecord&)>& flow) {
  unlink(Path(kNew).c_str());
  CheckpointInfo before;
  const absl::StatusOr<UniqueFd> file = Read(&before);
  if (!file.ok() && before.taken_ns == 0) return RevealPrepared(nullptr, true);
  known_until_ns_ = before.taken_ns;
  const bool restored = begin(before) && before.flows_known;
  if (!restored) {
    // Before rows are revealed that a later restart would account anew.
    if (absl::Status status = VoidCheckpoint(Path(kCheckpoint), before); !status.ok()) {
      return status;
    }
  } else if (!ForEachFlow(*file, before.flow_count, [&](const FlowRecord* records, size_t count) {
               for (size_t i = 0; i < count; ++i) flow(records[i]);
             })) {
    return absl::UnavailableError(absl::StrCat(Path(kCheckpoint), ": changed while it was read"));
  }
  return RevealPrepared(restored ? &before : nullptr, true);
}

absl::Status Checkpoint::RecoverOthers(const KernelIdentity& kernel) const {
  const absl::StatusOr<std::vector<std::string>> names = Names();
  if (!names.ok()) return names.status();
  for (const std::string& name : *names) {
    absl::string_view tag = name;
    if (!absl::ConsumeSuffix(&tag, kLock) || tag == tag_) continue;
    Checkpoint other(folder_, std::string(tag));
    if (!other.TakeLock(1).ok()) continue;  // It runs.
    CheckpointInfo info;
    const bool known = other.Read(&info).ok() && info.flows_known;
    const bool ours = info.kernel == kernel;
    absl::Status status;
    if (known && ours) status = VoidCheckpoint(other.Path(kCheckpoint), info);
    if (status.ok()) status = other.RevealPrepared(known && !ours ? &info : nullptr, false);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> Checkpoint::Names() const {
  const std::string path = absl::StrCat(folder_, "/", kFolder);
  const absl::StatusOr<UniqueFd> folder = OpenFolder(path);
  if (!folder.ok()) return folder.status();
  std::vector<std::string> names;
  const absl::Status read = ForEachName(folder->get(), path, [&](const char* name) {
    names.push_back(name);
    return true;
  });
  if (!read.ok()) return read;
  std::sort(names.begin(), names.end());
  return names;
}

// The traffic of rows that a valid checkpoint does not cover is accounted anew from it. Without a
// valid one it is not.
absl::Status Checkpoint::RevealPrepared(const CheckpointInfo* valid, bool remove) const {
  const absl::StatusOr<std::vector<std::string>> names = Names();
  if (!names.ok()) return names.status();
  for (const std::string& hidden : *names) {
    PreparedName prepared;
    if (!prepared.Parse(hidden) || prepared.tag != tag_) continue;
    const std::string path = absl::StrCat(folder_, "/", kFolder, "/", hidden);
    if (valid == nullptr || (prepared.engine_id == EngineIdText(valid->engine_id) &&
                             prepared.sequence <= valid->last_sequence)) {
      const absl::Status status = RevealAs(absl::StrCat(kFolder, "/", hidden), prepared.name);
      if (!status.ok()) return status;
    } else if (remove && unlink(path.c_str()) != 0) {
      return FileError("remove", path, errno);
    }
  }
  return absl::OkStatus();
}

void Checkpoint::Start(const CheckpointInfo& info, size_t workers) {
  info_ = info;
  workers_ = workers;
}

void Checkpoint::Add(SnapshotChunk chunk) {
  // Each worker's snapshots come one after the other, but one worker's next may come before
  // another's last.
  if (state_ == State::kCopying && chunk.seal != seal_) {
    later_.push_back(std::move(chunk));
    return;
  }
  if (state_ == State::kNone || chunk.seal != seal_) BeginCopy(chunk.seal);
  AppendToCopy(chunk);
  if (state_ == State::kCopying) return;
  for (SnapshotChunk& waiting : std::exchange(later_, {})) Add(std::move(waiting));
}

void Checkpoint::BeginCopy(uint64_t seal) {
  EnsureFolder();
  state_ = State::kCopying;
  seal_ = seal;
  workers_done_ = 0;
  whole_ = true;
  error_ = absl::OkStatus();
  info_.taken_ns = std::numeric_limits<int64_t>::max();
  info_.flow_count = 0;
  info_.known_since_ns = std::numeric_limits<int64_t>::min();
  absl::StatusOr<CheckpointWriter> writer = CheckpointWriter::Create(Path(kNew));
  if (!writer.ok()) return FailCopy(writer.status());
  writer_.emplace(*std::move(writer));
}

void Checkpoint::AppendToCopy(const SnapshotChunk& chunk) {
  if (writer_.has_value()) {
    if (absl::Status status = writer_->Append(chunk.records); !status.ok()) FailCopy(status);
  }
  info_.flow_count += chunk.records.size();
  // Of several workers the latest: what one has forgotten must not count from zero.
  info_.known_since_ns = std::max(info_.known_since_ns, chunk.known_since_ns);
  info_.taken_ns = std::min(info_.taken_ns, chunk.taken_ns);
  whole_ = whole_ && chunk.whole;
  if (!chunk.last || ++workers_done_ < workers_) return;
  if (!whole_) {
    state_ = State::kNone;  // As if it had never begun; the next one will be whole.
    writer_.reset();
    return;
  }
  known_until_ns_ = info_.taken_ns;
  state_ = error_.ok() ? State::kComplete : State::kFailed;
}

void Checkpoint::FailCopy(absl::Status status) {
  error_ = std::move(status);
  writer_.reset();
  unlink(Path(kNew).c_str());  // Its space is needed for rows.
}

absl::Status Checkpoint::Commit(uint64_t last_sequence) {
  CTACCT_CHECK(state_ == State::kComplete && writer_.has_value());
  CTACCT_CHECK(last_sequence >= info_.last_sequence);
  info_.last_sequence = last_sequence;
  absl::Status status = writer_->WriteHeader(info_);
  if (status.ok() && rename(Path(kNew).c_str(), Path(kCheckpoint).c_str()) != 0) {
    status = absl::ErrnoToStatus(errno, absl::StrCat(Path(kNew), ": rename"));
  }
  if (!status.ok()) {
    FailCopy(std::move(status));
    state_ = State::kFailed;
    return error_;
  }
  writer_.reset();
  state_ = State::kNone;
  valid_ = true;
  return absl::OkStatus();
}

absl::Status Checkpoint::MarkClean() {
  return valid_ ? MarkCheckpointClean(Path(kCheckpoint)) : absl::OkStatus();
}

absl::Status Checkpoint::Discard() {
  CheckpointInfo info = info_;
  info.taken_ns = known_until_ns_;
  if (absl::Status status = VoidCheckpoint(Path(kCheckpoint), info); !status.ok()) return status;
  valid_ = false;
  writer_.reset();
  state_ = State::kNone;
  return absl::OkStatus();
}

void Checkpoint::GiveUpCopy(const absl::Status& why) {
  if (!writer_.has_value()) return;
  FailCopy(why);
  if (state_ == State::kComplete) state_ = State::kFailed;
}

std::string Checkpoint::HiddenName(uint64_t sequence, const std::string& name) const {
  const PreparedName prepared = {tag_, EngineIdText(info_.engine_id), sequence, name};
  return absl::StrCat(kFolder, "/", prepared.HiddenName());
}

absl::Status Checkpoint::Reveal(uint64_t sequence, const std::string& name) const {
  return RevealAs(HiddenName(sequence, name), name);
}

absl::Status Checkpoint::RevealAs(const std::string& hidden_name, const std::string& name) const {
  const int copies = absl::EndsWith(name, ".csv") ? CsvSink::kSameNameMax : 1;
  absl::Status status;
  for (int copy = 0; copy < copies; ++copy) {
    status = RevealPreparedFile(folder_, hidden_name, CsvSink::NameOfCopy(name, copy));
    if (!absl::IsAlreadyExists(status)) break;
  }
  return status;
}

}  // namespace ctacct
