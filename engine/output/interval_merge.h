// The tables of all workers for one interval -> the interval's rows.
//
// The workers' sums are added, so that a key appears once. An interval is complete when each worker
// has sealed it or a later one: a worker that found no spare table brings its part with its next
// table. Of too many rows the largest are kept and the others are summed by origin: see
// row_limit.h. At most half of the rows are such sums, of the largest origins; all others are one
// row. An origin of which one row would be folded keeps that row.
//
// Whatever the clock showed and the kernel or a capture claimed: an interval is within the bounds
// of files (engine/rows/bounds.h). If counters are cut for that, it is partial.
//
// Workers report how the number of open connections changed. The numbers themselves are kept here
// from interval to interval, by the real port, and shown by the port list of the moment.
//
// Thread-compatible: belongs to the flusher's thread.
#ifndef CTACCT_ENGINE_OUTPUT_INTERVAL_MERGE_H_
#define CTACCT_ENGINE_OUTPUT_INTERVAL_MERGE_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "engine/accounting/accounting_table.h"
#include "engine/accounting/port_list.h"
#include "engine/accounting/row_limit.h"
#include "engine/rows/gap.h"
#include "engine/rows/traffic_row.h"
#include "engine/system/partwise_allocator.h"

namespace ctacct {

// One interval's rows, in no particular order.
struct IntervalRows {
  int64_t end_ns = 0;
  uint64_t seal = 0;      // How many intervals had ended, this one included.
  uint64_t sequence = 0;  // From 1, of the intervals that are written.
  int64_t created_ns = 0;
  // What was observed, since the Unix epoch: the rows contain what moved between these moments.
  int64_t covered_from_ns = 0;
  int64_t covered_to_ns = 0;
  Completeness completeness = Completeness::kComplete;
  uint64_t events_dropped = 0;
  uint64_t ports_checksum = 0;  // Of the port list in force; 0: none.
  std::vector<Gap> gaps;
  PartwiseVector<TrafficRow> rows;
};

class IntervalMerge {
 public:
  // `ports`: not owned; nullptr: open connections are shown by every port.
  IntervalMerge(bool track_open, size_t rows_max, int64_t interval_ns, const CurrentPortList* ports)
      : track_open_(track_open), rows_max_(rows_max), interval_ns_(interval_ns), ports_(ports) {}

  // Takes the tables that are sealed and gives them back cleared. `handoffs`: those of all workers,
  // the same in each call.
  void Take(const std::vector<AccountingHandoff*>& handoffs);
  // The oldest interval, if it is complete.
  [[nodiscard]] std::optional<IntervalRows> Next();

  // The last interval that each worker has sealed; later ones are not complete.
  uint64_t sealed_by_all() const { return sealed_by_all_; }
  // Into other rows, also by the workers. One that grew again and was folded again counts twice.
  uint64_t rows_folded() const { return rows_folded_; }
  // As of each worker's last table.
  const std::vector<WorkerCounts>& worker_counts() const { return worker_counts_; }
  const std::vector<uint64_t>& worker_flows() const { return worker_flows_; }

 private:
  template <typename Address>
  using OpenConnections = absl::flat_hash_map<BasicAccountingKey<Address>, int64_t>;

  template <typename Address>
  struct Candidate;

  // Adds a worker's table to its interval. The table's contents are unspecified afterwards.
  void Add(AccountingTable* table);
  IntervalRows RowsOf(const AccountingTable& table);
  template <typename Address>
  static PartwiseVector<Candidate<Address>> CandidatesOf(const FamilyRows<Address>& table,
                                                         const OpenConnections<Address>& open);
  // Adds the rows of a family, at most rows_max.
  template <typename Address>
  void AddRowsOf(const FamilyRows<Address>& table, PartwiseVector<Candidate<Address>> rows,
                 size_t rows_max, IntervalRows* interval);
  // The same where `rows` are too many, or workers have folded some.
  template <typename Address>
  void Fold(const FamilyRows<Address>& table, PartwiseVector<Candidate<Address>> rows,
            size_t rows_max, IntervalRows* interval);
  // All within the bounds of files (engine/rows/bounds.h), but for the rows.
  IntervalRows WithoutRows(const AccountingTable& table) const;
  std::shared_ptr<const PortList> PortsInForce() const;  // nullptr: none.
  // Connections open at the end of the table's interval, by listed port.
  // `all`: by unlisted port, and brought up to date.
  template <typename Address>
  OpenConnections<Address> UpdateOpen(const FamilyRows<Address>& table,
                                      OpenConnections<Address>* all);

  const bool track_open_;
  const size_t rows_max_;
  const int64_t interval_ns_;
  const CurrentPortList* const ports_;
  std::map<uint64_t, AccountingTable> merging_;  // By seal.
  AccountingTable used_;          // Was merged and is done with; kept for its memory.
  std::vector<uint64_t> sealed_;  // Per worker: the seal of its last table.
  uint64_t sealed_by_all_ = 0;
  // At the end of the last interval, by unlisted port.
  OpenConnections<Ipv4Address> open_;
  OpenConnections<Ipv6Address> ipv6_open_;
  uint64_t rows_folded_ = 0;
  std::vector<WorkerCounts> worker_counts_;
  std::vector<uint64_t> worker_flows_;
};

}  // namespace ctacct

#endif  // CTACCT_ENGINE_OUTPUT_INTERVAL_MERGE_H_
