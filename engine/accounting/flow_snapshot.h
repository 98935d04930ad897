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
#include <type_traits>
#include <utility>
#include <vector>

#include "netlink/flow_event.h"

namespace ctacct {

// One flow in a checkpoint file. Integers are in the machine's byte order: the file is useless on
// another machine.
template <typename Address>
struct BasicFlowRecord {
  BasicFlowIdentity<Address> identity;
  uint32_t flags = 0;     // Of kFlow...
  int64_t start_ns = 0;   // Since the Unix epoch.
  FlowCounters original;  // Accounted so far.
  FlowCounters reply;
};
using FlowRecord = BasicFlowRecord<Ipv4Address>;
using Ipv6FlowRecord = BasicFlowRecord<Ipv6Address>;
static_assert(sizeof(FlowRecord) == 64);
static_assert(sizeof(Ipv6FlowRecord) == 88);

inline constexpr uint32_t kFlowStartExact = 1;  // start_ns is the kernel's, not a guess.
inline constexpr uint32_t kFlowSeenNew = 2;     // Its NEW was seen.
inline constexpr uint32_t kFlowClosed = 4;      // Its close was counted.
inline constexpr uint32_t kFlowOpen = 8;        // It counts as an open connection.
// Another flow of the same identity has followed; this flow's DESTROY is still to come.
inline constexpr uint32_t kFlowSuperseded = 16;
// It has ended and was accounted in full: it is kept in case its DESTROY is repeated. Only flows
// that began since known_since_ns are kept like this.
inline constexpr uint32_t kFlowEnded = 32;

inline constexpr uint32_t kFlowShown = 64;  // A dump has shown it.

struct SnapshotChunk {
  // A quarter of a megabyte: filled in about 20 microseconds, and a million flows need few of them.
  static constexpr size_t kRecordsMax = 4096;

  uint64_t seal = 0;           // Number of the interval at whose end the snapshot was taken.
  bool last = false;           // Of its snapshot.
  bool whole = true;           // In the last: false if the snapshot was left out.
  int64_t taken_ns = 0;        // Everything up to then was accounted; since the Unix epoch.
  int64_t known_since_ns = 0;  // Flows that started since and are not in the snapshot are new.
  // Of one of the two families.
  std::vector<FlowRecord> records;
  std::vector<Ipv6FlowRecord> ipv6_records;

  template <typename Address>
  std::vector<BasicFlowRecord<Address>>& RecordsOf() {
    if constexpr (std::is_same_v<Address, Ipv4Address>) {
      return records;
    } else {
      return ipv6_records;
    }
  }
};

// The chunks on their way. A mutex is enough: it is taken once for several thousand flows.
class SnapshotStream {
 public:
  // `tables`: the number of tables copied into one snapshot, each with a last chunk. The last of
  // these ends the snapshot.
  explicit SnapshotStream(size_t tables = 1) : tables_(tables) {}

  // The flusher has taken all that was pushed.
  bool IsTaken() const {
    const std::lock_guard lock(mutex_);
    return waiting_.empty();
  }
  // 4 MB wait for the flusher. A worker that can wait pushes no more for now.
  bool IsFull() const {
    const std::lock_guard lock(mutex_);
    return waiting_.size() >= kWaitingMax;
  }
  void Push(SnapshotChunk chunk) {
    const std::lock_guard lock(mutex_);
    if (chunk.last && ++tables_done_ < tables_) {
      chunk.last = false;
    } else if (chunk.last) {
      tables_done_ = 0;
    }
    waiting_.push_back(std::move(chunk));
  }
  // All chunks, oldest first.
  std::vector<SnapshotChunk> Take() {
    const std::lock_guard lock(mutex_);
    return std::exchange(waiting_, {});
  }

 private:
  static constexpr size_t kWaitingMax = 16;

  const size_t tables_;
  mutable std::mutex mutex_;
  size_t tables_done_ = 0;  // Guarded by mutex_, like the next one.
  std::vector<SnapshotChunk> waiting_;
};

}  // namespace ctacct

#endif  // CTACCT_ENGINE_ACCOUNTING_FLOW_SNAPSHOT_H_
