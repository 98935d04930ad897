#include "engine/accounting/worker.h"

#include <linux/netlink.h>

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

#include "netlink/ctnetlink_parser.h"

namespace ctacct {
namespace {

// A receive buffer far too small overruns many times in an interval; the last record then stands
// for the rest.
constexpr size_t kGapsMax = 64;

// Flows may have come and gone meanwhile, whatever a dump shows.
bool IsDowntime(GapCause cause) {
  return cause == GapCause::kRestart || cause == GapCause::kRenamed;
}

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
      NoteLoss();
      return true;
    case FrameKind::kClockSetBack:
      NoteClockSetBack(frame.time_ns);
      return true;
    case FrameKind::kBeginDump:
      BeginDump(frame.time_ns, frame.requested_ns);
      return true;
    case FrameKind::kEndDump:
      EndDump(frame.complete);
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
  handoff_->live().completeness = Completeness::kPartial;
  Gap gap;
  // The clock may have been set back between.
  gap.began_ns = std::min(began_ns, ended_ns);
  gap.ended_ns = std::max(began_ns, ended_ns);
  gap.cause = cause;
  AddGap(gap);
}

void Worker::AddGap(const Gap& gap) {
  std::vector<Gap>& gaps = handoff_->live().gaps;
  if (gaps.size() >= kGapsMax && gaps_open_ != 0 && gaps.back().cause == gap.cause) {
    gaps.back().ended_ns = std::max(gaps.back().ended_ns, gap.ended_ns);
    gaps.back().events_dropped += gap.events_dropped;
    return;
  }
  gaps.push_back(gap);
  ++gaps_open_;
}

void Worker::OnOverrun(uint64_t events, int64_t began_ns, int64_t ended_ns,
                       int64_t over_monotonic_ns) {
  NoteLoss();
  overrun_over_ns_ = over_monotonic_ns;
  ++counts_.overruns;
  counts_.events_dropped += events;
  handoff_->live().events_dropped += events;
  Gap gap;
  gap.began_ns = std::min(began_ns, ended_ns);
  gap.ended_ns = ended_ns;
  gap.cause = events == 0 ? GapCause::kAllocation : GapCause::kOverrun;
  gap.events_dropped = events;
  AddGap(gap);
}

void Worker::NoteClockSetBack(int64_t now_ns) {
  ApplyPending();
  flows_.NoteClockSetBack(now_ns);
}

void Worker::NoteLoss() {
  ApplyPending();
  handoff_->live().completeness = Completeness::kPartial;
  flows_.NoteOverrun();
}

void Worker::BeginDump(int64_t now_ns, int64_t requested_ns) {
  ApplyPending();
  while (SweepSome()) {
  }
  dump_running_ = true;
  flows_.BeginDump(now_ns, requested_ns >= overrun_over_ns_);
}

void Worker::EndDump(bool complete) {
  ApplyPending();
  const bool had_lost = flows_.needs_resync();
  dump_running_ = false;
  flows_.FinishDump(complete);
  if (had_lost && !flows_.needs_resync()) ++counts_.resyncs;
  AccountingTable& table = handoff_->live();
  if (table.completeness == Completeness::kPartial && !flows_.needs_resync()) EndGaps(&table);
}

// A dump has shown what lives since. Resynced: the totals are right. Not where flows have died
// unseen, with what they moved last, nor where flows may have come and gone while no engine ran.
void Worker::EndGaps(AccountingTable* table) {
  table->completeness =
      flows_.lost_deaths() == 0 ? Completeness::kResynced : Completeness::kPartial;
  for (size_t i = table->gaps.size() - gaps_open_; i < table->gaps.size(); ++i) {
    Gap& gap = table->gaps[i];
    if (IsDowntime(gap.cause)) table->completeness = Completeness::kPartial;
    gap.completeness = table->completeness;
  }
  if (gaps_open_ != 0) table->gaps.back().flows_lost = flows_.lost_deaths();
  gaps_open_ = 0;
}

// Gaps of the table before that no dump has followed: what they cost will be known in this
// interval. The events dropped were told.
void Worker::CarryOn(const std::vector<Gap>& open) {
  if (open.empty()) return;
  Gap rest = open.back();
  for (const Gap& gap : open) {
    rest.began_ns = std::min(rest.began_ns, gap.began_ns);
    if (IsDowntime(gap.cause)) rest.cause = gap.cause;
  }
  rest.events_dropped = 0;
  AddGap(rest);
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
  ++seal_;
  if (options_.wait_for_spare) handoff_->WaitForSpare();
  handoff_->live().interval_end_ns = interval_end_ns;
  handoff_->live().seal = seal_;
  // If the clock was set back, the length of what was observed before is not known.
  handoff_->live().covered_from_ns = std::min(covered_from_ns_, covered_to_ns);
  handoff_->live().covered_to_ns = covered_to_ns;
  handoff_->live().counts = counts_;
  handoff_->live().flows = flows_.size();
  const bool still_lost = flows_.needs_resync();
  std::vector<Gap> open(handoff_->live().gaps.end() - static_cast<ptrdiff_t>(gaps_open_),
                        handoff_->live().gaps.end());
  if (!handoff_->Publish()) {
    if (options_.snapshots != nullptr) flows_.LeaveOutSnapshot(seal_, options_.snapshots);
    return;
  }
  covered_from_ns_ = covered_to_ns;
  gaps_open_ = 0;
  CarryOn(open);
  // As the flows are now, they go with the rows of the table that was handed over.
  if (options_.snapshots != nullptr) flows_.BeginSnapshot(seal_, options_.snapshots);
  flows_.EndInterval();
  if (still_lost) handoff_->live().completeness = Completeness::kPartial;
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
