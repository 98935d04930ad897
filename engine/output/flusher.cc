#include "engine/output/flusher.h"

#include "absl/strings/str_cat.h"
#include "engine/rows/bounds.h"
#include "engine/rows/csv.h"
#include "engine/system/check.h"
#include "engine/system/clock.h"

namespace ctacct {
namespace {

static_assert(kCsvLineBytesMax <= PipeWriter::kLineBytesMax);
static_assert(kInfluxLineBytesMax <= PipeWriter::kLineBytesMax);

}  // namespace

absl::Status Flusher::Flush(const std::vector<AccountingHandoff*>& handoffs, bool last) {
  // First, so that the table which belongs to a snapshot is there to be taken.
  for (SnapshotStream* const stream : options_.snapshots) {
    for (SnapshotChunk& chunk : stream->Take()) chunks_.push_back(std::move(chunk));
  }
  if (last || HasRoom()) {
    merge_.Take(handoffs);
    while (std::optional<IntervalRows> interval = merge_.Next()) {
      if (options_.passed_over) AddPassedOver(*interval);
      AddInterval(*std::move(interval));
    }
    merged_seal_ = merge_.sealed_by_all();
  }
  // Chunks of later intervals wait for their tables. Until those are taken, the rows that wait may
  // need the copy before.
  for (SnapshotChunk& chunk : std::exchange(chunks_, {})) {
    if (chunk.seal <= merged_seal_) {
      options_.checkpoint->Add(std::move(chunk));
    } else {
      chunks_.push_back(std::move(chunk));
    }
  }
  const absl::Status status = WriteWaiting();
  if (lost_state()) RemovePrepared();
  return status;
}

absl::Status Flusher::Finish(const std::vector<AccountingHandoff*>& handoffs, bool clean) {
  if (absl::Status status = Flush(handoffs, true); !status.ok()) return status;
  if (options_.checkpoint == nullptr) return absl::OkStatus();
  if (reveal_seal_ != merged_seal_) {
    const absl::Status status = RevealWithoutCheckpoint();
    if (lost_state()) RemovePrepared();
    return status;
  }
  return clean ? options_.checkpoint->MarkClean() : absl::OkStatus();
}

void Flusher::AddPassedOver(const IntervalRows& next) {
  if (last_end_ns_ == 0) return;
  const int64_t intervals = (next.end_ns - last_end_ns_) / options_.interval_ns;
  if (intervals > kPassedOverMax) return;
  for (int64_t i = 1; i < intervals; ++i) {
    IntervalRows none;
    none.end_ns = last_end_ns_ + options_.interval_ns;
    none.seal = next.seal;  // Revealed with it.
    none.covered_from_ns = none.covered_to_ns = next.covered_from_ns;
    none.ports_checksum = next.ports_checksum;
    AddInterval(std::move(none));
  }
}

void Flusher::AddInterval(IntervalRows interval) {
  CTACCT_CHECK(waiting_.empty() || waiting_.back().seal <= interval.seal);
  last_end_ns_ = interval.end_ns;
  intervals_.Note(interval.end_ns, interval.completeness, interval.gaps);
  last_interval_rows_ = interval.rows.size();
  if (options_.sink == nullptr || !options_.sink->Takes(interval)) {
    OfferToPipe(interval);
    rows_written_ += interval.rows.size();
    ++intervals_written_;
    return;
  }
  interval.created_ns = FitTime(WallClockNs());
  interval.sequence = ++sequence_;
  rows_waiting_ += interval.rows.size();
  waiting_.push_back(std::move(interval));
}

absl::Status Flusher::WriteWaiting() {
  if (options_.checkpoint == nullptr) {
    while (!waiting_.empty()) {
      absl::Status status = options_.sink->Write(waiting_.front(), "");
      if (!status.ok()) return status;
      FinishOldest();
    }
    return absl::OkStatus();
  }
  // What an earlier Flush could not reveal comes first: it was committed.
  const absl::Status revealed = RevealPrepared();
  if (absl::Status held = options_.checkpoint->CheckLock(); !held.ok()) return held;
  if (!revealed.ok()) return revealed;
  for (; prepared_ < waiting_.size(); ++prepared_) {
    const IntervalRows& interval = waiting_[prepared_];
    const std::string hidden =
        options_.checkpoint->HiddenName(interval.sequence, options_.sink->FileName(interval));
    if (absl::Status status = options_.sink->Write(interval, hidden); !status.ok()) {
      if (absl::IsResourceExhausted(status)) options_.checkpoint->GiveUpCopy(status);
      return status;
    }
  }
  return CommitAndReveal();
}

absl::Status Flusher::CommitAndReveal() {
  Checkpoint& checkpoint = *options_.checkpoint;
  if (checkpoint.state() == Checkpoint::State::kComplete && checkpoint.seal() <= merged_seal_) {
    uint64_t last_sequence = sequence_;
    for (const IntervalRows& interval : waiting_) {
      if (interval.seal > checkpoint.seal()) {
        last_sequence = interval.sequence - 1;
        break;
      }
    }
    const absl::Status committed = checkpoint.Commit(last_sequence);
    if (committed.ok()) {
      reveal_seal_ = checkpoint.seal();
      loss_logged_ = false;
    } else if (checkpoint.state() != Checkpoint::State::kFailed) {
      return committed;
    }
  }
  if (checkpoint.state() == Checkpoint::State::kFailed) {
    if (!std::exchange(loss_logged_, true)) {
      options_.log(absl::StrCat("no checkpoint: ", std::string(checkpoint.error().message()),
                                "; a restart now would lose track of traffic already counted"));
    }
    return RevealWithoutCheckpoint();
  }
  return RevealPrepared();
}

absl::Status Flusher::RevealWithoutCheckpoint() {
  if (absl::Status status = options_.checkpoint->Discard(); !status.ok()) return status;
  reveal_seal_ = merged_seal_;
  return RevealPrepared();
}

absl::Status Flusher::RevealPrepared() {
  while (prepared_ != 0 && waiting_.front().seal <= reveal_seal_) {
    const IntervalRows& interval = waiting_.front();
    const std::string name = options_.sink->FileName(interval);
    const absl::Status status =
        name.empty() ? absl::OkStatus() : options_.checkpoint->Reveal(interval.sequence, name);
    if (absl::IsNotFound(status)) prepared_ = 0;  // Somebody has removed it: prepare it again.
    if (!status.ok()) return status;
    --prepared_;
    FinishOldest();
  }
  return absl::OkStatus();
}

void Flusher::RemovePrepared() {
  for (size_t i = 0; i < prepared_; ++i) {
    if (waiting_[i].seal <= reveal_seal_) continue;
    options_.checkpoint->RemovePrepared(waiting_[i].sequence, options_.sink->FileName(waiting_[i]));
  }
}

void Flusher::FinishOldest() {
  const IntervalRows& interval = waiting_.front();
  OfferToPipe(interval);
  rows_waiting_ -= interval.rows.size();
  rows_written_ += interval.rows.size();
  ++intervals_written_;
  waiting_.pop_front();
}

// Rows are offered once they are durable. Otherwise, after a kill, they would be accounted and
// offered a second time.
void Flusher::OfferToPipe(const IntervalRows& interval) {
  if (options_.pipe == nullptr || interval.rows.empty()) return;
  std::string lines;
  size_t count = 0;
  for (const TrafficRow& row : interval.rows) {
    if (options_.influx.has_value()) {
      options_.influx->Append(row, options_.track_open, &lines);
      ++count;
    } else {
      AppendCsvLine(row, options_.track_open, &lines);
      count += static_cast<size_t>(HasCsvLine(row));
    }
  }
  options_.pipe->Offer(std::move(lines), count);
  if (options_.wait_for_pipe) options_.pipe->WaitDelivered();
}

}  // namespace ctacct
