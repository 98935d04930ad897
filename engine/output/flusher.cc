#include "engine/output/flusher.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <limits>
#include <memory>
#include <tuple>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "engine/rows/csv.h"
#include "engine/spool/spool_format.h"
#include "engine/spool/spool_writer.h"
#include "engine/system/durable_file.h"

namespace ctacct {
namespace {

constexpr int64_t kNanosPerSecond = 1'000'000'000;
constexpr int64_t kNanosPerMilli = 1'000'000;
constexpr size_t kOutputBytes = 1 << 18;
// For who reads standard output, once the program is asked to end.
constexpr int kReaderPatienceMillis = 2000;
// Two engines of one folder, or a restart within an interval; more files of one interval are a
// mistake elsewhere.
constexpr int kSameNameMax = 1000;
static_assert(kCsvLineBytesMax <= PipeWriter::kLineBytesMax);
static_assert(kInfluxLineBytesMax <= PipeWriter::kLineBytesMax);

TrafficRow RowOf(const AccountingKey& key, const TrafficSums& sums, int64_t end_ns) {
  TrafficRow row;
  row.time_ns = end_ns;
  row.protocol = static_cast<uint8_t>(key.protocol);
  row.port = key.port;
  memcpy(row.src.data(), &key.src.network_order, sizeof(key.src.network_order));
  memcpy(row.dst.data(), &key.dst.network_order, sizeof(key.dst.network_order));
  row.packets_src = sums.original.packets;
  row.packets_dst = sums.reply.packets;
  row.bytes_src = sums.original.bytes;
  row.bytes_dst = sums.reply.bytes;
  row.connection_count = sums.connection_count;
  row.connection_time_ms = sums.connection_time_ns / kNanosPerMilli;
  return row;
}

using RowEntry = decltype(AccountingTable::rows)::Entry;
using OpenEntry = absl::flat_hash_map<AccountingKey, int64_t>::value_type;

uint64_t SizeOf(const RowEntry& row) { return RowBytes(row.second); }
uint64_t SizeOf(const OpenEntry& of_key) { return static_cast<uint64_t>(of_key.second); }

// Leaves the `kept_max` largest entries and returns the others. Of equally large ones their keys
// decide, so that the same entries give the same rows.
template <typename Entry>
std::vector<const Entry*> SplitOffSmallest(size_t kept_max, std::vector<const Entry*>* entries) {
  if (entries->size() <= kept_max) return {};
  const auto kept_end = entries->begin() + static_cast<std::ptrdiff_t>(kept_max);
  const auto order = [](const Entry* entry) {
    const AccountingKey& key = entry->first;
    return std::make_tuple(~SizeOf(*entry), key.src.ToHostOrder(), key.dst.ToHostOrder(),
                           key.protocol, key.port);
  };
  std::nth_element(entries->begin(), kept_end, entries->end(),
                   [&order](const Entry* a, const Entry* b) { return order(a) < order(b); });
  std::vector<const Entry*> smallest(kept_end, entries->end());
  entries->erase(kept_end, entries->end());
  return smallest;
}

// Hands CSV text of at least kOutputBytes, or the rest, to `write`.
absl::Status WriteCsv(const IntervalRows& interval, bool track_open,
                      const std::function<absl::Status(absl::string_view)>& write) {
  std::string text;
  text.reserve(kOutputBytes + kCsvLineBytesMax);
  for (const TrafficRow& row : interval.rows) {
    AppendCsvLine(row, track_open, &text);
    if (text.size() < kOutputBytes) continue;
    if (absl::Status status = write(text); !status.ok()) return status;
    text.clear();
  }
  return text.empty() ? absl::OkStatus() : write(text);
}

std::string CsvFileName(int64_t end_ns, int copy) {
  const time_t seconds = end_ns / kNanosPerSecond;
  tm utc{};
  gmtime_r(&seconds, &utc);
  char name[64];
  strftime(name, sizeof(name), "traffic_%Y-%m-%dT%H_%M_%S", &utc);
  return copy == 0 ? absl::StrCat(name, ".csv") : absl::StrCat(name, "_", copy, ".csv");
}

}  // namespace

RowSink SpoolSink(std::string folder, SpoolHeader header) {
  RowSink sink;
  sink.file_name = [id = header.engine_id](const IntervalRows& interval) {
    return SpoolFileName(id, interval.sequence);
  };
  sink.write = [folder = std::move(folder), header = std::move(header)](
                   const IntervalRows& interval, const std::string& hidden_name) {
    SpoolHeader its_header = header;
    its_header.sequence = interval.sequence;
    its_header.created_ns = interval.created_ns;
    its_header.interval_end_ns = interval.end_ns;
    its_header.completeness = interval.completeness;
    its_header.events_dropped = interval.events_dropped;
    return WriteSpoolFile(folder, its_header, interval.rows, interval.gaps, hidden_name).status();
  };
  return sink;
}

RowSink CsvSink(std::string folder, bool track_open) {
  RowSink sink;
  sink.file_name = [](const IntervalRows& interval) {
    return interval.rows.empty() ? "" : CsvFileName(interval.end_ns, 0);
  };
  sink.write = [folder = std::move(folder), track_open](
                   const IntervalRows& interval, const std::string& hidden_name) -> absl::Status {
    if (interval.rows.empty()) return absl::OkStatus();
    absl::Status status;
    for (int copy = 0; copy < kSameNameMax; ++copy) {
      absl::StatusOr<DurableFile> file =
          DurableFile::Create(folder, CsvFileName(interval.end_ns, copy));
      if (!file.ok()) return file.status();
      status = WriteCsv(interval, track_open,
                        [&](absl::string_view text) { return file->Append(text); });
      if (status.ok()) status = hidden_name.empty() ? file->Commit() : file->Prepare(hidden_name);
      if (!absl::IsAlreadyExists(status)) break;
    }
    return status;
  };
  return sink;
}

RowSink StandardOutputSink(bool track_open, int cancel_fd) {
  RowSink sink;
  sink.write = [track_open, cancel_fd](const IntervalRows& interval,
                                       const std::string&) -> absl::Status {
    return WriteCsv(interval, track_open, [&](absl::string_view text) -> absl::Status {
      while (!text.empty()) {
        pollfd fds[] = {{STDOUT_FILENO, POLLOUT, 0}, {cancel_fd, POLLIN, 0}};
        poll(fds, 2, -1);
        if (fds[0].revents == 0 && fds[1].revents != 0 &&
            poll(fds, 1, kReaderPatienceMillis) == 0) {
          return absl::CancelledError("standard output: nobody reads it");
        }
        // No more than a pipe that is ready takes without blocking.
        const ssize_t written =
            write(STDOUT_FILENO, text.data(), std::min<size_t>(text.size(), PIPE_BUF));
        if (written < 0 && (errno == EINTR || errno == EAGAIN)) continue;
        if (written < 0) {
          return absl::UnavailableError(absl::StrCat("standard output: ", strerror(errno)));
        }
        text.remove_prefix(static_cast<size_t>(written));
      }
      return absl::OkStatus();
    });
  };
  return sink;
}

absl::Status Flusher::Flush(const std::vector<AccountingHandoff*>& handoffs, bool last) {
  // First, so that the table which belongs to a snapshot is there to be taken.
  for (SnapshotStream* const stream : options_.snapshots) {
    for (SnapshotChunk& chunk : stream->Take()) chunks_.push_back(std::move(chunk));
  }
  sealed_.resize(handoffs.size());
  worker_counts_.resize(handoffs.size());
  worker_flows_.resize(handoffs.size());
  if (last || rows_waiting_ < options_.waiting_rows_max) {
    for (size_t i = 0; i < handoffs.size(); ++i) {
      AccountingTable* const table = handoffs[i]->Take();
      if (table == nullptr) continue;
      sealed_[i] = table->seal;
      worker_counts_[i] = table->counts;
      worker_flows_[i] = table->flows;
      Merge(table);
      // From here on the rows are the flusher's; the worker need not wait for the disk.
      handoffs[i]->GiveBack(table);
    }
    const uint64_t all_sealed = *std::min_element(sealed_.begin(), sealed_.end());
    while (!merging_.empty() && merging_.begin()->first <= all_sealed) {
      ended_ns_ = merging_.begin()->second.interval_end_ns;
      Emit(merging_.begin()->second);
      written_out_ = std::move(merging_.begin()->second);
      merging_.erase(merging_.begin());
    }
    emitted_seal_ = all_sealed;
  }
  // The others belong to tables that are still to be taken; the checkpoint before them may yet be
  // what the rows that wait need.
  for (SnapshotChunk& chunk : std::exchange(chunks_, {})) {
    if (chunk.seal <= emitted_seal_) {
      options_.checkpoint->Add(std::move(chunk));
    } else {
      chunks_.push_back(std::move(chunk));
    }
  }
  return WriteWaiting();
}

absl::Status Flusher::Finish(const std::vector<AccountingHandoff*>& handoffs, bool clean) {
  if (absl::Status status = Flush(handoffs, true); !status.ok()) return status;
  if (options_.checkpoint == nullptr) return absl::OkStatus();
  if (visible_seal_ != emitted_seal_) return GiveUpCheckpoint();
  return clean ? options_.checkpoint->MarkClean() : absl::OkStatus();
}

void Flusher::Merge(AccountingTable* table) {
  const auto [it, first] = merging_.try_emplace(table->seal);
  AccountingTable& merged = it->second;
  if (first) {
    // The worker gets a table that was in use before: GiveBack empties it, and it keeps its memory.
    merged = std::move(written_out_);
    written_out_ = AccountingTable();
    std::swap(merged, *table);
    return;
  }
  for (const auto& [key, sums] : table->rows) merged.rows[key].Add(sums);
  for (const auto& [key, change] : table->open_changes) merged.open_changes[key] += change;
  merged.completeness = std::max(merged.completeness, table->completeness);
  merged.events_dropped += table->events_dropped;
  merged.gaps.insert(merged.gaps.end(), table->gaps.begin(), table->gaps.end());
  // Only to stay small: a worker that finds no spare table for hours brings its gaps in one.
  if (merged.gaps.size() > 2 * spool_format::kGapsMax) {
    JoinGaps(spool_format::kGapsMax, &merged.gaps);
  }
  merged.other.Add(table->other);
  merged.rows_folded += table->rows_folded;
}

void Flusher::Emit(const AccountingTable& table) {
  IntervalRows interval = TakeRows(table);
  intervals_.Note(interval.end_ns, interval.completeness, interval.gaps);
  last_interval_rows_ = interval.rows.size();
  const bool has_gap = interval.completeness != Completeness::kComplete;
  if (options_.sink.write && (has_gap || !interval.rows.empty())) {
    timespec now{};
    clock_gettime(CLOCK_REALTIME, &now);
    interval.created_ns = now.tv_sec * kNanosPerSecond + now.tv_nsec;
    interval.sequence = ++sequence_;
    rows_waiting_ += interval.rows.size();
    waiting_.push_back(std::move(interval));
  } else {
    OfferToPipe(interval);
    rows_written_ += interval.rows.size();
    ++intervals_written_;
  }
}

Flusher::OpenConnections Flusher::TakeOpen(const AccountingTable& table) {
  OpenConnections open;
  if (!options_.track_open) return open;
  for (const auto& [key, change] : table.open_changes) {
    const auto it = open_.try_emplace(key, 0).first;
    it->second += change;
    if (it->second == 0) open_.erase(it);
  }
  const auto ports = options_.ports == nullptr ? nullptr : options_.ports->Get();
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

IntervalRows Flusher::TakeRows(const AccountingTable& table) {
  IntervalRows interval;
  interval.end_ns = table.interval_end_ns;
  interval.seal = table.seal;
  interval.completeness = table.completeness;
  interval.events_dropped = table.events_dropped;
  interval.gaps = table.gaps;
  JoinGaps(spool_format::kGapsMax, &interval.gaps);
  // No interval is better than its gaps.
  for (const Gap& gap : interval.gaps) {
    interval.completeness = std::max(interval.completeness, gap.completeness);
  }
  OpenConnections open = TakeOpen(table);
  const auto take_open = [&open](const AccountingKey& key) -> uint64_t {
    const auto it = open.find(key);
    if (it == open.end()) return 0;
    const int64_t count = it->second;
    open.erase(it);
    return static_cast<uint64_t>(count);
  };
  std::vector<const RowEntry*> moved;
  moved.reserve(table.rows.size());
  for (const RowEntry& row : table.rows) moved.push_back(&row);
  const size_t only_open =
      static_cast<size_t>(std::count_if(open.begin(), open.end(), [&table](const auto& of_key) {
        return table.rows.Find(of_key.first) == nullptr;
      }));
  const bool over = table.rows_folded != 0 || moved.size() + only_open > options_.rows_max;
  const size_t kept_max = over ? options_.rows_max - 1 : options_.rows_max;
  TrafficSums other = table.other;
  uint64_t other_open = 0;
  rows_folded_ += table.rows_folded;
  for (const RowEntry* row : SplitOffSmallest(kept_max, &moved)) {
    other.Add(row->second);
    other_open += take_open(row->first);
    ++rows_folded_;
  }
  interval.rows.reserve(std::min(moved.size() + only_open, options_.rows_max));
  for (const RowEntry* row : moved) {
    interval.rows.push_back(RowOf(row->first, row->second, interval.end_ns));
    interval.rows.back().open_connections = take_open(row->first);
  }
  // In which nothing moved; the smallest of all.
  std::vector<const OpenEntry*> idle;
  idle.reserve(open.size());
  for (const OpenEntry& of_key : open) idle.push_back(&of_key);
  for (const OpenEntry* of_key : SplitOffSmallest(kept_max - moved.size(), &idle)) {
    other_open += static_cast<uint64_t>(of_key->second);
    ++rows_folded_;
  }
  for (const OpenEntry* of_key : idle) {
    interval.rows.push_back(RowOf(of_key->first, TrafficSums(), interval.end_ns));
    interval.rows.back().open_connections = static_cast<uint64_t>(of_key->second);
  }
  if (over) {
    interval.rows.push_back(RowOf(kOtherKey, other, interval.end_ns));
    interval.rows.back().open_connections = other_open;
  }
  return interval;
}

absl::Status Flusher::WriteWaiting() {
  if (options_.checkpoint == nullptr) {
    while (!waiting_.empty()) {
      if (absl::Status status = options_.sink.write(waiting_.front(), ""); !status.ok()) {
        return status;
      }
      Written();
    }
    return absl::OkStatus();
  }
  // First those that a kill has kept from being seen.
  if (absl::Status status = PublishPrepared(); !status.ok()) return status;
  if (prepared_ < waiting_.size()) options_.checkpoint->EnsureFolder();
  for (; prepared_ < waiting_.size(); ++prepared_) {
    const IntervalRows& interval = waiting_[prepared_];
    const std::string hidden =
        options_.checkpoint->HiddenName(interval.sequence, options_.sink.file_name(interval));
    if (absl::Status status = options_.sink.write(interval, hidden); !status.ok()) {
      // Rows need the space more.
      if (absl::IsResourceExhausted(status)) options_.checkpoint->GiveWay(status);
      return status;
    }
  }
  return CommitPrepared();
}

absl::Status Flusher::CommitPrepared() {
  Checkpoint& checkpoint = *options_.checkpoint;
  if (checkpoint.state() == Checkpoint::State::kComplete && checkpoint.seal() <= emitted_seal_) {
    uint64_t last_sequence = sequence_;
    for (const IntervalRows& interval : waiting_) {
      if (interval.seal > checkpoint.seal()) {
        last_sequence = interval.sequence - 1;
        break;
      }
    }
    if (checkpoint.Commit(last_sequence, ended_ns_).ok()) {
      visible_seal_ = checkpoint.seal();
      gave_up_ = false;
    }
  }
  if (checkpoint.state() == Checkpoint::State::kFailed) {
    if (!std::exchange(gave_up_, true)) {
      options_.log(absl::StrCat("no checkpoint: ", std::string(checkpoint.error().message()),
                                "; after a restart now nobody knows what was accounted"));
    }
    return GiveUpCheckpoint();
  }
  return PublishPrepared();
}

absl::Status Flusher::GiveUpCheckpoint() {
  if (absl::Status status = options_.checkpoint->Discard(); !status.ok()) return status;
  visible_seal_ = emitted_seal_;
  return PublishPrepared();
}

absl::Status Flusher::PublishPrepared() {
  while (prepared_ != 0 && waiting_.front().seal <= visible_seal_) {
    const IntervalRows& interval = waiting_.front();
    const std::string name = options_.sink.file_name(interval);
    const std::string hidden = options_.checkpoint->HiddenName(interval.sequence, name);
    const absl::Status status =
        name.empty() ? absl::OkStatus() : options_.checkpoint->Publish(hidden, name);
    if (absl::IsNotFound(status)) prepared_ = 0;  // Somebody has removed it: once more, then.
    if (!status.ok()) return status;
    --prepared_;
    Written();
  }
  return absl::OkStatus();
}

// Once they are durable: after a kill they would be accounted, and come, a second time.
void Flusher::OfferToPipe(const IntervalRows& interval) {
  if (options_.pipe == nullptr || interval.rows.empty()) return;
  std::string lines;
  for (const TrafficRow& row : interval.rows) {
    if (options_.influx.has_value()) {
      options_.influx->Append(row, options_.track_open, &lines);
    } else {
      AppendCsvLine(row, options_.track_open, &lines);
    }
  }
  options_.pipe->Offer(std::move(lines), interval.rows.size());
  if (options_.wait_for_pipe) options_.pipe->WaitDelivered();
}

// The oldest interval is where it was asked to be.
void Flusher::Written() {
  OfferToPipe(waiting_.front());
  rows_waiting_ -= waiting_.front().rows.size();
  rows_written_ += waiting_.front().rows.size();
  ++intervals_written_;
  waiting_.pop_front();
}

}  // namespace ctacct
