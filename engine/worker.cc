#include "engine/worker.h"

#include <linux/netlink.h>

#include <utility>

namespace ctacct {
namespace {

// A capture whose clock leaps by years must not make a row for each second of them.
constexpr int kSilentIntervalsMax = 10'000;

}  // namespace

Worker::Worker(Options options, AccountingHandoff* handoff, PortListFile* ports)
    : options_(std::move(options)),
      handoff_(handoff),
      ports_(ports),
      flows_(&counts_),
      clock_(options_.rules.interval_ns) {}

void Worker::OnDatagram(const uint8_t* data, size_t bytes, int64_t now_ns) {
  clock_.Observe(now_ns);
  flows_.Start(now_ns);
  if (ports_->has_file()) port_list_ = ports_->Current();
  if (options_.interval_end == IntervalEnd::kByPacket && clock_.IsPast(now_ns)) {
    Seal();
    // Nothing moved in intervals that passed in silence, but connections were open.
    if (options_.rules.track_open) SealSilentIntervals(now_ns);
    if (clock_.IsPast(now_ns)) clock_.OpenAfterPacket(now_ns);
  }
  DatagramCursor cursor(data, bytes);
  NetlinkMessage message;
  while (cursor.Next(&message)) {
    if (message.type == NLMSG_OVERRUN) {
      OnOverrun(OverrunEvents(message));
      continue;
    }
    if ((message.flags & NLM_F_MULTI) != 0) {
      // A capture of nlmon also holds dumps of other subsystems, and their ends.
      const bool done = message.type == NLMSG_DONE;
      if (!done && !IsFlowMessage(message)) other_dump_ = message.sequence;
      if (other_dump_ == message.sequence && !dump_running_) continue;
      if (!dump_running_) {
        dump_running_ = true;
        clock_.DumpBegins(now_ns);
        flows_.BeginDump(now_ns);
      }
    }
    if (message.type == NLMSG_DONE) {
      EndDump(MessageError(message) == 0);
      continue;
    }
    FlowEvent event;
    switch (ParseFlowMessage(message, &event)) {
      case ParseResult::kFlow:
        OnFlow(event, now_ns);
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
  const FlowChange change = flows_.Apply(event, now_ns);
  if (!change.growth.IsZero()) handoff_->live().rows[KeyOf(event.identity)].Add(change.growth);
  if (change.open_change != 0) AddOpenChange(event.identity, change.open_change);
}

void Worker::OnOverrun(uint64_t events) {
  ++counts_.overruns;
  counts_.events_dropped += events;
  AccountingTable& table = handoff_->live();
  table.completeness = Completeness::kPartial;
  table.events_dropped += events;
  flows_.NoteOverrun();
}

void Worker::EndDump(bool complete) {
  if (!dump_running_) return;
  dump_running_ = false;
  for (const FlowIdentity& ghost : flows_.EndDump(complete)) AddOpenChange(ghost, -1);
  AccountingTable& table = handoff_->live();
  // Resynced: the totals are right. Not where flows have died unseen, with what they moved last.
  if (table.completeness == Completeness::kPartial && !flows_.needs_resync() &&
      !flows_.lost_deaths()) {
    table.completeness = Completeness::kResynced;
  }
  if (options_.interval_end == IntervalEnd::kByDump && clock_.DumpEndsInterval()) {
    Seal();
    clock_.OpenAfterDump();
  }
}

void Worker::OnDumpFailed(int64_t now_ns) {
  if (!dump_running_) {
    // Not even its first datagram came.
    clock_.Observe(now_ns);
    clock_.DumpBegins(now_ns);
    dump_running_ = true;
  }
  EndDump(false);
}

void Worker::Finish() {
  if (!clock_.is_open()) return;  // Nothing was ever read.
  handoff_->WaitForSpare();
  Seal();
}

void Worker::SealSilentIntervals(int64_t now_ns) {
  for (int i = 0; i < kSilentIntervalsMax; ++i) {
    clock_.OpenFollowing();
    if (!clock_.IsPast(now_ns)) return;
    Seal();
  }
}

void Worker::Seal() {
  if (options_.wait_for_spare) handoff_->WaitForSpare();
  AccountingTable& table = handoff_->live();
  table.interval_end_ns = clock_.open_end_ns();
  const bool still_lost = flows_.needs_resync();
  if (!handoff_->Publish()) return;  // The rows go on with the next interval's.
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
}

}  // namespace ctacct
