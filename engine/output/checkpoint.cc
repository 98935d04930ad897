#include "engine/output/checkpoint.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <limits>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/output/row_sink.h"
#include "engine/system/check.h"
#include "engine/system/durable_file.h"

namespace ctacct {
namespace {

// Two seconds: the kernel takes a tenth of one to end a process of a few hundred megabytes.
constexpr int kLockAttempts = 200;

constexpr char kCheckpoint[] = "checkpoint";
constexpr char kNew[] = "checkpoint.new";
constexpr char kLock[] = "lock";

}  // namespace

absl::StatusOr<std::unique_ptr<Checkpoint>> Checkpoint::Open(const std::string& state,
                                                             const std::string& output) {
  absl::StatusOr<UniqueFd> folder = OpenStateFolder(state);
  if (!folder.ok()) return folder.status();
  // An engine that was killed just now may still be on its way out.
  absl::StatusOr<StateLock> lock =
      StateLock::Take({folder->get(), kLock, absl::StrCat(state, "/", kLock)}, kLockAttempts);
  if (absl::IsUnavailable(lock.status())) {
    return absl::UnavailableError(absl::StrCat("another engine uses the state folder ", state,
                                               ": stop it. Only an engine of another network "
                                               "namespace may run beside it, with its own -state"));
  }
  if (!lock.ok()) return lock.status();
  return std::unique_ptr<Checkpoint>(
      new Checkpoint(state, output, *std::move(folder), *std::move(lock)));
}

FileIn Checkpoint::File(const char* name) const {
  return {folder_.get(), name, absl::StrCat(state_folder_, "/", name)};
}

absl::Status Checkpoint::CheckLock() {
  const absl::Status status = lock_.Check();
  lock_lost_ = lock_lost_ || absl::IsFailedPrecondition(status);
  if (!lock_lost_) return status;
  return absl::FailedPreconditionError(absl::StrCat(
      "state folder ", state_folder_,
      ": its lock was removed or replaced while this engine ran, and another engine may account "
      "the same traffic"));
}

absl::StatusOr<UniqueFd> Checkpoint::Read(CheckpointInfo* info) const {
  absl::StatusOr<UniqueFd> file = ReadCheckpoint(File(kCheckpoint), info);
  if (!file.ok() && info->taken_ns == 0) info->taken_ns = lock_.taken_before_ns();
  return file;
}

absl::Status Checkpoint::Recover(const std::function<bool(const CheckpointInfo&)>& begin,
                                 const std::function<void(const FlowRecord&)>& flow,
                                 const std::function<void(const Ipv6FlowRecord&)>& ipv6_flow) {
  unlinkat(folder_.get(), kNew, 0);
  CheckpointInfo before;
  const absl::StatusOr<UniqueFd> file = Read(&before);
  if (!file.ok() && before.taken_ns == 0) return RevealPrepared(nullptr);
  known_until_ns_ = before.taken_ns;
  const bool restored = begin(before) && before.flows_known;
  if (!restored) {
    // Before rows are revealed that a later restart would account again.
    if (absl::Status status = VoidCheckpoint(File(kCheckpoint), before); !status.ok()) {
      return status;
    }
  } else if (!ForEachFlow(*file, before.flow_count, flow, ipv6_flow)) {
    return absl::UnavailableError(
        absl::StrCat(File(kCheckpoint).path, ": changed while it was read"));
  }
  return RevealPrepared(restored ? &before : nullptr);
}

// The traffic of rows that a valid checkpoint does not cover is accounted again from it. Without a
// valid one it is not.
absl::Status Checkpoint::RevealPrepared(const CheckpointInfo* valid) const {
  const absl::StatusOr<UniqueFd> folder = OpenFolder(output_);
  if (!folder.ok()) return folder.status();
  std::vector<std::pair<std::string, PreparedName>> found;
  const absl::Status read = ForEachName(folder->get(), output_, [&](const char* name) {
    PreparedName prepared;
    if (prepared.Parse(name) && prepared.state_id == lock_.state_id()) {
      found.emplace_back(name, std::move(prepared));
    }
    return true;
  });
  if (!read.ok()) return read;
  // In the order of writing, so that copies of one name are numbered in it.
  std::sort(found.begin(), found.end(),
            [](const auto& a, const auto& b) { return a.first < b.first; });
  for (const auto& [hidden, prepared] : found) {
    if (valid == nullptr || (prepared.engine_id == EngineIdText(valid->engine_id) &&
                             prepared.sequence <= valid->last_sequence)) {
      const absl::Status status = RevealAs(hidden, prepared.name);
      if (!status.ok()) return status;
    } else if (unlinkat(folder->get(), hidden.c_str(), 0) != 0) {
      return FileError("remove", absl::StrCat(output_, "/", hidden), errno);
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
  state_ = State::kCopying;
  seal_ = seal;
  workers_done_ = 0;
  whole_ = true;
  error_ = absl::OkStatus();
  info_.taken_ns = std::numeric_limits<int64_t>::max();
  info_.flow_count = 0;
  info_.known_since_ns = std::numeric_limits<int64_t>::min();
  absl::StatusOr<CheckpointWriter> writer = CheckpointWriter::Create(File(kNew));
  if (!writer.ok()) return FailCopy(writer.status());
  writer_.emplace(*std::move(writer));
}

void Checkpoint::AppendToCopy(const SnapshotChunk& chunk) {
  if (writer_.has_value()) {
    if (absl::Status status = writer_->Append(chunk); !status.ok()) FailCopy(status);
  }
  info_.flow_count += chunk.records.size() + chunk.ipv6_records.size();
  // The latest of all workers: a flow that one of them has forgotten must not count from zero.
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
  unlinkat(folder_.get(), kNew, 0);  // Its space is needed for rows.
}

absl::Status Checkpoint::Commit(uint64_t last_sequence) {
  CTACCT_CHECK(state_ == State::kComplete && writer_.has_value());
  CTACCT_CHECK(last_sequence >= info_.last_sequence);
  if (absl::Status held = CheckLock(); !held.ok()) return held;
  info_.last_sequence = last_sequence;
  absl::Status status = writer_->WriteHeader(info_);
  if (status.ok() && renameat(folder_.get(), kNew, folder_.get(), kCheckpoint) != 0) {
    status = FileError("rename", File(kNew).path, errno);
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
  return valid_ ? MarkCheckpointClean(File(kCheckpoint)) : absl::OkStatus();
}

absl::Status Checkpoint::Discard() {
  if (absl::Status held = CheckLock(); !held.ok()) return held;
  CheckpointInfo info = info_;
  info.taken_ns = known_until_ns_;
  if (absl::Status status = VoidCheckpoint(File(kCheckpoint), info); !status.ok()) return status;
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
  return PreparedName{lock_.state_id(), EngineIdText(info_.engine_id), sequence, name}.HiddenName();
}

absl::Status Checkpoint::Reveal(uint64_t sequence, const std::string& name) const {
  return RevealAs(HiddenName(sequence, name), name);
}

void Checkpoint::RemovePrepared(uint64_t sequence, const std::string& name) const {
  unlink(absl::StrCat(output_, "/", HiddenName(sequence, name)).c_str());
}

absl::Status Checkpoint::RevealAs(const std::string& hidden_name, const std::string& name) const {
  const int copies = absl::EndsWith(name, ".csv") ? CsvSink::kSameNameMax : 1;
  absl::Status status;
  for (int copy = 0; copy < copies; ++copy) {
    status = RevealPreparedFile(output_, hidden_name, CsvSink::NameOfCopy(name, copy));
    if (!absl::IsAlreadyExists(status)) break;
  }
  return status;
}

}  // namespace ctacct
