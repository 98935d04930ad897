#include "engine/output/interval_merge.h"

#include <algorithm>
#include <cstring>
#include <tuple>
#include <utility>

#include "engine/rows/bounds.h"
#include "engine/spool/spool_format.h"
#include "engine/system/check.h"

namespace ctacct {
namespace {

TrafficRow RowOf(const AccountingKey& key, const TrafficSums& sums, uint64_t open, int64_t end_ns) {
  TrafficRow row;
  row.time_ns = end_ns;
  row.protocol = static_cast<uint8_t>(key.protocol);
  row.port = key.port;
  std::memcpy(row.src.data(), &key.src.network_order, sizeof(key.src.network_order));
  std::memcpy(row.dst.data(), &key.dst.network_order, sizeof(key.dst.network_order));
  row.packets_src = sums.original.packets;
  row.packets_dst = sums.reply.packets;
  row.bytes_src = sums.original.bytes;
  row.bytes_dst = sums.reply.bytes;
  row.connection_count = sums.connection_count;
  row.connection_time_ms = sums.connection_time_us / 1000;
  row.open_connections = open;
  return row;
}

// A row to be: sums, open connections, or both.
struct Candidate {
  const AccountingKey* row_key;
  const decltype(AccountingTable::rows)::Entry* moved;
  const std::pair<const AccountingKey, int64_t>* open;

  const AccountingKey& key() const { return *row_key; }
  TrafficSums sums() const { return moved != nullptr ? moved->second : TrafficSums(); }
  uint64_t open_count() const {
    return open != nullptr ? static_cast<uint64_t>(std::max<int64_t>(open->second, 0)) : 0;
  }
  // The largest first; those without traffic are the smallest. Of equally large ones the keys
  // decide, so that the same sums give the same rows.
  auto Rank() const {
    const uint64_t size = moved != nullptr ? RowBytes(moved->second) : open_count();
    return std::make_tuple(moved == nullptr, ~size, key().src.ToHostOrder(),
                           key().dst.ToHostOrder(), key().protocol, key().port);
  }
};

}  // namespace

void IntervalMerge::Take(const std::vector<AccountingHandoff*>& handoffs) {
  sealed_.resize(handoffs.size());
  worker_counts_.resize(handoffs.size());
  worker_flows_.resize(handoffs.size());
  for (size_t i = 0; i < handoffs.size(); ++i) {
    AccountingTable* const table = handoffs[i]->Take();
    if (table == nullptr) continue;
    CTACCT_CHECK(table->seal > sealed_[i]);
    sealed_[i] = table->seal;
    worker_counts_[i] = table->counts;
    worker_flows_[i] = table->flows;
    Add(table);
    // From here on the rows are kept here; the worker need not wait for the disk.
    handoffs[i]->GiveBack(table);
  }
  sealed_by_all_ = *std::min_element(sealed_.begin(), sealed_.end());
}

void IntervalMerge::Add(AccountingTable* table) {
  const auto [it, first] = merging_.try_emplace(table->seal);
  AccountingTable& merged = it->second;
  if (first) {
    // The worker gets a table that was in use before: GiveBack clears it, and it keeps its memory.
    merged = std::exchange(used_, AccountingTable());
    std::swap(merged, *table);
    return;
  }
  table->rows.ForEach([&](const auto& row) { merged.rows[row.first].Add(row.second); });
  table->open_changes.ForEach(
      [&](const auto& change) { merged.open_changes[change.first] += change.second; });
  merged.covered_from_ns = std::min(merged.covered_from_ns, table->covered_from_ns);
  merged.covered_to_ns = std::max(merged.covered_to_ns, table->covered_to_ns);
  merged.completeness = std::max(merged.completeness, table->completeness);
  merged.events_dropped += table->events_dropped;
  merged.events_unexplained += table->events_unexplained;
  merged.gaps.insert(merged.gaps.end(), table->gaps.begin(), table->gaps.end());
  // Only to stay small: a worker that finds no spare table for hours brings its gaps in one.
  if (merged.gaps.size() > 2 * spool_format::kGapsMax) {
    JoinGaps(spool_format::kGapsMax, &merged.gaps);
  }
  merged.other.Add(table->other);
  merged.rows_folded += table->rows_folded;
}

std::optional<IntervalRows> IntervalMerge::Next() {
  const auto oldest = merging_.begin();
  if (oldest == merging_.end() || oldest->first > sealed_by_all_) return std::nullopt;
  std::optional<IntervalRows> rows = RowsOf(oldest->second);
  used_ = std::move(oldest->second);
  merging_.erase(oldest);
  return rows;
}

IntervalMerge::OpenConnections IntervalMerge::UpdateOpen(const AccountingTable& table) {
  OpenConnections open;
  if (!track_open_) return open;
  table.open_changes.ForEach([&](const auto& change) {
    const auto it = open_.try_emplace(change.first, 0).first;
    it->second += change.second;
    if (it->second == 0) open_.erase(it);
  });
  const std::shared_ptr<const PortList> ports = PortsInForce();
  for (const auto& [key, count] : open_) {
    AccountingKey listed = key;
    if (ports != nullptr &&
        !ports->Contains(static_cast<uint8_t>(key.protocol), static_cast<uint16_t>(key.port))) {
      listed.port = kPortNotListed;
    }
    open[listed] += count;
  }
  return open;
}

std::shared_ptr<const PortList> IntervalMerge::PortsInForce() const {
  return ports_ == nullptr ? nullptr : ports_->Get();
}

IntervalRows IntervalMerge::WithoutRows(const AccountingTable& table) const {
  IntervalRows interval;
  interval.end_ns = FitIntervalEnd(table.interval_end_ns, interval_ns_);
  interval.seal = table.seal;
  interval.covered_from_ns = table.covered_from_ns;
  interval.covered_to_ns = table.covered_to_ns;
  FitCovered(interval.end_ns, &interval.covered_from_ns, &interval.covered_to_ns);
  interval.completeness = table.completeness;
  interval.events_dropped = std::min(table.events_dropped, kSumMax);
  if (const auto ports = PortsInForce(); ports != nullptr) {
    interval.ports_checksum = ports->checksum();
  }
  interval.gaps = table.gaps;
  if (table.events_unexplained != 0) {
    for (Gap& gap : interval.gaps) gap.completeness = Completeness::kPartial;
  }
  JoinGaps(spool_format::kGapsMax, &interval.gaps);
  FitGaps(absl::MakeSpan(interval.gaps));
  // No interval is better than its gaps.
  for (const Gap& gap : interval.gaps) {
    interval.completeness = std::max(interval.completeness, gap.completeness);
  }
  return interval;
}

IntervalRows IntervalMerge::RowsOf(const AccountingTable& table) {
  IntervalRows interval = WithoutRows(table);
  const OpenConnections open = UpdateOpen(table);
  std::vector<Candidate> candidates;
  candidates.reserve(table.rows.size());
  table.rows.ForEach([&](const auto& moved) {
    const auto it = open.empty() ? open.end() : open.find(moved.first);
    candidates.push_back({&moved.first, &moved, it == open.end() ? nullptr : &*it});
  });
  for (const auto& of_key : open) {
    if (table.rows.Find(of_key.first) == nullptr)
      candidates.push_back({&of_key.first, nullptr, &of_key});
  }

  const bool folds = table.rows_folded != 0 || candidates.size() > rows_max_;
  const size_t kept = std::min(candidates.size(), folds ? rows_max_ - 1 : rows_max_);
  const auto kept_end = candidates.begin() + static_cast<std::ptrdiff_t>(kept);
  if (kept_end != candidates.end()) {
    std::nth_element(candidates.begin(), kept_end, candidates.end(),
                     [](const Candidate& a, const Candidate& b) { return a.Rank() < b.Rank(); });
  }
  interval.rows.reserve(kept + 1);
  for (auto row = candidates.begin(); row != kept_end; ++row) {
    interval.rows.push_back(RowOf(row->key(), row->sums(), row->open_count(), interval.end_ns));
  }
  rows_folded_ += table.rows_folded + (candidates.size() - kept);
  if (folds) {
    TrafficSums other = table.other;
    uint64_t other_open = 0;
    for (auto row = kept_end; row != candidates.end(); ++row) {
      other.Add(row->sums());
      other_open += row->open_count();
    }
    interval.rows.push_back(RowOf(kOtherKey, other, other_open, interval.end_ns));
  }
  if (FitRows(absl::MakeSpan(interval.rows))) interval.completeness = Completeness::kPartial;
  return interval;
}

}  // namespace ctacct
