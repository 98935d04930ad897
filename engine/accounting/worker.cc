#include "engine/accounting/worker.h"

#include <linux/netlink.h>

#include <algorithm>
#include <cassert>
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
      ipv4_(&counts_, options_),
      ipv6_(&counts_, options_) {
  if (options_.local != nullptr) local_.emplace(*options_.local);
}

void Worker::OnDatagram(const uint8_t* data, size_t bytes, int64_t now_ns) {
  DatagramCursor cursor(data, bytes);
  NetlinkMessage message;
  while (cursor.Next(&message)) {
    switch (ParseFlowMessage(message, &ipv4_.pending[ipv4_.pending_count].event)) {
      case ParseResult::kFlow:
        Admit(now_ns, local_.has_value() && IsLocal(message, now_ns, ipv4_), &ipv4_);
        break;
      case ParseResult::kIpv6:
        if (ParseIpv6FlowMessage(message, &ipv6_.pending[ipv6_.pending_count].event) ==
            ParseResult::kFlow) {
          Admit(now_ns, local_.has_value() && IsLocal(message, now_ns, ipv6_), &ipv6_);
        } else {
          ++counts_.malformed;
        }
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

template <typename Address>
bool Worker::IsLocal(const NetlinkMessage& message, int64_t now_ns, const Family<Address>& family) {
  const LocalAddresses* const local = local_->Get();
  if (local == nullptr) return false;
  const BasicFlowEvent<Address>& event = family.pending[family.pending_count].event;
  const int64_t began_ns = event.start_ns != 0 ? event.start_ns : now_ns;
  Address answers;
  // Not the destination: of what is translated to an inner host, that may be the gateway's.
  return (local->Contains(event.identity.src, began_ns) ||
          (ReplySource(message, &answers) && local->Contains(answers, began_ns))) &&
         !family.flows.Contains(event.identity);
}

template <typename Address>
void Worker::Admit(int64_t now_ns, bool local, Family<Address>* family) {
  Pending<Address>& pending = family->pending[family->pending_count];
  const BasicFlowEvent<Address>& event = pending.event;
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
  if (local) [[unlikely]] {
    ++counts_.filtered_local;
    return;
  }
  if (!family->flows.NeedsLookup(event)) return;
  pending.now_ns = now_ns;
  pending.flow_hash = family->flows.Hash(event.identity);
  family->flows.Prefetch(event, pending.flow_hash);
  if (family->pending_count == 0) port_list_ = ports_.Get();
  if (family->flows.BringsGrowth(event)) {
    const FamilyRows<Address>& table = handoff_->live().Of<Address>();
    pending.key = KeyOf(event.identity);
    pending.key_hash = table.rows.Hash(pending.key);
    table.rows.Prefetch(pending.key_hash);
  }
  if (++family->pending_count == kPendingMax) ApplyPendingOf(family);
}

template void Worker::Admit(int64_t now_ns, bool local, Family<Ipv4Address>* family);
template void Worker::Admit(int64_t now_ns, bool local, Family<Ipv6Address>* family);

void Worker::ApplyPending() {
  ForBoth([this](auto* family) {
    if (family->pending_count != 0) ApplyPendingOf(family);
  });
}

template <typename Address>
void Worker::ApplyPendingOf(Family<Address>* family) {
  FamilyRows<Address>& table = handoff_->live().Of<Address>();
  for (size_t i = 0; i < family->pending_count; ++i) {
    const Pending<Address>& pending = family->pending[i];
    family->flows.PrefetchEntry(pending.event, pending.flow_hash);
    if (family->flows.BringsGrowth(pending.event)) table.rows.PrefetchEntry(pending.key_hash);
  }
  for (size_t i = 0; i < family->pending_count; ++i) {
    const Pending<Address>& pending = family->pending[i];
    const FlowChange change = family->flows.Apply(pending.event, pending.flow_hash, pending.now_ns);
    if (!change.growth.IsZero()) {
      assert(family->flows.BringsGrowth(pending.event));  // Else there is no key.
      table.rows.FindOrAdd(pending.key, pending.key_hash).Add(change.growth);
    }
    if (change.open_change != 0) AddOpenChange(pending.event.identity, change.open_change);
  }
  if (family->row_limit.IsOver(table)) [[unlikely]]
    FoldSmallRows(family);
  family->pending_count = 0;
}

template <typename Address>
void Worker::FoldSmallRows(Family<Address>* family) {
  for (size_t i = 0; i < family->pending_count; ++i) {
    if (!family->flows.BringsGrowth(family->pending[i].event)) continue;
    family->row_limit.FoldShardOf(family->pending[i].key_hash, &handoff_->live().Of<Address>());
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
      EndDump(frame.whole, frame.ipv4_only, frame.of_part);
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
  ApplyPending();
  ForBoth([](auto* family) { family->flows.EndRun(); });
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
  ForBoth([&](auto* family) { family->flows.Start(now_ns, timestamps_on); });
}

void Worker::BeginRestore(int64_t known_since_ns, int64_t taken_ns, bool events_kept) {
  covered_from_ns_ = taken_ns;
  ForBoth([&](auto* family) { family->flows.BeginRestore(known_since_ns, events_kept); });
}

void Worker::NoteDowntime(int64_t began_ns, int64_t ended_ns, GapCause cause) {
  // The clock may have been set back between.
  const int64_t first_ns = std::min(began_ns, ended_ns);
  const int64_t last_ns = std::max(began_ns, ended_ns);
  if (!needs_resync()) {
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
  ForBoth([&](auto* family) {
    const FlowLoss loss = family->flows.TakeLoss();
    if (loss.unreported) {
      AddPartialGap(GapCause::kUnreported, loss.since_ns, until_ns, loss.flows);
    }
    if (loss.uncounted) AddPartialGap(GapCause::kSettings, covered_from_ns_, until_ns);
  });
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
  ForBoth([&](auto* family) { family->flows.NoteOverrun(began_ns, kNotOver); });
}

void Worker::OnOverrunElsewhere(uint64_t events, int64_t began_ns, int64_t ended_ns) {
  ApplyPending();
  ForBoth([&](auto* family) { family->flows.NoteOverrun(std::min(began_ns, ended_ns), ended_ns); });
  Gap gap;
  gap.began_ns = std::min(began_ns, ended_ns);
  gap.ended_ns = ended_ns;
  gap.cause = events == 0 ? GapCause::kAllocation : GapCause::kOverrun;
  OpenGap(gap);
}

void Worker::NoteClockSetBack(int64_t now_ns) {
  ApplyPending();
  ForBoth([&](auto* family) { family->flows.NoteClockSetBack(now_ns); });
}

void Worker::BeginDump(int64_t now_ns, int64_t requested_ns) {
  ApplyPending();
  while (SweepSome()) {
  }
  dump_running_ = true;
  ForBoth([&](auto* family) { family->flows.BeginDump(now_ns, requested_ns >= overrun_over_ns_); });
}

void Worker::EndDump(bool whole, bool ipv4_only, bool of_part) {
  ApplyPending();
  const bool had_lost = needs_resync();
  dump_running_ = false;
  // In a capture of IPv4 alone the dumps are of IPv4 alone, and nothing is missing.
  const bool ipv6_whole = whole && (!ipv4_only || ipv6_.flows.size() == 0);
  if (!of_part) last_dump_whole_ = whole && ipv6_whole;
  ipv4_.flows.FinishDump(whole);
  ipv6_.flows.FinishDump(ipv6_whole);
  if (!had_lost || needs_resync()) return;
  ++counts_.resyncs;
  CloseGaps();
}

// A dump has shown which flows live. A gap is resynced if the totals are right: no known flow is
// missing, an engine ran, the kernel knows how many events it dropped, and each of them is
// explained (events_unexplained, which is checked once those of all workers are summed).
void Worker::CloseGaps() {
  AccountingTable& table = handoff_->live();
  const auto explained =
      static_cast<int64_t>(ipv4_.flows.events_explained() + ipv6_.flows.events_explained());
  const size_t flows_lost = ipv4_.flows.flows_lost() + ipv6_.flows.flows_lost();
  table.events_unexplained += std::exchange(events_unexplained_, 0) - explained;
  for (Gap& gap : open_gaps_) {
    gap.completeness = gap.cause == GapCause::kOverrun && flows_lost == 0 ? Completeness::kResynced
                                                                          : Completeness::kPartial;
    table.completeness = std::max(table.completeness, gap.completeness);
    table.gaps.push_back(gap);
  }
  if (!open_gaps_.empty()) table.gaps.back().flows_lost += flows_lost;
  open_gaps_.clear();
}

bool Worker::SweepSome() {
  bool more = false;
  ForBoth([&](auto* family) {
    family->no_longer_open.clear();
    more = family->flows.SweepSome(&family->no_longer_open) || more;
    for (const auto& flow : family->no_longer_open) AddOpenChange(flow, -1);
  });
  return more;
}

bool Worker::SnapshotSome() {
  if (!snapshot_running()) return false;
  bool more = false;
  ForBoth([&](auto* family) { more = family->flows.SnapshotSome() || more; });
  // It is all there, or the flusher must take what is.
  if (!more && options_.sealed) options_.sealed();
  return more;
}

void Worker::FinishSnapshot() {
  if (!snapshot_running()) return;
  ForBoth([](auto* family) { family->flows.FinishSnapshot(); });
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
  table.flows = flows();
  if (!handoff_->HasSpare()) {
    if (options_.snapshots != nullptr) {
      ForBoth([this](auto* family) { family->flows.LeaveOutSnapshot(seal_, options_.snapshots); });
    }
    return;
  }
  if (needs_resync()) table.completeness = Completeness::kPartial;
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
  if (options_.snapshots != nullptr) {
    ForBoth([](auto* family) { family->flows.FinishSnapshot(); });
    const bool taken = options_.snapshots->IsTaken();
    ForBoth([&](auto* family) { family->flows.BeginSnapshot(seal_, options_.snapshots, taken); });
  }
  ForBoth([](auto* family) { family->flows.EndInterval(); });
  if (options_.sealed) options_.sealed();
}

template <typename Address>
BasicAccountingKey<Address> Worker::KeyOf(const BasicFlowIdentity<Address>& identity) const {
  const FamilyRules<Address>& rules = options_.rules.Of<Address>();
  int32_t port = 0;
  if (HasPorts(identity.protocol)) {
    port = port_list_ == nullptr || port_list_->Contains(identity.protocol, identity.dst_port)
               ? identity.dst_port
               : kPortNotListed;
  }
  return BasicAccountingKey<Address>::Of(identity.src & rules.src_group_mask,
                                         identity.dst & rules.dst_group_mask, port,
                                         identity.protocol);
}

template <typename Address>
void Worker::AddOpenChange(const BasicFlowIdentity<Address>& identity, int change) {
  if (!options_.rules.track_open) return;
  const FamilyRules<Address>& rules = options_.rules.Of<Address>();
  const auto key = BasicAccountingKey<Address>::Of(identity.src & rules.src_group_mask,
                                                   identity.dst & rules.dst_group_mask,
                                                   identity.dst_port, identity.protocol);
  FamilyRows<Address>& table = handoff_->live().Of<Address>();
  table.open_changes[key] += change;
  Of<Address>().row_limit.NoteOpenChange(&table);
}

template void Worker::AddOpenChange(const FlowIdentity& identity, int change);
template void Worker::AddOpenChange(const Ipv6FlowIdentity& identity, int change);

}  // namespace ctacct
