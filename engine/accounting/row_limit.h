// Keeps the number of rows of an interval bounded, whatever a scan brings: the smallest rows are
// folded into one row for each origin (see IsOtherRow), and no packet, byte or flow is lost. So the
// traffic of a host that scans a network is still known. If there are very many origins as well,
// the smallest of these sums are folded into one row without an origin.
//
// Two places fold. A worker's table that has more rows than the limit gives up the smallest third
// of a shard that is well over its share: about a thousand rows in a few dozen microseconds,
// however large the table is. The worker keeps a sum for each of at least OriginsMax() origins;
// beyond that, the smallest third of a shard of these sums is folded as well. The flusher, which
// sees the rows of all workers, keeps the largest rows, and the largest origins of what it folds
// (engine/output/interval_merge.h). Size is bytes in both directions.
//
// A connection's bytes are reported later than its close, by a dump or by its end. Until then a
// worker that folds assumes those of a short connection (kShortConnectionBytes), so that a row that
// still waits for them is not folded first.
//
// A row that was folded by a worker and grows again starts at 0: what was folded is in its origin's
// sum. Only sums are exact; a row is exact unless it was once among the small ones of its shard.
//
// Invariant: a table of at most `rows_max` rows is not touched. So an interval with at most
// `rows_max` rows is the same as without a limit, for any number of workers: each worker may have
// all of the keys. A worker's table holds at most about 1.5 times the limit (or kShardRowsMin rows
// in each shard, if that is more), and folding leaves at least the limit.
//
// Each family has a limit of its own in a worker; they share that of the interval. A row is of one
// family: with a limit of 1 an interval with traffic of both has two.
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

// The key of what was folded of an origin's rows, or, if that is zero, of many origins'. No flow
// has it: only protocols with ports have the port -1.
template <typename Address>
constexpr BasicAccountingKey<Address> FoldedKey(const Address& origin) {
  return {.src = origin, .dst = {}, .port = kPortNotListed, .protocol = kOtherRowProtocol};
}

inline uint64_t RowBytes(const TrafficSums& sums) { return sums.original.bytes + sums.reply.bytes; }

class RowLimit {
 public:
  // Rows of an interval, the other row included. The largest interval of any game seen has 117,696.
  static constexpr size_t kDefault = 1'000'000;
  // A shard of a table is then small enough to be folded within a millisecond.
  static constexpr size_t kMax = kSpoolRowsMax;

  explicit RowLimit(size_t rows_max);

  size_t rows_max() const { return rows_max_; }
  // While a worker folds rows of no more origins than this, the sum of each origin is exact.
  size_t OriginsMax() const { return origins_max_; }

  // To be asked after each batch: costs nothing while it is false.
  template <typename Address>
  bool IsOver(const FamilyRows<Address>& table) const {
    return table.rows.size() > rows_max_;
  }
  // Then, for each row that was added to: folds the smallest of its shard, if that has too many.
  template <typename Address>
  void FoldShardOf(size_t key_hash, FamilyRows<Address>* table);

  // To be called after each change of `open_changes`. What must be kept are the changes that are
  // not zero: each is that of a connection that is open now or was at the interval's start, so
  // nf_conntrack_max bounds them, and none is ever folded. The others (opened and closed within the
  // interval) are dropped, part by part: beyond `rows_max`, at most as many are left as there are
  // others.
  template <typename Address>
  void NoteOpenChange(FamilyRows<Address>* table);

 private:
  static constexpr uint64_t kShortConnectionBytes = 512;
  // Of a shard, whatever the limit: the memory of a table is a page per shard at least.
  static constexpr size_t kShardRowsMin = 64;

  static constexpr size_t kOriginsMin = 1 << 16;  // 5 MB.

  // Erases the smallest entries of a shard until `kept` are left, and gives each to `fold` first.
  template <typename Map, typename Fold>
  void FoldSmallest(size_t index, size_t kept, Map* map, Fold fold);

  static uint64_t Size(const TrafficSums& sums) {
    return RowBytes(sums) + sums.connection_count * kShortConnectionBytes;
  }

  const size_t rows_max_;
  const size_t shard_rows_max_;
  const size_t shard_rows_kept_;
  const size_t origins_max_;
  std::vector<uint64_t> sizes_;          // Kept for its memory, like the next one.
  std::vector<size_t> origins_to_fold_;  // Shards.
  size_t open_changes_unswept_ = 0;      // Changes since the last shard of them was swept.
  size_t open_changes_shard_ = 0;        // The next one.
};

}  // namespace ctacct

#endif  // CTACCT_ENGINE_ACCOUNTING_ROW_LIMIT_H_
