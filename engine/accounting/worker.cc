#include "engine/accounting/worker.h"

#include <linux/netlink.h>

#include <algorithm>
#include <chrono>
#include <limits>
#include <thread>
#include <utility>

#include "engine/system/check.h"
#include "netlink/ctnetlink_parser.h"

namespace ctacct {
namespace {

// A receive buffer far too small overruns many times in an interval; the last record then stands
// for the rest.
constexpr size_t kGapsMax = 64;

}  // namespace

Worker::Worker(Options options, AccountingHandoff* handoff, const CurrentPortList* ports)
    : options_(std::move(options)),
      handoff_(handoff),
      ports_(*ports),
      flows_(&counts_, options_.tcp_timeouts),
      row_limit_(options_.rows_max) {}

void Worker::OnDatagram(const uint8_t* data, size_t bytes, int64_t now_ns) {
  DatagramCursor cursor(data, bytes);
  NetlinkMessage message;
  while (cursor.Next(&message)) {
    switch (ParseFlowMessage(message, &pending_[pending_count_].event)) {
      case ParseResult::kFlow:
        Admit(now_ns);
        break;
      case ParseResult::kIpv6:
        ++counts_.skipped_ipv6;
        break;
      case ParseResult::kNotAFlow:
        break;
      case ParseResult::kMalformed:
        ++counts_.malformed;
        break;
    }
  }
  if (cursor.malformed()) ++counts_.malformed;
}

void Worker::OnFlow(const FlowEvent& event, int64_t now_ns) {
  pending_[pending_count_].event = event;
  Admit(now_ns);
}

void Worker::Admit(int64_t now_ns) {
  Pending& pending = pending_[pending_count_];
  const FlowEvent& event = pending.event;
  switch (event.kind) {
    case FlowEventKind::kNew:
      ++counts_.events_new;
      break;
    case FlowEventKind::kUpdate:
      ++counts_.events_update;
      break;
    case FlowEventKind::kDestroy:
      ++counts_.events_destroy;
      break;
    case FlowEventKind::kDump:
      ++counts_.dump_entries;
      break;
  }
  if (!options_.rules.Matches(event.identity)) {
    ++counts_.filtered;
    return;
  }
  if (!FlowTable::NeedsLookup(event)) return;
  pending.now_ns = now_ns;
  pending.flow_hash = flows_.Hash(event.identity);
  flows_.Prefetch(event, pending.flow_hash);
  // A flow's growth comes with its counters; of its close, only some events tell.
  if (pending_count_ == 0) port_list_ = ports_.Get();
  if (event.kind != FlowEventKind::kNew) {
    pending.key = KeyOf(event.identity);
    pending.key_hash = handoff_->live().rows.Hash(pending.key);
    handoff_->live().rows.Prefetch(pending.key_hash);
  }
  if (++pending_count_ == kPendingMax) ApplyPending();
}

void Worker::ApplyPending() {
  AccountingTable& table = handoff_->live();
  for (size_t i = 0; i < pending_count_; ++i) {
    const Pending& pending = pending_[i];
    flows_.PrefetchEntry(pending.event, pending.flow_hash);
    if (pending.event.kind != FlowEventKind::kNew) table.rows.PrefetchEntry(pending.key_hash);
  }
  for (size_t i = 0; i < pending_count_; ++i) {
    const Pending& pending = pending_[i];
    const FlowChange change = flows_.Apply(pending.event, pending.flow_hash, pending.now_ns);
    if (!change.growth.IsZero()) {
      table.rows.FindOrAdd(pending.key, pending.key_hash).Add(change.growth);
    }
    if (change.open_change != 0) AddOpenChange(pending.event.identity, change.open_change);
  }
  if (row_limit_.IsOver(table)) [[unlikely]]
    FoldSmallRows();
  pending_count_ = 0;
}

void Worker::FoldSmallRows() {
  for (size_t i = 0; i < pending_count_; ++i) {
    // A birth brings no row.
    if (pending_[i].event.kind == FlowEventKind::kNew) continue;
    row_limit_.FoldShardOf(pending_[i].key_hash, &handoff_->live());
  }
}

bool Worker::OnFrame(const Frame& frame, const uint8_t* data) {
  switch (frame.kind) {
    case FrameKind::kStart:
      Start(frame.time_ns, frame.timestamps_on);
      return true;
    case FrameKind::kDatagram:
      OnDatagram(data, frame.bytes, frame.time_ns);
      return true;
    case FrameKind::kOverrun:
      OnOverrun(frame.events_dropped, frame.began_ns, frame.time_ns);
      return true;
    case FrameKind::kOverrunElsewhere:
      OnOverrunElsewhere(frame.events_dropped, frame.began_ns, frame.time_ns);
      return true;
    case FrameKind::kSettingsOff:
      OnSettingsOff(frame.began_ns, frame.time_ns);
      return true;
    case FrameKind::kClockSetBack:
      NoteClockSetBack(frame.time_ns);
      return true;
    case FrameKind::kBeginDump:
      BeginDump(frame.time_ns, frame.requested_ns);
      return true;
    case FrameKind::kEndDump:
      EndDump(frame.whole);
      if (frame.ends_interval) Seal(frame.time_ns, frame.covered_to_ns);
      return true;
    case FrameKind::kSeal:
      Seal(frame.time_ns, frame.covered_to_ns);
      return true;
    case FrameKind::kFinish:
      if (started_) Finish(frame.time_ns, frame.covered_to_ns);  // Else nothing was ever read.
      return false;
  }
  return true;
}

void Worker::Finish(int64_t interval_end_ns, int64_t covered_to_ns) {
  while (SweepSome()) {
  }
  handoff_->WaitForSpare();
  FinishSnapshot();
  // The last snapshot must not be left out.
  while (options_.snapshots != nullptr && !options_.snapshots->IsTaken()) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  Seal(interval_end_ns, covered_to_ns);
  FinishSnapshot();
}

void Worker::Start(int64_t now_ns, bool timestamps_on) {
  if (!started_) covered_from_ns_ = now_ns;
  started_ = true;
  flows_.Start(now_ns, timestamps_on);
}

void Worker::BeginRestore(int64_t known_since_ns, int64_t taken_ns, bool events_kept) {
  covered_from_ns_ = taken_ns;
  flows_.BeginRestore(known_since_ns, events_kept);
}

void Worker::Restore(const FlowRecord& record) {
  if (options_.rules.Matches(record.identity) && flows_.Restore(record)) {
    AddOpenChange(record.identity, 1);
  }
}

void Worker::NoteDowntime(int64_t began_ns, int64_t ended_ns, GapCause cause) {
  // The clock may have been set back between.
  const int64_t first_ns = std::min(began_ns, ended_ns);
  const int64_t last_ns = std::max(began_ns, ended_ns);
  if (!flows_.needs_resync()) {
    AddPartialGap(cause, first_ns, last_ns);
    return;
  }
  Gap gap;
  gap.began_ns = first_ns;
  gap.ended_ns = last_ns;
  gap.cause = cause;
  OpenGap(gap);
}

void Worker::OpenGap(const Gap& gap) {
  if (open_gaps_.size() >= kGapsMax && open_gaps_.back().cause == gap.cause) {
    open_gaps_.back().ended_ns = std::max(open_gaps_.back().ended_ns, gap.ended_ns);
    open_gaps_.back().events_dropped += gap.events_dropped;
    return;
  }
  open_gaps_.push_back(gap);
}

void Worker::AddPartialGap(GapCause cause, int64_t began_ns, int64_t ended_ns,
                           uint64_t flows_lost) {
  AccountingTable& table = handoff_->live();
  table.completeness = Completeness::kPartial;
  Gap gap;
  gap.began_ns = std::min(began_ns, ended_ns);
  gap.ended_ns = ended_ns;
  gap.cause = cause;
  gap.flows_lost = flows_lost;
  for (Gap& same : table.gaps) {
    if (same.cause != cause) continue;
    same.began_ns = std::min(same.began_ns, gap.began_ns);
    same.ended_ns = std::max(same.ended_ns, gap.ended_ns);
    same.completeness = Completeness::kPartial;
    same.flows_lost += flows_lost;
    return;
  }
  table.gaps.push_back(gap);
}

void Worker::AddLosses(int64_t until_ns) {
  const FlowLoss loss = flows_.TakeLoss();
  if (loss.unreported) {
    AddPartialGap(GapCause::kUnreported, loss.since_ns, until_ns, loss.flows);
  }
  if (loss.uncounted) AddPartialGap(GapCause::kSettings, covered_from_ns_, until_ns);
}

void Worker::OnSettingsOff(int64_t began_ns, int64_t ended_ns) {
  AddPartialGap(GapCause::kSettings, began_ns, ended_ns);
}

void Worker::OnOverrun(uint64_t events, int64_t began_ns, int64_t ended_ns,
                       int64_t over_monotonic_ns) {
  overrun_over_ns_ = over_monotonic_ns;
  ++counts_.overruns;
  counts_.events_dropped += events;
  events_unexplained_ += static_cast<int64_t>(events);
  handoff_->live().events_dropped += events;
  OnOverrunElsewhere(events, began_ns, ended_ns);
  open_gaps_.back().events_dropped += events;
}

void Worker::OnOverrunBegins(int64_t began_ns) {
  ApplyPending();
  constexpr int64_t kNotOver = std::numeric_limits<int64_t>::max();
  overrun_over_ns_ = kNotOver;
  flows_.NoteOverrun(began_ns, kNotOver);
}

void Worker::OnOverrunElsewhere(uint64_t events, int64_t began_ns, int64_t ended_ns) {
  ApplyPending();
  flows_.NoteOverrun(std::min(began_ns, ended_ns), ended_ns);
  Gap gap;
  gap.began_ns = std::min(began_ns, ended_ns);
  gap.ended_ns = ended_ns;
  gap.cause = events == 0 ? GapCause::kAllocation : GapCause::kOverrun;
  OpenGap(gap);
}

void Worker::NoteClockSetBack(int64_t now_ns) {
  ApplyPending();
  flows_.NoteClockSetBack(now_ns);
}

void Worker::BeginDump(int64_t now_ns, int64_t requested_ns) {
  ApplyPending();
  while (SweepSome()) {
  }
  dump_running_ = true;
  flows_.BeginDump(now_ns, requested_ns >= overrun_over_ns_);
}

void Worker::EndDump(bool whole) {
  ApplyPending();
  const bool had_lost = flows_.needs_resync();
  dump_running_ = false;
  last_dump_whole_ = whole;
  flows_.FinishDump(whole);
  if (!had_lost || flows_.needs_resync()) return;
  ++counts_.resyncs;
  CloseGaps();
}

// A dump has shown which flows live. A gap is resynced if the totals are right: no known flow is
// missing, an engine ran, the kernel knows how many events it dropped, and each of them is
// explained (events_unexplained, which is checked once those of all workers are summed).
void Worker::CloseGaps() {
  AccountingTable& table = handoff_->live();
  const auto explained = static_cast<int64_t>(flows_.events_explained());
  table.events_unexplained += std::exchange(events_unexplained_, 0) - explained;
  for (Gap& gap : open_gaps_) {
    gap.completeness = gap.cause == GapCause::kOverrun && flows_.flows_lost() == 0
                           ? Completeness::kResynced
                           : Completeness::kPartial;
    table.completeness = std::max(table.completeness, gap.completeness);
    table.gaps.push_back(gap);
  }
  if (!open_gaps_.empty()) table.gaps.back().flows_lost += flows_.flows_lost();
  open_gaps_.clear();
}

bool Worker::SweepSome() {
  no_longer_open_.clear();
  const bool more = flows_.SweepSome(&no_longer_open_);
  for (const FlowIdentity& flow : no_longer_open_) AddOpenChange(flow, -1);
  return more;
}

bool Worker::SnapshotSome() {
  if (!flows_.snapshot_running()) return false;
  const bool more = flows_.SnapshotSome();
  // It is all there, or the flusher must take what is.
  if (!more && options_.sealed) options_.sealed();
  return more;
}

void Worker::FinishSnapshot() {
  if (!flows_.snapshot_running()) return;
  flows_.FinishSnapshot();
  if (options_.sealed) options_.sealed();
}

void Worker::Seal(int64_t interval_end_ns, int64_t covered_to_ns) {
  ApplyPending();
  AddLosses(covered_to_ns);
  // What the flows had moved at its end was not all shown.
  if (!last_dump_whole_) AddPartialGap(GapCause::kUnreported, covered_from_ns_, covered_to_ns);
  ++seal_;
  if (options_.wait_for_spare) handoff_->WaitForSpare();
  AccountingTable& table = handoff_->live();
  table.interval_end_ns = interval_end_ns;
  table.seal = seal_;
  // If the clock was set back, the length of what was observed before is not known.
  table.covered_from_ns = std::min(covered_from_ns_, covered_to_ns);
  table.covered_to_ns = covered_to_ns;
  table.counts = counts_;
  table.flows = flows_.size();
  if (!handoff_->HasSpare()) {
    if (options_.snapshots != nullptr) flows_.LeaveOutSnapshot(seal_, options_.snapshots);
    return;
  }
  if (flows_.needs_resync()) table.completeness = Completeness::kPartial;
  if (!open_gaps_.empty()) {
    // What they cost will be known in the next interval. The events dropped are reported here.
    table.gaps.insert(table.gaps.end(), open_gaps_.begin(), open_gaps_.end());
    Gap rest = open_gaps_.back();
    for (const Gap& gap : open_gaps_) {
      rest.began_ns = std::min(rest.began_ns, gap.began_ns);
      if (gap.cause != GapCause::kOverrun) rest.cause = gap.cause;
    }
    rest.events_dropped = 0;
    open_gaps_ = {rest};
  }
  CTACCT_CHECK(handoff_->Publish());
  covered_from_ns_ = covered_to_ns;
  // As the flows are now, they go with the rows of the table that was handed over.
  if (options_.snapshots != nullptr) flows_.BeginSnapshot(seal_, options_.snapshots);
  flows_.EndInterval();
  if (options_.sealed) options_.sealed();
}

AccountingKey Worker::KeyOf(const FlowIdentity& identity) const {
  AccountingKey key;
  key.src = identity.src & options_.rules.src_group_mask;
  key.dst = identity.dst & options_.rules.dst_group_mask;
  key.protocol = identity.protocol;
  if (HasPorts(identity.protocol)) {
    key.port = port_list_ == nullptr || port_list_->Contains(identity.protocol, identity.dst_port)
                   ? identity.dst_port
                   : kPortNotListed;
  }
  return key;
}

void Worker::AddOpenChange(const FlowIdentity& identity, int change) {
  if (!options_.rules.track_open) return;
  AccountingKey key;
  key.src = identity.src & options_.rules.src_group_mask;
  key.dst = identity.dst & options_.rules.dst_group_mask;
  key.protocol = identity.protocol;
  key.port = identity.dst_port;
  handoff_->live().open_changes[key] += change;
  row_limit_.NoteOpenChange(&handoff_->live());
}

}  // namespace ctacct
