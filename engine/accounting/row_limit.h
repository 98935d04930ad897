// Keeps the number of rows of an interval bounded, whatever a scan brings: the smallest are folded
// into one row, the "other" row (see IsOtherRow), and no packet or byte is lost.
//
// Two places fold. A worker's table that holds more rows than the limit gives up the smallest
// third of a shard that is well over its share: some thousand rows, a few dozen microseconds, no
// matter how large the table is. And the flusher, which sees the rows of all workers, keeps the
// largest. Size is bytes, of both directions.
//
// A connection's bytes are told later than its close, by a dump or by its end. A worker that folds
// takes them for those of a short connection (kShortConnectionBytes), so that a row which still
// waits for them does not go first.
//
// A row that a worker has folded and that grows again starts anew: it then lacks what was folded,
// which the other row has. Only sums are exact; a row is exact unless it once was among the small
// ones of its shard.
//
// Invariant: a table of at most `rows_max` rows is not touched. So an interval of at most so many
// rows is the same as without a limit, for any number of workers: each may have all of its keys. A
// worker's table holds at most about 1.5 times the limit (or kShardRowsMin rows in each shard, if
// that is more), and folding leaves no less than the limit.
//
// Thread-compatible: each worker has its own.
#ifndef CTACCT_ENGINE_ACCOUNTING_ROW_LIMIT_H_
#define CTACCT_ENGINE_ACCOUNTING_ROW_LIMIT_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/accounting/accounting_table.h"
#include "engine/rows/bounds.h"

namespace ctacct {

// The key of the other row. No flow has it: only protocols with ports have the port -1.
inline constexpr AccountingKey kOtherKey = {
    .src = {}, .dst = {}, .port = kPortNotListed, .protocol = kOtherRowProtocol};

inline uint64_t RowBytes(const TrafficSums& sums) { return sums.original.bytes + sums.reply.bytes; }

class RowLimit {
 public:
  // Rows of an interval, the other row included. The largest interval of any game seen has 117,696.
  static constexpr size_t kDefault = 1'000'000;
  // A shard of a table is then small enough to be folded within a millisecond.
  static constexpr size_t kMax = kSpoolRowsMax;

  explicit RowLimit(size_t rows_max);

  size_t rows_max() const { return rows_max_; }

  // To be asked after each batch: costs nothing while it is false.
  bool IsOver(const AccountingTable& table) const { return table.rows.size() > rows_max_; }
  // Then, for each row that was added to: folds the smallest of its shard, if that has too many.
  void FoldShardOf(size_t key_hash, AccountingTable* table);

  // To be called after each change of `open_changes`. What must be kept are the changes that are
  // not zero: each is that of a connection that is open now or was at the interval's start, so
  // nf_conntrack_max bounds them, and none is ever folded. The others (opened and closed within the
  // interval) are dropped, part by part: beyond `rows_max`, at most as many are left as there are
  // others.
  void NoteOpenChange(AccountingTable* table);

 private:
  static constexpr uint64_t kShortConnectionBytes = 512;
  // Of a shard, whatever the limit: the memory of a table is a page per shard at least.
  static constexpr size_t kShardRowsMin = 64;

  static uint64_t Size(const TrafficSums& sums) {
    return RowBytes(sums) + sums.connection_count * kShortConnectionBytes;
  }

  const size_t rows_max_;
  const size_t shard_rows_max_;
  const size_t shard_rows_kept_;
  std::vector<uint64_t> sizes_;      // Kept for its memory.
  size_t open_changes_unswept_ = 0;  // Changes since the last shard of them was swept.
  size_t open_changes_shard_ = 0;    // The next one.
};

}  // namespace ctacct

#endif  // CTACCT_ENGINE_ACCOUNTING_ROW_LIMIT_H_
