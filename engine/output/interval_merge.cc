#include "engine/output/interval_merge.h"

#include <algorithm>
#include <cstring>
#include <tuple>
#include <type_traits>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "engine/rows/bounds.h"
#include "engine/spool/spool_format.h"
#include "engine/system/check.h"

namespace ctacct {
namespace {

template <typename Address>
TrafficRow RowOf(const BasicAccountingKey<Address>& key, const TrafficSums& sums, uint64_t open,
                 int64_t end_ns) {
  TrafficRow row;
  row.family = std::is_same_v<Address, Ipv4Address> ? AddressFamily::kIpv4 : AddressFamily::kIpv6;
  row.time_ns = end_ns;
  row.protocol = static_cast<uint8_t>(key.protocol);
  row.port = key.port;
  std::memcpy(row.src.data(), &key.src, sizeof(key.src));
  std::memcpy(row.dst.data(), &key.dst, sizeof(key.dst));
  row.packets_src = sums.original.packets;
  row.packets_dst = sums.reply.packets;
  row.bytes_src = sums.original.bytes;
  row.bytes_dst = sums.reply.bytes;
  row.connection_count = sums.connection_count;
  row.connection_time_ms = sums.connection_time_us / 1000;
  row.open_connections = open;
  row.flow_count = sums.flow_count;
  row.unanswered_count = sums.unanswered_count;
  return row;
}

template <typename Address>
void AddRows(const FamilyRows<Address>& from, FamilyRows<Address>* to) {
  from.rows.ForEach([&](const auto& row) { to->rows[row.first].Add(row.second); });
  from.folded.ForEach([&](const auto& origin) { to->folded[origin.first].Add(origin.second); });
  from.open_changes.ForEach(
      [&](const auto& change) { to->open_changes[change.first] += change.second; });
  to->other.Add(from.other);
  to->rows_folded += from.rows_folded;
}

}  // namespace

// A row to be: sums, open connections, or both; or an origin's sums of what a worker has folded.
template <typename Address>
struct IntervalMerge::Candidate {
  using Key = BasicAccountingKey<Address>;

  const Key* row_key;
  const typename decltype(FamilyRows<Address>::rows)::Entry* moved;
  const std::pair<const Key, int64_t>* open;

  const Key& key() const { return *row_key; }
  TrafficSums sums() const { return moved != nullptr ? moved->second : TrafficSums(); }
  uint64_t open_count() const {
    return open != nullptr ? static_cast<uint64_t>(std::max<int64_t>(open->second, 0)) : 0;
  }
  bool is_folded() const { return key() == FoldedKey(key().src); }
  uint64_t size() const { return moved != nullptr ? RowBytes(moved->second) : 0; }
  // The largest first; those without traffic are the smallest. Of equally large ones the keys
  // decide, so that the same sums give the same rows.
  auto Rank() const {
    const uint64_t rank = moved != nullptr ? size() : open_count();
    return std::make_tuple(moved == nullptr, ~rank, key().src, key().dst, key().protocol,
                           key().port);
  }
  TrafficRow Row(int64_t end_ns) const { return RowOf(key(), sums(), open_count(), end_ns); }
};

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
  AddRows(static_cast<const FamilyRows<Ipv4Address>&>(*table), &merged);
  AddRows(table->ipv6, &merged.ipv6);
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
}

std::optional<IntervalRows> IntervalMerge::Next() {
  const auto oldest = merging_.begin();
  if (oldest == merging_.end() || oldest->first > sealed_by_all_) return std::nullopt;
  std::optional<IntervalRows> rows = RowsOf(oldest->second);
  used_ = std::move(oldest->second);
  merging_.erase(oldest);
  return rows;
}

template <typename Address>
IntervalMerge::OpenConnections<Address> IntervalMerge::UpdateOpen(const FamilyRows<Address>& table,
                                                                  OpenConnections<Address>* all) {
  OpenConnections<Address> open;
  if (!track_open_) return open;
  table.open_changes.ForEach([&](const auto& change) {
    const auto it = all->try_emplace(change.first, 0).first;
    it->second += change.second;
    if (it->second == 0) all->erase(it);
  });
  const std::shared_ptr<const PortList> ports = PortsInForce();
  for (const auto& [key, count] : *all) {
    BasicAccountingKey<Address> listed = key;
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

template <typename Address>
PartwiseVector<IntervalMerge::Candidate<Address>> IntervalMerge::CandidatesOf(
    const FamilyRows<Address>& table, const OpenConnections<Address>& open) {
  PartwiseVector<Candidate<Address>> candidates;
  candidates.reserve(table.rows.size());
  table.rows.ForEach([&](const auto& moved) {
    const auto it = open.empty() ? open.end() : open.find(moved.first);
    candidates.push_back({&moved.first, &moved, it == open.end() ? nullptr : &*it});
  });
  for (const auto& of_key : open) {
    if (table.rows.Find(of_key.first) == nullptr)
      candidates.push_back({&of_key.first, nullptr, &of_key});
  }
  return candidates;
}

IntervalRows IntervalMerge::RowsOf(const AccountingTable& table) {
  IntervalRows interval = WithoutRows(table);
  const auto open4 = UpdateOpen<Ipv4Address>(table, &open_);
  const auto open6 = UpdateOpen(table.ipv6, &ipv6_open_);
  auto rows4 = CandidatesOf<Ipv4Address>(table, open4);
  auto rows6 = CandidatesOf(table.ipv6, open6);
  // Each family may have half of the rows, and what the other does not need.
  const auto share = [this](size_t rows, bool folded, size_t other_rows) {
    const size_t half = std::max<size_t>(rows_max_ / 2, 1);
    return folded || rows + other_rows > rows_max_
               ? std::max(half, rows_max_ - std::min(rows_max_, other_rows))
               : rows_max_;
  };
  const size_t others6 = std::max<size_t>(rows6.size(), table.ipv6.rows_folded);
  const size_t others4 = std::max<size_t>(rows4.size(), table.rows_folded);
  const size_t share4 = share(rows4.size(), table.rows_folded != 0, others6);
  const size_t share6 = share(rows6.size(), table.ipv6.rows_folded != 0, others4);
  AddRowsOf<Ipv4Address>(table, std::move(rows4), share4, &interval);
  AddRowsOf(table.ipv6, std::move(rows6), share6, &interval);
  if (FitRows(absl::MakeSpan(interval.rows))) interval.completeness = Completeness::kPartial;
  return interval;
}

template <typename Address>
void IntervalMerge::AddRowsOf(const FamilyRows<Address>& table,
                              PartwiseVector<Candidate<Address>> rows, size_t rows_max,
                              IntervalRows* interval) {
  if (table.rows_folded == 0 && rows.size() <= rows_max) {
    interval->rows.reserve(interval->rows.size() + rows.size());
    for (const Candidate<Address>& row : rows) interval->rows.push_back(row.Row(interval->end_ns));
    return;
  }
  rows_folded_ += table.rows_folded;
  Fold(table, std::move(rows), rows_max, interval);
}

template <typename Address>
void IntervalMerge::Fold(const FamilyRows<Address>& table, PartwiseVector<Candidate<Address>> rows,
                         size_t rows_max, IntervalRows* interval) {
  using Row = Candidate<Address>;
  using Difference = typename PartwiseVector<Row>::difference_type;
  const auto by_rank = [](const Row& a, const Row& b) { return a.Rank() < b.Rank(); };
  const size_t origins_max = rows_max / 2;
  // One place is for what has no origin.
  size_t kept = std::min(rows.size(), rows_max - 1);
  const size_t kept_min = std::min(kept, rows_max - 1 - origins_max);
  const auto end_of_kept = rows.begin() + static_cast<Difference>(kept);
  const auto end_of_sure = rows.begin() + static_cast<Difference>(kept_min);
  if (end_of_kept != rows.end()) std::nth_element(rows.begin(), end_of_kept, rows.end(), by_rank);
  if (end_of_sure != end_of_kept) {
    std::nth_element(rows.begin(), end_of_sure, end_of_kept, by_rank);
    std::sort(end_of_sure, end_of_kept, by_rank);
  }
  // What workers have folded already is folded in any case.
  table.folded.ForEach([&](const auto& entry) { rows.push_back({&entry.first, &entry, nullptr}); });
  // As many of the smallest as leave room for the sums of the origins of all that are folded.
  absl::flat_hash_set<BasicAccountingKey<Address>> origins;
  for (size_t i = kept; i < rows.size() && origins.size() < origins_max; ++i) {
    origins.insert(FoldedKey(rows[i].key().src));
  }
  while (kept > kept_min && kept + origins.size() + 1 > rows_max) {
    --kept;
    if (origins.size() < origins_max) origins.insert(FoldedKey(rows[kept].key().src));
  }
  for (size_t i = 0; i < kept; ++i) interval->rows.push_back(rows[i].Row(interval->end_ns));

  struct Origin {
    size_t first;  // Of `rows`.
    size_t count;
    uint64_t size;
  };
  std::sort(rows.begin() + static_cast<Difference>(kept), rows.end(),
            [](const Row& a, const Row& b) { return a.key().src < b.key().src; });
  std::vector<Origin> folded;
  for (size_t i = kept; i < rows.size(); ++i) {
    if (i == kept || rows[i].key().src != rows[i - 1].key().src) folded.push_back({i, 0, 0});
    ++folded.back().count;
    folded.back().size += rows[i].size();
  }
  const auto largest_end =
      folded.begin() + static_cast<std::ptrdiff_t>(std::min(folded.size(), rows_max - 1 - kept));
  if (largest_end != folded.end()) {
    std::nth_element(folded.begin(), largest_end, folded.end(), [](const auto& a, const auto& b) {
      return std::make_pair(~a.size, a.first) < std::make_pair(~b.size, b.first);
    });
  }
  TrafficSums other = table.other;
  uint64_t other_open = 0;
  const auto add_up = [&](const Origin& origin, TrafficSums* sums, uint64_t* open) {
    for (size_t i = origin.first; i < origin.first + origin.count; ++i) {
      sums->Add(rows[i].sums());
      *open += rows[i].open_count();
      rows_folded_ += static_cast<uint64_t>(!rows[i].is_folded());
    }
  };
  for (auto origin = folded.begin(); origin != largest_end; ++origin) {
    const Row& first = rows[origin->first];
    if (origin->count == 1) {  // Its sum would say less.
      interval->rows.push_back(first.Row(interval->end_ns));
      continue;
    }
    TrafficSums sums;
    uint64_t open = 0;
    add_up(*origin, &sums, &open);
    interval->rows.push_back(RowOf(FoldedKey(first.key().src), sums, open, interval->end_ns));
  }
  for (auto origin = largest_end; origin != folded.end(); ++origin) {
    add_up(*origin, &other, &other_open);
  }
  if (other.IsZero() && other_open == 0) return;
  interval->rows.push_back(RowOf(FoldedKey(Address()), other, other_open, interval->end_ns));
}

}  // namespace ctacct
