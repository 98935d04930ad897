// Sealed tables -> rows -> files, standard output, pipe. Runs on the timer thread (main's), never
// on a worker's.
//
// IntervalMerge makes one interval's rows of the workers' tables. They wait here until they are
// written, in order. With a checkpoint they are prepared, and wait until they can be revealed
// together with a copy of the flows: the steps are those of checkpoint.h.
//
// Rows leave memory only once they are where they should be: if a write fails (disk full, folder
// gone), it is tried again with the next Flush. The backlog is bounded: when it is full, sealed
// tables are no longer taken, and the worker keeps adding to its live one; then intervals are
// merged, and still nothing is lost.
//
// Thread-compatible: one thread owns it.
#ifndef CTACCT_ENGINE_OUTPUT_FLUSHER_H_
#define CTACCT_ENGINE_OUTPUT_FLUSHER_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "engine/accounting/accounting_table.h"
#include "engine/accounting/flow_snapshot.h"
#include "engine/accounting/port_list.h"
#include "engine/accounting/row_limit.h"
#include "engine/output/checkpoint.h"
#include "engine/output/interval_merge.h"
#include "engine/output/interval_totals.h"
#include "engine/output/pipe_writer.h"
#include "engine/output/row_sink.h"
#include "engine/rows/bounds.h"
#include "engine/rows/influx_line.h"

namespace ctacct {

class Flusher {
 public:
  // 100 bytes each; an interval of the largest game seen has 117,696.
  static constexpr size_t kWaitingRowsMax = 4 << 20;
  // Intervals without rows also wait: 17 days of them, 15 seconds each, take 20 MB.
  static constexpr size_t kWaitingIntervalsMax = 100'000;
  // Intervals passed over at once: a day of 15 seconds each. More: the clock was set.
  static constexpr int64_t kPassedOverMax = 5760;

  // Pointers are not owned, and may be nullptr.
  struct Options {
    bool track_open = false;
    size_t rows_max = RowLimit::kDefault;  // Of an interval: the largest; see RowLimit.
    int64_t interval_ns = kIntervalUnitNs;
    bool wait_for_pipe = false;  // In a replay: give a reader of the pipe time to keep up.
    // Live: intervals that were passed over, because the machine or the engine stood still or a
    // dump took longer than one, are written too, without rows. Silence would mean that no engine
    // ran. (In a replay the times of a hostile capture would decide how many files there are.)
    bool passed_over = false;
    RowSink* sink = nullptr;
    PipeWriter* pipe = nullptr;
    std::optional<InfluxLineEncoder> influx;  // Of the pipe's lines; none: CSV.
    const CurrentPortList* ports = nullptr;
    // Started, with one stream for each worker. The sink must write files.
    Checkpoint* checkpoint = nullptr;
    std::vector<SnapshotStream*> snapshots;
    std::function<void(const std::string&)> log;  // One line of trouble.
    size_t waiting_rows_max = kWaitingRowsMax;
    size_t waiting_intervals_max = kWaitingIntervalsMax;
  };
  explicit Flusher(Options options)
      : options_(std::move(options)),
        merge_(options_.track_open, options_.rows_max, options_.interval_ns, options_.ports) {}

  // Takes the sealed tables, if there are any and the backlog has room (or `last`), gives them back
  // cleared, and writes what it can. `handoffs`: those of all workers, the same in each call. An
  // error is that of the oldest interval that could not be written.
  [[nodiscard]] absl::Status Flush(const std::vector<AccountingHandoff*>& handoffs, bool last);

  // The last Flush: rows that still wait for a copy of the flows are revealed without one. `clean`:
  // all events were read.
  [[nodiscard]] absl::Status Finish(const std::vector<AccountingHandoff*>& handoffs, bool clean);

  size_t rows_waiting() const { return rows_waiting_; }
  uint64_t rows_written() const { return rows_written_; }
  uint64_t last_interval_rows() const { return last_interval_rows_; }
  uint64_t intervals_written() const { return intervals_written_; }
  const IntervalTotals& intervals() const { return intervals_; }
  // The state folder is another engine's now, or may be: nothing is revealed any more, and the run
  // must end. Flush says why.
  bool lost_state() const {
    return options_.checkpoint != nullptr && options_.checkpoint->lock_lost();
  }
  // See IntervalMerge.
  uint64_t rows_folded() const { return merge_.rows_folded(); }
  const std::vector<WorkerCounts>& worker_counts() const { return merge_.worker_counts(); }
  const std::vector<uint64_t>& worker_flows() const { return merge_.worker_flows(); }

 private:
  bool HasRoom() const {
    return rows_waiting_ < options_.waiting_rows_max &&
           waiting_.size() < options_.waiting_intervals_max;
  }
  void AddInterval(IntervalRows interval);
  // What came between the interval before and `next`.
  void AddPassedOver(const IntervalRows& next);
  absl::Status WriteWaiting();
  absl::Status CommitAndReveal();
  absl::Status RevealWithoutCheckpoint();
  // Reveals the prepared intervals up to reveal_seal_.
  absl::Status RevealPrepared();
  // Removes the files of the others.
  void RemovePrepared();
  // The oldest interval is where it should be.
  void FinishOldest();
  void OfferToPipe(const IntervalRows& interval);

  const Options options_;
  IntervalMerge merge_;
  std::deque<IntervalRows> waiting_;
  uint64_t merged_seal_ = 0;  // All intervals up to it were added to waiting_.
  uint64_t sequence_ = 0;     // The last one given.
  int64_t last_end_ns_ = 0;   // Of the last interval added; 0: none.
  // With a checkpoint:
  std::vector<SnapshotChunk> chunks_;  // Of snapshots whose tables are still to be taken.
  size_t prepared_ = 0;                // How many of waiting_ are prepared.
  uint64_t reveal_seal_ = 0;           // The seal up to which they may be revealed.
  bool loss_logged_ = false;           // It was logged that there is no checkpoint.

  size_t rows_waiting_ = 0;
  uint64_t rows_written_ = 0;
  uint64_t last_interval_rows_ = 0;
  uint64_t intervals_written_ = 0;
  IntervalTotals intervals_;
};

}  // namespace ctacct

#endif  // CTACCT_ENGINE_OUTPUT_FLUSHER_H_
