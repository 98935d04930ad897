// What was accounted of each living flow at one moment, from the worker that owns the flows to the
// flusher, which writes it down: see checkpoint.h.
//
//   worker:   fills a chunk, pushes it; the last one of a snapshot says so
//   flusher:  takes all chunks that were pushed
//
// Thread safety: IsTaken, IsFull, Push by one worker; Take by one flusher. Memory order: the worker
// shows a chunk by a release exchange of `head_`, which the flusher acquires. Invariant: a chunk
// has one owner, and its snapshots come one after the other.
#ifndef CTACCT_ENGINE_ACCOUNTING_FLOW_SNAPSHOT_H_
#define CTACCT_ENGINE_ACCOUNTING_FLOW_SNAPSHOT_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
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
inline constexpr uint32_t kFlowSuspect = 32;  // Its DESTROY may never come.

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

class SnapshotStream {
 public:
  SnapshotStream() = default;
  ~SnapshotStream() {
    for (Node* node = head_.load(std::memory_order_acquire); node != nullptr;) {
      const std::unique_ptr<Node> owned(node);
      node = node->below;
    }
  }

  SnapshotStream(const SnapshotStream&) = delete;
  SnapshotStream& operator=(const SnapshotStream&) = delete;

  // The flusher has taken all that was pushed.
  bool IsTaken() const { return head_.load(std::memory_order_relaxed) == nullptr; }
  // So much waits for the flusher that more should wait too, if it can: 4 MB.
  bool IsFull() const { return waiting_.load(std::memory_order_relaxed) >= kWaitingMax; }

  void Push(SnapshotChunk chunk) {
    waiting_.fetch_add(1, std::memory_order_relaxed);
    auto* const node = new Node{std::move(chunk), head_.load(std::memory_order_relaxed)};
    while (!head_.compare_exchange_weak(node->below, node, std::memory_order_release,
                                        std::memory_order_relaxed)) {
    }
  }

  // All chunks, oldest first.
  std::vector<SnapshotChunk> Take() {
    std::vector<SnapshotChunk> chunks;
    for (Node* node = head_.exchange(nullptr, std::memory_order_acquire); node != nullptr;) {
      const std::unique_ptr<Node> owned(node);
      chunks.push_back(std::move(owned->chunk));
      node = owned->below;
    }
    waiting_.fetch_sub(chunks.size(), std::memory_order_relaxed);
    return {std::make_move_iterator(chunks.rbegin()), std::make_move_iterator(chunks.rend())};
  }

 private:
  static constexpr size_t kWaitingMax = 16;

  struct Node {
    SnapshotChunk chunk;
    Node* below;  // Pushed before this one.
  };
  std::atomic<Node*> head_{nullptr};
  std::atomic<size_t> waiting_{0};  // Chunks; a moment ahead of head_.
};

}  // namespace ctacct

#endif  // CTACCT_ENGINE_ACCOUNTING_FLOW_SNAPSHOT_H_
