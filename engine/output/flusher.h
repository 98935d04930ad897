// Sealed tables -> rows -> files, standard output, pipe. Runs on the timer thread (main's), never
// on a worker's.
//
// The tables of all workers for one interval are merged, so that a key appears once. An interval is
// written when each worker has sealed it, or a later one: a worker that found no spare table brings
// its part with its next.
//
// With a checkpoint, rows become visible together with it: see checkpoint.h. They wait for the
// snapshot of the flows, which workers make while they go on.
//
// Rows leave memory only once they are where they were asked to be: if a write fails (disk full,
// folder gone) they wait and are tried again, in order. The backlog is bounded: when it is full,
// sealed tables are no longer taken, and the worker goes on adding to its live one; then intervals
// are merged, and still nothing is lost.
//
// Thread-compatible: one thread owns it.
#ifndef CTACCT_ENGINE_OUTPUT_FLUSHER_H_
#define CTACCT_ENGINE_OUTPUT_FLUSHER_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "engine/accounting/accounting_table.h"
#include "engine/accounting/flow_snapshot.h"
#include "engine/accounting/port_list.h"
#include "engine/accounting/row_limit.h"
#include "engine/metrics.h"
#include "engine/output/checkpoint.h"
#include "engine/output/pipe_writer.h"
#include "engine/rows/gap.h"
#include "engine/rows/influx_line.h"
#include "engine/rows/traffic_row.h"
#include "engine/spool/spool_header.h"

namespace ctacct {

// One interval's rows, in no particular order.
struct IntervalRows {
  int64_t end_ns = 0;
  uint64_t seal = 0;      // How many intervals had ended, this one included.
  uint64_t sequence = 0;  // From 1, of those that are written.
  int64_t created_ns = 0;
  Completeness completeness = Completeness::kComplete;
  uint64_t events_dropped = 0;
  std::vector<Gap> gaps;
  std::vector<TrafficRow> rows;
};

// Where rows go.
struct RowSink {
  // Called again with the same rows after an error. An interval without rows comes too, if it has a
  // gap. `hidden_name`: the file's for now, until it is published; empty: its own.
  std::function<absl::Status(const IntervalRows&, const std::string& hidden_name)> write;
  // Of an interval's file; empty if it gets none.
  std::function<std::string(const IntervalRows&)> file_name;
};

// Spool files in `folder`; `header` gives what all files of this run share.
[[nodiscard]] RowSink SpoolSink(std::string folder, SpoolHeader header);
// traffic_2006-01-02T15_04_05.csv files in `folder`, named by the interval's end, UTC.
[[nodiscard]] RowSink CsvSink(std::string folder, bool track_open);
// Gives up when `cancel_fd` becomes readable while nobody reads. After an error part of the rows
// may have been written: not to be called again.
[[nodiscard]] RowSink StandardOutputSink(bool track_open, int cancel_fd);

class Flusher {
 public:
  // 100 bytes each; an interval of the largest game seen has 117,696.
  static constexpr size_t kWaitingRowsMax = 4 << 20;

  struct Options {
    bool track_open = false;
    size_t rows_max = RowLimit::kDefault;  // Of an interval: the largest; see RowLimit.
    bool wait_for_pipe = false;  // In a replay: give a reader of the pipe time to keep up.
    RowSink sink;                // May be empty if there is a pipe.
    PipeWriter* pipe = nullptr;  // Not owned; may be nullptr.
    std::optional<InfluxLineEncoder> influx;  // Of the pipe's lines; none: CSV.
    const CurrentPortList* ports = nullptr;
    // Of files of rows; nullptr: none. Started, with one stream for each worker.
    Checkpoint* checkpoint = nullptr;
    std::vector<SnapshotStream*> snapshots;
    std::function<void(const std::string&)> log;  // One line of trouble.
    size_t waiting_rows_max = kWaitingRowsMax;
  };
  explicit Flusher(Options options) : options_(std::move(options)) {}

  // Takes the sealed tables, if there are any and the backlog has room (or `last`), gives them back
  // cleared, and writes what it can. `handoffs`: those of all workers, the same in each call. An
  // error is that of the oldest interval that could not be written.
  absl::Status Flush(const std::vector<AccountingHandoff*>& handoffs, bool last);

  // After the last Flush, when nothing can follow: what still waits for a checkpoint becomes
  // visible. `clean`: all events were read.
  absl::Status Finish(const std::vector<AccountingHandoff*>& handoffs, bool clean);

  size_t rows_waiting() const { return rows_waiting_; }
  uint64_t rows_written() const { return rows_written_; }
  uint64_t last_interval_rows() const { return last_interval_rows_; }
  uint64_t intervals_written() const { return intervals_written_; }
  // Into other rows, also by the workers. One that grew again and was folded again counts twice.
  uint64_t rows_folded() const { return rows_folded_; }
  const IntervalTotals& intervals() const { return intervals_; }
  // What each worker last brought.
  const std::vector<WorkerCounts>& worker_counts() const { return worker_counts_; }
  const std::vector<uint64_t>& worker_flows() const { return worker_flows_; }

 private:
  using OpenConnections = absl::flat_hash_map<AccountingKey, int64_t>;

  // Adds a worker's table to what is known of its interval. What is in it then is of no use.
  void Merge(AccountingTable* table);
  void Emit(const AccountingTable& table);
  IntervalRows TakeRows(const AccountingTable& table);
  // Connections open at the end of the interval, by listed port.
  OpenConnections TakeOpen(const AccountingTable& table);
  void OfferToPipe(const IntervalRows& interval);
  absl::Status WriteWaiting();
  absl::Status CommitPrepared();
  absl::Status GiveUpCheckpoint();
  absl::Status PublishPrepared();
  void Written();

  const Options options_;
  std::map<uint64_t, AccountingTable> merging_;  // By seal.
  AccountingTable written_out_;                  // Done with; its memory is worth keeping.
  std::vector<uint64_t> sealed_;                 // Per worker: the last seal that came.
  uint64_t emitted_seal_ = 0;
  int64_t ended_ns_ = 0;               // That interval's end.
  std::vector<SnapshotChunk> chunks_;  // Of snapshots whose tables are still to be taken.
  bool gave_up_ = false;               // It was told that there is no checkpoint.
  uint64_t sequence_ = 0;              // The last one given.
  // With a checkpoint: how many of waiting_ are prepared, and the seal up to which they are to be
  // made visible.
  size_t prepared_ = 0;
  uint64_t visible_seal_ = 0;
  // Connections open at the end of the last interval taken, by unlisted port.
  OpenConnections open_;
  std::deque<IntervalRows> waiting_;
  size_t rows_waiting_ = 0;
  uint64_t rows_written_ = 0;
  uint64_t last_interval_rows_ = 0;
  uint64_t intervals_written_ = 0;
  uint64_t rows_folded_ = 0;
  IntervalTotals intervals_;
  std::vector<WorkerCounts> worker_counts_;
  std::vector<uint64_t> worker_flows_;
};

}  // namespace ctacct

#endif  // CTACCT_ENGINE_OUTPUT_FLUSHER_H_
