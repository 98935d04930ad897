#include "engine/flow_table.h"

#include <algorithm>
#include <cassert>
#include <cstring>
#include <utility>

#include "absl/hash/hash.h"
#include "engine/accounting_key.h"

namespace ctacct {
namespace {

struct IdentityWords {
  uint64_t addresses;
  uint64_t ports;
  uint32_t id;
};

IdentityWords Words(const FlowIdentity& identity) {
  IdentityWords words;
  const char* bytes = reinterpret_cast<const char*>(&identity);
  std::memcpy(&words.addresses, bytes, 8);
  std::memcpy(&words.ports, bytes + 8, 8);
  std::memcpy(&words.id, bytes + 16, 4);
  return words;
}

// `life` is the start time that tells incarnations apart, or whatever else does where the kernel
// told none.
uint64_t Fingerprint(const FlowIdentity& identity, uint64_t life) {
  const IdentityWords words = Words(identity);
  return absl::HashOf(words.addresses, words.ports, words.id, life);
}

uint64_t StartFingerprint(const FlowEvent& event) {
  return Fingerprint(event.identity, static_cast<uint64_t>(event.start_ns));
}

// Without start times, a DESTROY told twice is known by its counters.
uint64_t CounterFingerprint(const FlowEvent& event) {
  return Fingerprint(event.identity, absl::HashOf(event.original.packets, event.original.bytes,
                                                  event.reply.packets, event.reply.bytes));
}

bool ClosesConnection(TcpState state) {
  return state == TcpState::kCloseWait || state == TcpState::kLastAck || state == TcpState::kClose;
}

// In a dump: the connection is past its close, whenever that was.
bool HasClosed(const FlowEvent& event) {
  return event.has_tcp_state &&
         (ClosesConnection(event.tcp_state) || event.tcp_state == TcpState::kTimeWait);
}

int64_t EventTime(const FlowEvent& event, int64_t now_ns) {
  return event.event_ns != 0 ? event.event_ns : now_ns;
}

}  // namespace

size_t FlowTable::IdentityHash::operator()(const FlowIdentity& identity) const {
  const IdentityWords words = Words(identity);
  return absl::HashOf(words.addresses, words.ports, words.id);
}

void FlowTable::Start(int64_t now_ns) {
  if (started_) return;
  started_ = true;
  known_since_ns_ = now_ns;
}

FlowChange FlowTable::Apply(const FlowEvent& event, int64_t now_ns) {
  assert(started_);
  if (event.start_ns >= known_since_ns_) timestamps_on_ = true;
  switch (event.kind) {
    case FlowEventKind::kNew:
      return ApplyNew(event, now_ns);
    case FlowEventKind::kUpdate:
      return ApplyUpdate(event, now_ns);
    case FlowEventKind::kDump:
      return ApplyDump(event, now_ns);
    case FlowEventKind::kDestroy:
      return ApplyDestroy(event, now_ns);
  }
  return {};
}

FlowChange FlowTable::ApplyNew(const FlowEvent& event, int64_t now_ns) {
  FlowChange change;
  if (!early_closes_.empty()) early_closes_.erase(event.identity);
  const auto [it, inserted] = flows_.try_emplace(event.identity);
  Flow& flow = it->second;
  if (!inserted && !flow.seen_new) {
    // A dump has shown it before its NEW was taken: the same flow.
    flow.seen_new = true;
    return change;
  }
  // If there was one, its end was lost: this is the next incarnation. (A NEW told twice comes
  // before any growth.)
  SetOpen(false, &flow, &change);
  flow = Flow();
  flow.seen_new = true;
  flow.start_ns = EventTime(event, now_ns);
  flow.last_seen = dump_index_;
  if (HasConnections(event.identity.protocol)) SetOpen(true, &flow, &change);
  return change;
}

FlowChange FlowTable::ApplyUpdate(const FlowEvent& event, int64_t now_ns) {
  FlowChange change;
  if (!event.has_tcp_state || !ClosesConnection(event.tcp_state)) return change;
  const auto it = flows_.find(event.identity);
  if (it != flows_.end()) {
    Close(EventTime(event, now_ns), &it->second, &change);
  } else if (last_complete_ == 0) {
    early_closes_.try_emplace(event.identity, EventTime(event, now_ns));
  }
  return change;
}

FlowChange FlowTable::ApplyDump(const FlowEvent& event, int64_t now_ns) {
  FlowChange change;
  auto it = flows_.find(event.identity);
  if (it != flows_.end() && it->second.start_exact && event.start_ns != 0 &&
      event.start_ns != it->second.start_ns) {
    if (event.start_ns < it->second.start_ns) {
      ++counts_->stale_dump_entries;
      return change;
    }
    Supersede(it, &change);
    it = flows_.end();
  }
  const bool known = it != flows_.end();
  // Where start times do not tell: a flow known since before this dump began has followed any
  // former incarnation in the kernel's table, so it cannot be that one that is shown.
  const bool surely_current =
      known &&
      (it->second.start_exact || (event.start_ns == 0 && it->second.last_seen < dump_index_));
  if (!surely_current && WasDestroyed(StartFingerprint(event))) {
    ++counts_->stale_dump_entries;
    return change;
  }
  if (!event.has_counters) ++counts_->without_counters;
  if (!known) {
    it = flows_.try_emplace(event.identity).first;
    Flow& flow = it->second;
    flow.start_ns = now_ns;
    if (!BornUnderOurEyes(event, last_complete_ != 0)) {
      suspects_.push_back(event.identity);
      flow.suspect = true;
      flow.original = event.original;
      flow.reply = event.reply;
      flow.closed = HasClosed(event) && !early_closes_.contains(event.identity);
    }
  }
  Flow& flow = it->second;
  if (event.start_ns != 0) {
    flow.start_ns = event.start_ns;
    flow.start_exact = true;
  }
  flow.last_seen = dump_index_;
  if (HasConnections(event.identity.protocol) && !flow.closed) SetOpen(true, &flow, &change);
  Account(event, &flow, &change.growth);
  if (const auto early = early_closes_.find(event.identity); early != early_closes_.end()) {
    Close(early->second, &flow, &change);
    early_closes_.erase(early);
  }
  // The kernel may have no events for a flow older than the engine: its close shows in dumps only.
  if (!flow.seen_new && HasClosed(event)) Close(now_ns, &flow, &change);
  return change;
}

FlowChange FlowTable::ApplyDestroy(const FlowEvent& event, int64_t now_ns) {
  FlowChange change;
  if (!early_closes_.empty()) early_closes_.erase(event.identity);
  auto it = flows_.find(event.identity);
  if (it != flows_.end() && it->second.start_exact && event.start_ns != 0 &&
      event.start_ns != it->second.start_ns) {
    if (event.start_ns < it->second.start_ns) return ApplyLateDestroy(event, now_ns, &it->second);
    Supersede(it, &change);
    it = flows_.end();
  }
  const bool known = it != flows_.end();
  bool first_time = MarkDestroyed(StartFingerprint(event));
  if (event.start_ns == 0) {
    // Then the mark above only serves to know stale dump entries. A flow that lives cannot have
    // been destroyed before.
    first_time = MarkDestroyed(CounterFingerprint(event)) || known;
  }
  if (!first_time) {
    ++counts_->duplicate_destroys;
    return change;
  }
  Flow unseen;
  if (!known) {
    // During the very first dump, events may be of flows older than the engine that the dump has
    // not shown yet.
    if (!BornUnderOurEyes(event, last_complete_ != 0 || !dump_running_)) {
      ++counts_->unknown_destroys;
      return change;
    }
    unseen.start_ns = EventTime(event, now_ns);
  }
  End(event, now_ns, known ? &it->second : &unseen, &change);
  if (known) flows_.erase(it);
  return change;
}

FlowChange FlowTable::ApplyLateDestroy(const FlowEvent& event, int64_t now_ns, Flow* follower) {
  FlowChange change;
  if (!MarkDestroyed(StartFingerprint(event))) {
    ++counts_->duplicate_destroys;
    return change;
  }
  Flow unseen;
  const auto before = superseded_.find(StartFingerprint(event));
  if (before == superseded_.end() && !BornUnderOurEyes(event, false)) {
    ++counts_->unknown_destroys;
    return change;
  }
  if (before != superseded_.end()) {
    End(event, now_ns, &before->second, &change);
    superseded_.erase(before);
  } else {
    // Its NEW made the record that a dump has given to the follower, whose own NEW is to come.
    follower->seen_new = false;
    End(event, now_ns, &unseen, &change);
  }
  return change;
}

void FlowTable::End(const FlowEvent& event, int64_t now_ns, Flow* flow, FlowChange* change) {
  if (!event.has_counters) ++counts_->without_counters;
  Account(event, flow, &change->growth);
  if (!HasConnections(event.identity.protocol)) return;
  if (event.start_ns != 0) flow->start_ns = event.start_ns;
  Close(event.stop_ns != 0 ? event.stop_ns : EventTime(event, now_ns), flow, change);
}

void FlowTable::Account(const FlowEvent& event, Flow* flow, TrafficSums* growth) {
  if (!event.has_counters) return;
  if (event.original.packets < flow->original.packets ||
      event.original.bytes < flow->original.bytes || event.reply.packets < flow->reply.packets ||
      event.reply.bytes < flow->reply.bytes) {
    ++counts_->counter_falls;
    flow->original = flow->reply = FlowCounters();
  }
  growth->original.packets += event.original.packets - flow->original.packets;
  growth->original.bytes += event.original.bytes - flow->original.bytes;
  growth->reply.packets += event.reply.packets - flow->reply.packets;
  growth->reply.bytes += event.reply.bytes - flow->reply.bytes;
  flow->original = event.original;
  flow->reply = event.reply;
}

void FlowTable::Close(int64_t end_ns, Flow* flow, FlowChange* change) {
  SetOpen(false, flow, change);
  if (flow->closed) return;
  flow->closed = true;
  ++change->growth.connection_count;
  // Never negative: the wall clock may have been set back meanwhile. Unsigned: times that a capture
  // tells may lie further apart than an int64_t counts.
  if (end_ns > flow->start_ns) {
    change->growth.connection_time_ns +=
        static_cast<uint64_t>(end_ns) - static_cast<uint64_t>(flow->start_ns);
  }
}

void FlowTable::SetOpen(bool open, Flow* flow, FlowChange* change) {
  change->open_change += static_cast<int>(open) - static_cast<int>(flow->open);
  flow->open = open;
}

void FlowTable::Supersede(Flows::iterator it, FlowChange* change) {
  SetOpen(false, &it->second, change);
  superseded_.try_emplace(Fingerprint(it->first, static_cast<uint64_t>(it->second.start_ns)),
                          it->second);
  flows_.erase(it);
}

bool FlowTable::BornUnderOurEyes(const FlowEvent& event, bool otherwise) const {
  if (event.start_ns != 0) return event.start_ns >= known_since_ns_;
  // Where flows of ours have start times, one without is from before timestamps were turned on.
  return otherwise && !timestamps_on_;
}

void FlowTable::BeginDump(int64_t now_ns) {
  assert(started_);
  dump_running_ = true;
  ++dump_index_;
  if (needs_resync_ && resync_index_ == 0) {
    resync_index_ = dump_index_;
    resync_began_ns_ = now_ns;
  }
}

std::vector<FlowIdentity> FlowTable::EndDump(bool complete) {
  std::vector<FlowIdentity> no_longer_open;
  dump_running_ = false;
  if (!complete) return no_longer_open;
  complete_before_ = last_complete_;
  last_complete_ = dump_index_;
  early_closes_ = {};
  absl::erase_if(superseded_,
                 [&](const auto& entry) { return entry.second.last_seen < complete_before_; });
  // A dump that ran when the events were lost may have passed by what died or was born then.
  if (needs_resync_ && resync_index_ != 0) {
    needs_resync_ = false;
    lost_deaths_ = false;
    for (auto& [identity, flow] : flows_) {
      if (flow.last_seen >= resync_index_) continue;
      // Not those that had died, or been missed, long before.
      if (flow.last_seen >= complete_at_overrun_) lost_deaths_ = true;
      if (flow.suspect) continue;
      suspects_.push_back(identity);
      flow.suspect = true;
    }
  }
  std::erase_if(suspects_, [&](const FlowIdentity& identity) {
    const auto it = flows_.find(identity);
    // Gone, or followed by another incarnation.
    if (it == flows_.end() || !it->second.suspect) return true;
    Flow& flow = it->second;
    if (flow.last_seen == last_complete_) {
      // Shown again, and if its NEW came, so will its DESTROY.
      flow.suspect = !flow.seen_new;
      return flow.seen_new;
    }
    if (flow.open && flow.last_seen < complete_before_) {
      flow.open = false;
      no_longer_open.push_back(identity);
    }
    if (flow.last_seen + kForgottenAfterDumps > dump_index_) return false;
    ++counts_->forgotten_flows;
    flows_.erase(it);
    // Should it live after all, it must not count a second time from zero.
    known_since_ns_ = std::max(known_since_ns_, resync_began_ns_);
    return true;
  });
  return no_longer_open;
}

void FlowTable::NoteOverrun() {
  if (!needs_resync_) complete_at_overrun_ = last_complete_;
  needs_resync_ = true;
  resync_index_ = 0;
}

void FlowTable::EndInterval() {
  std::swap(destroyed_, destroyed_before_);
  destroyed_.clear();
}

bool FlowTable::WasDestroyed(uint64_t fingerprint) const {
  return destroyed_.contains(fingerprint) || destroyed_before_.contains(fingerprint);
}

bool FlowTable::MarkDestroyed(uint64_t fingerprint) {
  if (destroyed_before_.contains(fingerprint)) return false;
  if (destroyed_.size() >= kDestroyedMax) EndInterval();
  return destroyed_.insert(fingerprint).second;
}

}  // namespace ctacct
