#include "engine/accounting/row_limit.h"

#include <algorithm>
#include <cassert>

namespace ctacct {
namespace {

using Rows = decltype(AccountingTable::rows);
using OpenChanges = decltype(AccountingTable::open_changes);

// A shard's share, and half of it: keys are spread by their hash, so that a table is over the limit
// long before one of its shards is.
size_t ShardRowsMax(size_t rows_max) {
  return (rows_max + Rows::shards() - 1) / Rows::shards() * 3 / 2;
}

}  // namespace

RowLimit::RowLimit(size_t rows_max)
    : rows_max_(rows_max),
      shard_rows_max_(std::max(ShardRowsMax(rows_max), kShardRowsMin)),
      shard_rows_kept_((shard_rows_max_ * 2 + 2) / 3) {
  assert(rows_max > 0 && rows_max <= kMax);
}

void RowLimit::FoldShardOf(size_t key_hash, AccountingTable* table) {
  const size_t index = Rows::ShardOf(key_hash);
  if (!IsOver(*table) || table->rows.SizeOfShard(index) <= shard_rows_max_) return;
  sizes_.clear();
  table->rows.EraseIfInShard(index, [this](const Rows::Entry* row) {
    sizes_.push_back(Size(row->second));
    return false;
  });
  const auto least_kept =
      sizes_.begin() + static_cast<std::ptrdiff_t>(sizes_.size() - shard_rows_kept_);
  std::nth_element(sizes_.begin(), least_kept, sizes_.end());
  // In a scan most rows are equally small: a third of the shard goes, not all that are so small.
  auto equals = std::count(sizes_.begin(), least_kept, *least_kept);
  table->rows.EraseIfInShard(index, [&](const Rows::Entry* row) {
    const uint64_t size = Size(row->second);
    if (size > *least_kept || (size == *least_kept && equals-- <= 0)) return false;
    table->other.Add(row->second);
    ++table->rows_folded;
    return true;
  });
}

void RowLimit::NoteOpenChange(AccountingTable* table) {
  OpenChanges& changes = table->open_changes;
  if (changes.size() <= rows_max_) return;
  // A shard for every half of a shard that may have become zero since.
  if (++open_changes_unswept_ < changes.size() / OpenChanges::shards() / 2) return;
  open_changes_unswept_ = 0;
  changes.EraseIfInShard(open_changes_shard_,
                         [](const OpenChanges::Entry* change) { return change->second == 0; });
  open_changes_shard_ = (open_changes_shard_ + 1) % OpenChanges::shards();
}

}  // namespace ctacct
