// Rows and what was accounted of each living flow, made durable in one step: a restart goes on
// exactly where the last file that anybody can see ended, whenever the engine before was killed.
//
// In a folder .ctacct within the output folder (TAG: of the gateway's name, since engines of
// several gateways may share an output folder):
//
//   TAG.lock                      held by the engine that uses the other ones
//   TAG.checkpoint                header, then one FlowRecord for each flow
//   TAG.new                       the next one, being written
//   TAG.ENGINE.SEQUENCE.NAME      a file of rows, durable and not visible yet
//
// An interval ends in four steps: its rows are prepared (durable, hidden); the flows as they were
// when its rows were complete are written to .new; renaming that to .checkpoint is the step that
// counts; the rows get their names. Recover makes good what was cut off: rows up to the
// checkpoint's sequence get their names, later ones are removed, since their traffic is accounted
// anew from the checkpoint.
//
// The checkpoint is not synced to disk. It has to outlive the engine, not the kernel: flows end
// with the kernel that knows them, and after another boot every prepared file is as good as
// published.
//
// If no checkpoint can be written (disk full), the old one is made void before newer rows become
// visible; so it is when flows are accounted that it does not know of (another name of the gateway,
// a recording). A void one only tells up to when all was accounted: a restart then has a gap, and
// nothing is ever counted twice. Where not even that is left, the lock's time tells when an engine
// started last.
//
// Thread-compatible: belongs to the flusher's thread.
#ifndef CTACCT_ENGINE_OUTPUT_CHECKPOINT_H_
#define CTACCT_ENGINE_OUTPUT_CHECKPOINT_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/accounting/flow_snapshot.h"
#include "engine/spool/engine_id.h"
#include "engine/system/unique_fd.h"
#include "xxhash.h"

namespace ctacct {

// The kernel whose flows they are. Of another one a checkpoint tells no more than when it was made.
struct KernelIdentity {
  char boot_id[40] = {};  // /proc/sys/kernel/random/boot_id, zero-filled.
  uint64_t network_namespace = 0;

  friend bool operator==(const KernelIdentity&, const KernelIdentity&) = default;
};
[[nodiscard]] absl::StatusOr<KernelIdentity> ThisKernel();

// What a checkpoint says besides its flows.
struct CheckpointInfo {
  KernelIdentity kernel;
  EngineId engine_id{};
  uint64_t last_sequence = 0;   // Of this engine's files: those up to it are to be seen.
  int64_t interval_end_ns = 0;  // Of the last interval that ended.
  uint64_t rules = 0;           // A checksum of what was accounted: other flows are not in it.
  int64_t taken_ns = 0;         // All was accounted up to then; since the Unix epoch.
  int64_t known_since_ns = 0;   // See FlowTable.
  uint64_t flow_count = 0;
  bool flows_known = true;  // False: void, or damaged. Of the rest, only taken_ns is sure then.
  bool clean = false;       // The engine ended with it, and had read all events.
};

class Checkpoint {
 public:
  // Takes the lock. Unavailable: another engine has it, and has kept it for two seconds.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<Checkpoint>> Open(const std::string& folder,
                                                                        const std::string& gateway);

  // Before anything is written: what the engine before has left. Gives what its checkpoint says to
  // `begin`, and its flows to `flow` if `begin` wants them; else makes it void. Then makes visible,
  // or removes, the files of rows that were out of sight. If no engine was here before, `begin` is
  // not called.
  [[nodiscard]] absl::Status Recover(const std::function<bool(const CheckpointInfo&)>& begin,
                                     const std::function<void(const FlowRecord&)>& flow);
  // Likewise for gateways of other names whose engine does not run: their rows become visible. What
  // they knew of the flows of this kernel is void, since these are accounted here now.
  [[nodiscard]] absl::Status RecoverOthers(const KernelIdentity& kernel) const;

  // How this run's checkpoints begin. The times, last_sequence and flow_count are filled in here.
  void Start(const CheckpointInfo& info, size_t workers);

  // A worker's next chunk.
  void Add(SnapshotChunk chunk);

  enum class State {
    kNone,      // There is no snapshot, or not all of it.
    kComplete,  // Of interval seal().
    kFailed,    // It could not be written: see error().
  };
  State state() const { return state_; }
  uint64_t seal() const { return seal_; }
  const absl::Status& error() const { return error_; }

  // The step that counts: the complete one is valid, and files up to last_sequence are to be made
  // visible. After an error the state is kFailed.
  [[nodiscard]] absl::Status Commit(uint64_t last_sequence, int64_t interval_end_ns);
  // The engine ends with the one that is valid, if any: see CheckpointInfo.
  [[nodiscard]] absl::Status MarkClean();
  // None is valid any more. State kNone.
  [[nodiscard]] absl::Status Discard();
  // Gives up the one that is being written, or complete: its space is needed.
  void GiveWay(const absl::Status& why);

  // Makes the folder .ctacct anew if somebody has removed it.
  void EnsureFolder();
  // Where a file is out of sight, seen from the output folder; and its way from there, under
  // `name`, or the first like it that is free where names may repeat (CSV). NotFound: it is not
  // there.
  std::string HiddenName(uint64_t sequence, const std::string& name) const;
  [[nodiscard]] absl::Status Publish(const std::string& hidden_name, const std::string& name) const;

 private:
  struct HashStateDeleter {
    void operator()(XXH3_state_t* state) const { XXH3_freeState(state); }
  };

  Checkpoint(std::string folder, std::string tag)
      : folder_(std::move(folder)), tag_(std::move(tag)) {}

  std::string Path(absl::string_view end) const;
  absl::StatusOr<std::vector<std::string>> Names() const;
  void BeginFile(uint64_t seal);
  void AddToFile(const SnapshotChunk& chunk);
  void Fail(absl::Status status);
  absl::Status TakeLock(int attempts);
  absl::Status ReadInfo(UniqueFd* file, CheckpointInfo* info) const;
  absl::Status MakeVoid(CheckpointInfo info) const;
  // `valid`: those up to its sequence, and the others are removed if `remove`; nullptr: all.
  absl::Status PublishHidden(const CheckpointInfo* valid, bool remove) const;

  const std::string folder_;
  const std::string tag_;
  UniqueFd lock_;
  int64_t started_before_ns_ = 0;  // When the lock was taken before, since the epoch; 0: never.
  CheckpointInfo info_;
  size_t workers_ = 0;
  int64_t known_until_ns_ = 0;  // taken_ns of the last snapshot that all workers told.
  // The next checkpoint.
  State state_ = State::kNone;
  bool valid_ = false;  // One of this run is in force.
  bool begun_ = false;
  uint64_t seal_ = 0;
  UniqueFd file_;
  size_t workers_done_ = 0;  // Have told all their flows.
  bool whole_ = true;        // No worker left its snapshot out.
  std::unique_ptr<XXH3_state_t, HashStateDeleter> hash_;
  std::vector<SnapshotChunk> later_;  // Of snapshots after it.
  absl::Status error_;
};

}  // namespace ctacct

#endif  // CTACCT_ENGINE_OUTPUT_CHECKPOINT_H_
