// How much of each living flow was accounted at one moment: from the worker that owns the flows to
// the flusher, which writes a checkpoint of them (engine/output/checkpoint.h).
//
//   worker:   fills chunks and pushes them; the last one of a snapshot says so
//   flusher:  takes all chunks that were pushed
//
// Thread safety: SnapshotStream is thread-safe, with one worker and one flusher. Invariant: a chunk
// has one owner, and a worker's snapshots come one after the other.
#ifndef CTACCT_ENGINE_ACCOUNTING_FLOW_SNAPSHOT_H_
#define CTACCT_ENGINE_ACCOUNTING_FLOW_SNAPSHOT_H_

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <utility>
#include <vector>

#include "netlink/flow_event.h"

namespace ctacct {

// One flow, as it lies in a checkpoint file. Integers as the machine has them: the file is of no
// use to any other.
struct FlowRecord {
  FlowIdentity identity;
  uint32_t flags = 0;     // Of kFlow...
  int64_t start_ns = 0;   // Since the Unix epoch.
  FlowCounters original;  // Accounted so far.
  FlowCounters reply;
};
static_assert(sizeof(FlowRecord) == 64);

inline constexpr uint32_t kFlowStartExact = 1;  // start_ns is the kernel's, not a guess.
inline constexpr uint32_t kFlowSeenNew = 2;     // Its NEW was seen.
inline constexpr uint32_t kFlowClosed = 4;      // Its close was counted.
inline constexpr uint32_t kFlowOpen = 8;        // It counts as an open connection.
// Another of the same identity has followed; its DESTROY is to come.
inline constexpr uint32_t kFlowSuperseded = 16;
// It has ended, and was accounted in full: for a DESTROY that is repeated. Of such flows there are
// those that began since known_since_ns.
inline constexpr uint32_t kFlowEnded = 32;

inline constexpr uint32_t kFlowShown = 64;  // A dump has shown it.

struct SnapshotChunk {
  // A quarter of a megabyte: filled in some 20 microseconds, and few of them for a million flows.
  static constexpr size_t kRecordsMax = 4096;

  uint64_t seal = 0;           // The interval's number that the snapshot was taken at the end of.
  bool last = false;           // Of its snapshot.
  bool whole = true;           // In the last: false if the snapshot was left out.
  int64_t taken_ns = 0;        // Everything up to then was accounted; since the Unix epoch.
  int64_t known_since_ns = 0;  // Flows that started since and are not in the snapshot are new.
  std::vector<FlowRecord> records;
};

// The chunks on their way. A mutex is enough: it is taken once for some thousand flows.
class SnapshotStream {
 public:
  // The flusher has taken all that was pushed.
  bool IsTaken() const {
    const std::lock_guard lock(mutex_);
    return waiting_.empty();
  }
  // 4 MB wait for the flusher. A worker that is in no hurry pushes no more for now.
  bool IsFull() const {
    const std::lock_guard lock(mutex_);
    return waiting_.size() >= kWaitingMax;
  }
  void Push(SnapshotChunk chunk) {
    const std::lock_guard lock(mutex_);
    waiting_.push_back(std::move(chunk));
  }
  // All chunks, oldest first.
  std::vector<SnapshotChunk> Take() {
    const std::lock_guard lock(mutex_);
    return std::exchange(waiting_, {});
  }

 private:
  static constexpr size_t kWaitingMax = 16;

  mutable std::mutex mutex_;
  std::vector<SnapshotChunk> waiting_;  // Guarded by mutex_.
};

}  // namespace ctacct

#endif  // CTACCT_ENGINE_ACCOUNTING_FLOW_SNAPSHOT_H_
