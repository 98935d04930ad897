#include "engine/accounting/row_limit.h"

#include <algorithm>
#include <cassert>

namespace ctacct {
namespace {

template <typename Address>
using Rows = decltype(FamilyRows<Address>::rows);
template <typename Address>
using Origins = decltype(FamilyRows<Address>::folded);
template <typename Address>
using OpenChanges = decltype(FamilyRows<Address>::open_changes);

// A shard's share, and half of it: keys are spread by their hash, so that a table is over the limit
// long before one of its shards is.
template <typename Map>
size_t ShardMax(size_t limit) {
  return (limit + Map::shards() - 1) / Map::shards() * 3 / 2;
}

// Two thirds.
size_t KeptOf(size_t shard_max) { return (shard_max * 2 + 2) / 3; }

}  // namespace

RowLimit::RowLimit(size_t rows_max)
    : rows_max_(rows_max),
      shard_rows_max_(std::max(ShardMax<Rows<Ipv4Address>>(rows_max), kShardRowsMin)),
      shard_rows_kept_(KeptOf(shard_rows_max_)),
      origins_max_(std::max(rows_max / 4, kOriginsMin)) {
  assert(rows_max > 0 && rows_max <= kMax);
}

template <typename Map, typename Fold>
void RowLimit::FoldSmallest(size_t index, size_t kept, Map* map, Fold fold) {
  sizes_.clear();
  map->ForEachInShard(index, [this](const auto& entry) { sizes_.push_back(Size(entry.second)); });
  const auto least_kept = sizes_.begin() + static_cast<std::ptrdiff_t>(sizes_.size() - kept);
  std::nth_element(sizes_.begin(), least_kept, sizes_.end());
  // In a scan most rows are equally small: fold a third of the shard, not all rows of that size.
  auto equals = std::count(sizes_.begin(), least_kept, *least_kept);
  map->EraseIfInShard(index, [&](const auto* entry) {
    const uint64_t size = Size(entry->second);
    if (size > *least_kept || (size == *least_kept && equals-- <= 0)) return false;
    fold(*entry);
    return true;
  });
}

template <typename Address>
void RowLimit::FoldShardOf(size_t key_hash, FamilyRows<Address>* table) {
  const size_t index = Rows<Address>::ShardOf(key_hash);
  if (!IsOver(*table) || table->rows.SizeOfShard(index) <= shard_rows_max_) return;
  const size_t origin_shard_max = ShardMax<Origins<Address>>(origins_max_);
  FoldSmallest(index, shard_rows_kept_, &table->rows, [&](const auto& row) {
    const BasicAccountingKey<Address> origin = FoldedKey(row.first.src);
    const size_t hash = table->folded.Hash(origin);
    table->folded.FindOrAdd(origin, hash).Add(row.second);
    ++table->rows_folded;
    const size_t shard = Origins<Address>::ShardOf(hash);
    if (table->folded.size() <= origins_max_ ||
        table->folded.SizeOfShard(shard) <= origin_shard_max) [[likely]] {
      return;
    }
    origins_to_fold_.push_back(shard);
  });
  for (const size_t shard : origins_to_fold_) {
    if (table->folded.SizeOfShard(shard) <= origin_shard_max) continue;
    FoldSmallest(shard, KeptOf(origin_shard_max), &table->folded,
                 [table](const auto& origin) { table->other.Add(origin.second); });
  }
  origins_to_fold_.clear();
}

template <typename Address>
void RowLimit::NoteOpenChange(FamilyRows<Address>* table) {
  OpenChanges<Address>& changes = table->open_changes;
  if (changes.size() <= rows_max_) return;
  // Sweeps one shard for each half shard of changes: that many may have become zero since.
  if (++open_changes_unswept_ < changes.size() / OpenChanges<Address>::shards() / 2) return;
  open_changes_unswept_ = 0;
  changes.EraseIfInShard(open_changes_shard_,
                         [](const auto* change) { return change->second == 0; });
  open_changes_shard_ = (open_changes_shard_ + 1) % OpenChanges<Address>::shards();
}

template void RowLimit::FoldShardOf(size_t key_hash, FamilyRows<Ipv4Address>* table);
template void RowLimit::FoldShardOf(size_t key_hash, FamilyRows<Ipv6Address>* table);
template void RowLimit::NoteOpenChange(FamilyRows<Ipv4Address>* table);
template void RowLimit::NoteOpenChange(FamilyRows<Ipv6Address>* table);

}  // namespace ctacct
