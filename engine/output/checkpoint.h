// Rows and what was accounted of each living flow, made durable in one step: a restart resumes
// exactly where the last visible file of rows ended, at whatever moment the engine was killed.
//
// A file of rows and the flows cannot be written in one system call. So the rows are written first,
// under a hidden name, then the flows; one rename makes both valid. After a crash before that
// rename, the old flows are in force and the hidden rows are removed: their traffic is accounted
// again. After a crash behind it, the new flows are in force and the hidden rows get their names.
//
// An interval ends in four steps:
//
//   prepare   a file of rows is written, durable and hidden            (RowSink::Write)
//   copy      the flows, as they were when the rows were complete, go to checkpoint.new (Add)
//   commit    checkpoint.new becomes checkpoint: the step that counts                (Commit)
//   reveal    the files of rows get their names, in the output folder                (Reveal)
//
// The workers copy their flows while they account further, so the rows of later intervals may be
// prepared before an earlier copy is complete. A commit covers the rows up to its copy's interval.
// At a start, Recover finishes what was cut off: it reveals the rows that the checkpoint covers and
// removes the others.
//
// The checkpoint is not synced to disk. It has to outlive the engine, not the kernel: flows end
// with their kernel, and after another boot every prepared file is revealed.
//
// The state folder belongs to the engine that has its lock. Before each commit, and before rows are
// revealed without one, the engine makes sure that the lock file at the folder's path is still its
// own. If the folder was removed or replaced, another engine may account the same flows: this one
// reveals nothing more and ends, so that nothing is counted twice.
//
// If no checkpoint can be written (disk full), the old one is made void before newer rows are
// revealed (Discard). It is also made void when flows are accounted that it does not know (a
// recording). A void checkpoint only says up to when everything was accounted: a
// restart then has a gap, and nothing is counted twice. If even that is lost, the lock file's time
// says when an engine started last.
//
// Thread-compatible: belongs to the flusher's thread. The files are described in checkpoint_file.h.
#ifndef CTACCT_ENGINE_OUTPUT_CHECKPOINT_H_
#define CTACCT_ENGINE_OUTPUT_CHECKPOINT_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/accounting/flow_snapshot.h"
#include "engine/output/checkpoint_file.h"
#include "engine/system/unique_fd.h"

namespace ctacct {

class Checkpoint {
 public:
  // Makes the state folder if it is missing, and takes its lock. Rows are written to `output`.
  // Unavailable: another engine has the lock, and has kept it for two seconds.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<Checkpoint>> Open(const std::string& state,
                                                                        const std::string& output);

  // Resumes from the engine before; call it before anything is written. Gives what its checkpoint
  // says to `begin`, and its flows to `flow` and `ipv6_flow` if `begin` returns true; otherwise the
  // checkpoint is made void. Then reveals or removes the prepared files of rows. If no engine was
  // here before, `begin` is not called.
  [[nodiscard]] absl::Status Recover(
      const std::function<bool(const CheckpointInfo&)>& begin,
      const std::function<void(const FlowRecord&)>& flow,
      const std::function<void(const Ipv6FlowRecord&)>& ipv6_flow = [](const Ipv6FlowRecord&) {});

  // What the checkpoints of this run have in common. The times, last_sequence and flow_count are
  // filled in here.
  void Start(const CheckpointInfo& info, size_t workers);

  // Copies a worker's next chunk.
  void Add(SnapshotChunk chunk);

  enum class State {
    kNone,      // No copy was begun since the last commit.
    kCopying,   // Some flows of interval seal() are still to come.
    kComplete,  // All flows of interval seal() are copied.
    kFailed,    // They could not be written: see error().
  };
  State state() const { return state_; }
  uint64_t seal() const { return seal_; }
  const absl::Status& error() const { return error_; }

  // FailedPrecondition, from then on: the lock is lost. Any other error: it is not known.
  [[nodiscard]] absl::Status CheckLock();
  bool lock_lost() const { return lock_lost_; }

  // Makes the complete copy the valid checkpoint: files of rows up to last_sequence are to be
  // revealed. After an error the state is kFailed, unless it is CheckLock's.
  [[nodiscard]] absl::Status Commit(uint64_t last_sequence);
  // Marks this run's valid checkpoint, if there is one, as the engine's last: see CheckpointInfo.
  [[nodiscard]] absl::Status MarkClean();
  // Makes the valid checkpoint void, and gives up the copy. Checks the lock first.
  [[nodiscard]] absl::Status Discard();
  // Removes the copy, complete or not, because rows need its space. State kFailed, at once or with
  // the copy's last chunk.
  void GiveUpCopy(const absl::Status& why);

  // Under which hidden name, relative to the output folder, a file of rows is prepared.
  std::string HiddenName(uint64_t sequence, const std::string& name) const;
  // Gives a prepared file its name, or the next that is free where names may repeat (CSV).
  // NotFound: the prepared file is not there.
  [[nodiscard]] absl::Status Reveal(uint64_t sequence, const std::string& name) const;
  // Removes a prepared file, if it is there.
  void RemovePrepared(uint64_t sequence, const std::string& name) const;

 private:
  Checkpoint(std::string state, std::string output, UniqueFd folder, StateLock lock)
      : state_folder_(std::move(state)),
        output_(std::move(output)),
        folder_(std::move(folder)),
        lock_(std::move(lock)) {}

  FileIn File(const char* name) const;
  absl::StatusOr<UniqueFd> Read(CheckpointInfo* info) const;
  void BeginCopy(uint64_t seal);
  void AppendToCopy(const SnapshotChunk& chunk);
  void FailCopy(absl::Status status);
  absl::Status RevealAs(const std::string& hidden_name, const std::string& name) const;
  // Reveals the prepared files that `valid` covers (nullptr: all), and removes the others.
  absl::Status RevealPrepared(const CheckpointInfo* valid) const;

  const std::string state_folder_;
  const std::string output_;
  const UniqueFd folder_;
  const StateLock lock_;
  bool lock_lost_ = false;
  CheckpointInfo info_;
  size_t workers_ = 0;
  int64_t known_until_ns_ = 0;  // taken_ns of the last copy that was complete.
  bool valid_ = false;          // A checkpoint of this run is in force.
  // The copy:
  State state_ = State::kNone;
  uint64_t seal_ = 0;
  std::optional<CheckpointWriter> writer_;
  size_t workers_done_ = 0;           // All their flows are copied.
  bool whole_ = true;                 // No worker left its snapshot out.
  std::vector<SnapshotChunk> later_;  // Of later snapshots.
  absl::Status error_;
};

}  // namespace ctacct

#endif  // CTACCT_ENGINE_OUTPUT_CHECKPOINT_H_
