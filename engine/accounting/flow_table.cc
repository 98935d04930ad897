#include "engine/accounting/flow_table.h"

#include <linux/netfilter/nf_conntrack_common.h>

#include <algorithm>
#include <cassert>
#include <cstring>
#include <limits>
#include <tuple>
#include <utility>

#include "absl/hash/hash.h"
#include "engine/accounting/accounting_key.h"

namespace ctacct {
namespace {

constexpr int64_t kNanosPerSecond = 1'000'000'000;

// Captures are not in order to the microsecond.
constexpr int64_t kClockSlackNs = 2 * kNanosPerSecond;
// A NEW is read after its flow's start, but for small differences between a capture's clocks.
constexpr int64_t kNewJitterNs = kNanosPerSecond / 100;

// While events come, none waits for longer in a receive buffer: the largest is full in 20 seconds.
constexpr int64_t kReadLateNs = 60 * kNanosPerSecond;

// The times of a capture may be anything. Saturates.
int64_t Later(int64_t time_ns, int64_t by_ns) {
  int64_t later_ns;
  if (!__builtin_add_overflow(time_ns, by_ns, &later_ns)) return later_ns;
  return by_ns < 0 ? std::numeric_limits<int64_t>::min() : std::numeric_limits<int64_t>::max();
}

uint64_t LoadWord(const void* bytes) {
  uint64_t word;
  std::memcpy(&word, bytes, sizeof(word));
  return word;
}

// A field, read for itself. The parser has just written it, and a CPU waits for its cache when it
// reads as one what it has just written as two; but that is what compilers make of fields that are
// put together.
template <typename Field>
uint64_t Alone(Field field) {
  uint64_t value = field;
  asm("" : "+r"(value));
  return value;
}

// `life` is the start time that distinguishes incarnations, or whatever else does if the kernel
// reported none. For one identity it differs wherever `life` does.
uint64_t Fingerprint(size_t identity_hash, uint64_t life) {
  return identity_hash ^ (life * 0x9e3779b97f4a7c15);
}

template <typename Address>
uint64_t StartFingerprint(const BasicFlowEvent<Address>& event, size_t hash) {
  return Fingerprint(hash, static_cast<uint64_t>(event.start_ns));
}

// Without start times, a repeated DESTROY is recognized by its counters.
template <typename Address>
uint64_t CounterFingerprint(const BasicFlowEvent<Address>& event, size_t hash) {
  return Fingerprint(hash, absl::HashOf(event.original.packets, event.original.bytes,
                                        event.reply.packets, event.reply.bytes));
}

// Of a DESTROY. The counters decide; of flows without counters, or whose counters somebody zeroed,
// the kernel's mark. (It has none where a reset was the only reply.)
template <typename Address>
bool IsUnanswered(const BasicFlowEvent<Address>& event) {
  if ((event.status & IPS_SEEN_REPLY) != 0) return false;
  return event.has_counters ? event.reply.packets == 0 : event.status != 0;
}

template <typename Address>
int64_t EventTime(const BasicFlowEvent<Address>& event, int64_t now_ns) {
  return event.event_ns != 0 ? event.event_ns : now_ns;
}

}  // namespace

template <typename Address>
size_t BasicFlowTable<Address>::Hash(const FlowIdentity& identity) {
  const uint64_t rest = Alone(identity.src_port) | Alone(identity.dst_port) << 16 |
                        Alone(identity.zone) << 32 | Alone(identity.protocol) << 48;
  if constexpr (sizeof(Address) == 4) {
    return absl::HashOf(LoadWord(&identity), rest, identity.id);
  } else {
    const char* bytes = reinterpret_cast<const char*>(&identity);
    return absl::HashOf(LoadWord(bytes), LoadWord(bytes + 8), LoadWord(bytes + 16),
                        LoadWord(bytes + 24), rest, identity.id);
  }
}

template <typename Address>
bool BasicFlowTable<Address>::FlowTraits::Matches(const Flow& flow, const FlowIdentity& identity) {
  // As words and the id: this runs for every event.
  constexpr size_t kAddresses = 2 * sizeof(Address);
  static_assert(offsetof(Flow, src) == 0 && offsetof(Flow, dst) == offsetof(FlowIdentity, dst) &&
                offsetof(Flow, src_port) == offsetof(FlowIdentity, src_port) &&
                offsetof(Flow, dst_port) == offsetof(FlowIdentity, dst_port) &&
                offsetof(Flow, zone) == offsetof(FlowIdentity, zone) &&
                offsetof(Flow, protocol) == offsetof(FlowIdentity, protocol) &&
                offsetof(FlowIdentity, zero) == kAddresses + 7 &&
                offsetof(Flow, id) == kAddresses + 8);
  constexpr uint64_t kWithoutFlags = ~uint64_t{0} >> 8;
  const char* ours = reinterpret_cast<const char*>(&flow);
  const char* theirs = reinterpret_cast<const char*>(&identity);
  for (size_t at = 0; at < kAddresses; at += sizeof(uint64_t)) {
    if (LoadWord(ours + at) != LoadWord(theirs + at)) return false;
  }
  return ((LoadWord(ours + kAddresses) ^ LoadWord(theirs + kAddresses)) & kWithoutFlags) == 0 &&
         flow.id == identity.id;
}

template <typename Address>
uint64_t BasicFlowTable<Address>::LifeFingerprint(const Flow& flow, size_t hash) {
  return Fingerprint(hash, flow.start_exact ? static_cast<uint64_t>(flow.start_ns) : 0);
}

template <typename Address>
uint64_t BasicFlowTable<Address>::SupersededFingerprint(const Flow& flow, size_t hash) const {
  const uint64_t fingerprint = LifeFingerprint(flow, hash);
  return superseded_.Find(fingerprint) == nullptr
             ? fingerprint
             : Fingerprint(hash, static_cast<uint64_t>(flow.start_ns));
}

template <typename Address>
void BasicFlowTable<Address>::Start(int64_t now_ns, bool timestamps_on) {
  if (started_) return;
  started_ = true;
  timestamps_on_ = timestamps_on;
  started_ns_ = known_since_ns_ = tally_.front().began_ns = now_ns;
}

template <typename Address>
void BasicFlowTable<Address>::BeginRestore(int64_t known_since_ns, bool events_kept) {
  assert(started_ && dump_index_ == 0 && flows_.empty());
  restored_ = true;
  restored_with_events_ = events_kept;
  if (!events_kept) NoteOverrun(known_since_ns, known_since_ns_);
  // What ended before is late, as it is after a dump of this run.
  known_since_ns_ = tally_.front().began_ns = whole_began_ns_ = known_since_ns;
}

template <typename Address>
bool BasicFlowTable<Address>::Restore(const FlowRecord& record) {
  const size_t hash = Hash(record.identity);
  Flow restored(record.identity);
  restored.start_exact = (record.flags & kFlowStartExact) != 0;
  // Its close may have been among the events that nobody read; then dumps show it.
  restored.seen_new = restored_with_events_ && (record.flags & kFlowSeenNew) != 0;
  restored.closed = (record.flags & kFlowClosed) != 0;
  clock_was_set_back_ = clock_was_set_back_ || record.start_ns > Later(started_ns_, kClockSlackNs);
  restored.shown = (record.flags & kFlowShown) != 0;
  restored.restored = true;
  restored.start_ns = record.start_ns;
  restored.original = record.original;
  restored.reply = record.reply;
  if ((record.flags & kFlowSuperseded) != 0) {
    SetLastSeen(0, &restored);
    superseded_[SupersededFingerprint(restored, hash)] = restored;
    return false;
  }
  if ((record.flags & kFlowEnded) != 0) {
    destroyed_.Add(Fingerprint(hash, static_cast<uint64_t>(record.start_ns)));
    return false;
  }
  const auto [flow, added] = flows_.FindOrAddEntry(record.identity, hash);
  if (!added) return false;  // A snapshot holds no identity twice.
  *flow = restored;
  flow->open = (record.flags & kFlowOpen) != 0;
  SetLastSeen(0, flow);
  return flow->open;
}

template <typename Address>
void BasicFlowTable<Address>::Prefetch(const FlowEvent& event, size_t hash) const {
  flows_.Prefetch(hash);
  if (event.kind == FlowEventKind::kDestroy) destroyed_.Prefetch(StartFingerprint(event, hash));
}

template <typename Address>
void BasicFlowTable<Address>::PrefetchEntry(const FlowEvent& event, size_t hash) const {
  flows_.PrefetchEntry(hash);
  if (event.kind == FlowEventKind::kDestroy) {
    destroyed_.PrefetchEntry(StartFingerprint(event, hash));
  }
}

template <typename Address>
FlowChange BasicFlowTable<Address>::Apply(const FlowEvent& event, size_t hash, int64_t now_ns) {
  assert(started_);
  if (snapshot_ != nullptr) [[unlikely]]
    CopyShard(Flows::ShardOf(hash));
  switch (event.kind) {
    case FlowEventKind::kNew:
      return ApplyNew(event, hash, now_ns);
    case FlowEventKind::kUpdate:
      return ApplyUpdate(event, hash, now_ns);
    case FlowEventKind::kDump:
      return ApplyDump(event, hash, now_ns);
    case FlowEventKind::kDestroy:
      return ApplyDestroy(event, hash, now_ns);
  }
  return {};
}

template <typename Address>
typename BasicFlowTable<Address>::Flow* BasicFlowTable<Address>::Find(const FlowIdentity& identity,
                                                                      size_t hash,
                                                                      FlowChange* change) {
  Flow* flow = flows_.FindEntry(identity, hash);
  if (flow == nullptr || flows_.ShardOf(hash) < sweep_next_) [[likely]]
    return flow;
  if (!Sweep(*flow, change)) return flow;
  flows_.EraseEntry(flow, hash);
  return nullptr;
}

template <typename Address>
void BasicFlowTable<Address>::Erase(Flow* flow, size_t hash) {
  Untally(*flow);
  flows_.EraseEntry(flow, hash);
}

template <typename Address>
void BasicFlowTable<Address>::SetLastSeen(uint32_t dump_index, Flow* flow) {
  flow->last_seen = dump_index;
  ++tally_[dump_index - tally_floor_].flows;
}

template <typename Address>
void BasicFlowTable<Address>::Untally(const Flow& flow) {
  --(flow.last_seen >= tally_floor_ ? tally_[flow.last_seen - tally_floor_].flows : told_);
}

template <typename Address>
typename BasicFlowTable<Address>::SeenAtDump BasicFlowTable<Address>::TakeSeenBefore(
    uint32_t dump_index) {
  SeenAtDump all;
  if (dump_index <= tally_floor_) return all;
  const auto end = tally_.begin() + (dump_index - tally_floor_);
  for (auto seen = tally_.begin(); seen != end; ++seen) {
    if (seen->flows == 0) continue;
    all.began_ns = all.flows == 0 ? seen->began_ns : std::min(all.began_ns, seen->began_ns);
    all.flows += seen->flows;
  }
  tally_.erase(tally_.begin(), end);
  tally_floor_ = dump_index;
  told_ += all.flows;
  return all;
}

template <typename Address>
void BasicFlowTable<Address>::NoteUnreported(size_t flows, int64_t since_ns) {
  loss_.since_ns = loss_.unreported ? std::min(loss_.since_ns, since_ns) : since_ns;
  loss_.unreported = true;
  loss_.flows += flows;
}

template <typename Address>
bool BasicFlowTable<Address>::NoteExplained(int64_t happened_ns) {
  // In mode=light a NEW is not among the events lost.
  const bool explains = needs_resync_ && !events_hidden_ && counts_->events_new != 0 &&
                        happened_ns >= overrun_began_ns_ && happened_ns <= overrun_ended_ns_;
  events_explained_ += static_cast<size_t>(explains);
  return explains;
}

template <typename Address>
void BasicFlowTable<Address>::NoteHidden(int64_t happened_ns) {
  // A clock that was set says nothing of what was before a loss.
  events_hidden_ =
      events_hidden_ || (!needs_resync_ && !clock_was_set_back_ && counts_->events_new != 0 &&
                         happened_ns > std::max(overrun_ended_ns_, started_ns_));
}

template <typename Address>
FlowChange BasicFlowTable<Address>::ApplyNew(const FlowEvent& event, size_t hash, int64_t now_ns) {
  FlowChange change;
  ForgetEarlyClose(event.identity, hash);
  Flow* flow = sweeping() ? Find(event.identity, hash, &change) : nullptr;
  bool added = false;
  if (flow == nullptr) std::tie(flow, added) = flows_.FindOrAddEntry(event.identity, hash);
  // Born after a dump was asked for that has not begun here, which may have passed its place; or
  // after a loss, where the same goes for one that will be asked for.
  const bool before_dump = (needs_resync_ && resync_index_ == 0) ||
                           (dump_requested_ns_ != 0 && dump_requested_ns_ != dump_began_ns_);
  const uint32_t seen_at = before_dump ? dump_index_ + 1 : dump_index_;
  // The last whole dump would have shown it, if it lived: this is the next one. A dump that began
  // before the flow need not show it, and its NEW may be read before the frame that says that the
  // dump has begun.
  if (!added && flow->last_seen < last_whole_ &&
      (flow->shown || clock_was_set_back_ || ReadNs(flow->start_ns) < whole_began_ns_))
      [[unlikely]] {
    if (!flow->start_exact) {
      // Or the dump missed it and the NEW is repeated. Its start time would show which, but is not
      // known yet.
      NoteUnreported(0, tally_.front().began_ns);
      unclear_index_ = seen_at;
    } else {
      Supersede(flow, hash, &change);
      std::tie(flow, added) = flows_.FindOrAddEntry(event.identity, hash);
    }
  }
  flow->seen_new = true;
  // It was not lost: the kernel shows a flow a moment before it sends its NEW.
  if (flow->explains && needs_resync_) --events_explained_;
  flow->explains = false;
  // A dump has shown the flow before its NEW was taken, or the NEW is delivered again: for the sake
  // of a listener that does not read, the kernel repeats it with each of the flow's packets. If it
  // is the next incarnation, because a DESTROY was lost, its start time or its counters show it.
  if (added) {
    const bool read_late = events_kept_ && restored_ && last_whole_ == 0 && event.event_ns == 0;
    flow->start_ns = read_late ? ~now_ns : EventTime(event, now_ns);
    SetLastSeen(seen_at, flow);
    if (HasConnections(event.identity.protocol)) SetOpen(true, flow, &change);
  }
  // What is delivered again shows the present state.
  if (HasClosed(event)) [[unlikely]]
    Close(EventTime(event, now_ns), flow, &change);
  return change;
}

template <typename Address>
FlowChange BasicFlowTable<Address>::ApplyUpdate(const FlowEvent& event, size_t hash,
                                                int64_t now_ns) {
  FlowChange change;
  if (!NeedsLookup(event)) return change;
  if (Flow* flow = Find(event.identity, hash, &change); flow != nullptr) {
    Close(EventTime(event, now_ns), flow, &change);
  } else if (last_whole_ == 0 && early_closes_.size() < kEarlyClosesMax) {
    const auto [close, added] = early_closes_.FindOrAddEntry(event.identity, hash);
    if (added) close->closed_ns = EventTime(event, now_ns);
  }
  return change;
}

template <typename Address>
void BasicFlowTable<Address>::ForgetEarlyClose(const FlowIdentity& identity, size_t hash) {
  if (early_closes_.empty()) [[likely]]
    return;
  if (EarlyClose* close = early_closes_.FindEntry(identity, hash); close != nullptr) {
    early_closes_.EraseEntry(close, hash);
  }
}

template <typename Address>
FlowChange BasicFlowTable<Address>::ApplyDump(const FlowEvent& event, size_t hash, int64_t now_ns) {
  FlowChange change;
  Flow* flow = Find(event.identity, hash, &change);
  const bool forerunner = flow != nullptr && !flow->start_exact && IsForerunner(event, *flow);
  if (flow != nullptr && flow->start_exact && !IsOwn(event, *flow)) {
    // A dump has shown it, so what one shows now has followed it, also if the clock was set back
    // meanwhile. It may have ended since.
    NoteNoStart(event);
    if (destroyed_.Contains(StartFingerprint(event, hash))) {
      ++counts_->stale_dump_entries;
      return change;
    }
    Supersede(flow, hash, &change);
    flow = nullptr;
  } else if (flow != nullptr && !flow->start_exact) {
    // Its NEW may have been read before the clock was set back.
    const bool before_clock_set = forerunner && flow->start_ns > Later(now_ns, kClockSlackNs);
    if (before_clock_set || IsFollower(event, *flow)) {
      Supersede(flow, hash, &change);
      flow = nullptr;
    }
  }
  // Where start times do not help: a flow known since before this dump began has followed any
  // former incarnation in the kernel's table, so it cannot be that one that is shown. (Or since the
  // dump before: the kernel makes a dump's first datagram before it is received.)
  bool maybe_stale = false;
  const uint32_t dumps_since =
      flow != nullptr && !flow->shown && event.start_ns == 0 && timestamps_on_ ? 2 : 1;
  const bool surely_current =
      flow != nullptr &&
      (flow->start_exact || (event.start_ns == 0 && flow->last_seen + dumps_since <= dump_index_));
  if (!surely_current && destroyed_.Contains(StartFingerprint(event, hash))) {
    NoteNoStart(event);
    if (flow != nullptr && event.start_ns == 0) flow->skipped = true;
    maybe_stale = true;
    // One without a start time, because somebody switched these off for a while, may live.
    if (flow != nullptr || event.start_ns != 0 || !timestamps_on_) {
      ++counts_->stale_dump_entries;
      return change;
    }
  }
  NoteCounters(event);
  const EarlyClose* early =
      early_closes_.empty() ? nullptr : early_closes_.FindEntry(event.identity, hash);
  if (flow == nullptr) {
    flow = flows_.FindOrAddEntry(event.identity, hash).first;
    flow->start_ns = now_ns;
    SetLastSeen(dump_index_, flow);
    const Beginning beginning = BeginAccounting(event, hash, now_ns, KnowsOlder(), flow);
    if (beginning == Beginning::kPresent) flow->closed = HasClosed(event) && early == nullptr;
    if (beginning == Beginning::kZero) flow->explains = NoteExplained(event.start_ns);
  } else if (flow->start_exact) {
    // An earlier dump has shown it. Its NEW may have waited then, but not for so long.
    if (!flow->seen_new && !flow->restored && flow->last_seen < dump_index_ &&
        event.start_ns < Later(dump_began_ns_, -kReadLateNs)) [[unlikely]] {
      NoteHidden(event.start_ns);
    }
  } else if (event.start_ns == 0) {
    // Entries before this one, or before a restart, may have been taken for stale ones.
    if (!flow->shown) NoteNoStart(event);
  } else if (!flow->start_exact && !(AnyLaidAside() && TakeKnown(event, hash, flow)) &&
             forerunner) {
    // A NEW that was repeated made the entry.
    (void)BeginAccounting(event, hash, now_ns, false, flow);
  }
  if (event.start_ns != 0) {
    flow->start_ns = event.start_ns;
    flow->start_exact = true;
  }
  if (HasConnections(event.identity.protocol) && !flow->closed) SetOpen(true, flow, &change);
  Account(event, flow, &change.growth);
  flow->skipped = maybe_stale;
  if (early != nullptr) {
    Close(early->closed_ns, flow, &change);
    ForgetEarlyClose(event.identity, hash);
  }
  if (!flow->closed && HasClosed(event)) {
    // The kernel reports whole seconds, rounded down.
    const int64_t left_ns = event.timeout_seconds * kNanosPerSecond + kNanosPerSecond / 2;
    const int64_t closed_ns = ClosedBefore(now_ns, TimeoutNs(event.tcp_state) - left_ns, *flow);
    // Perhaps no event reported its close, or that event was lost. Otherwise an UPDATE may be under
    // way: the kernel sends it after the packet has passed.
    const bool update_lost =
        flow->seen_new && needs_resync_ && closed_ns <= Later(overrun_ended_ns_, -kNanosPerSecond);
    const bool no_update = closed_ns <= Later(dump_began_ns_, -kNanosPerSecond);
    if (update_lost) (void)NoteExplained(closed_ns);
    if (!flow->seen_new || update_lost || no_update) Close(closed_ns, flow, &change);
  }
  Untally(*flow);
  SetLastSeen(dump_index_, flow);
  flow->shown = true;
  return change;
}

template <typename Address>
FlowChange BasicFlowTable<Address>::ApplyDestroy(const FlowEvent& event, size_t hash,
                                                 int64_t now_ns) {
  FlowChange change;
  ForgetEarlyClose(event.identity, hash);
  Flow* flow = Find(event.identity, hash, &change);
  bool first_time = destroyed_.Add(StartFingerprint(event, hash));
  if (!first_time && event.start_ns != 0) {
    ++counts_->duplicate_destroys;
    return change;
  }
  if (flow != nullptr && !IsOwn(event, *flow)) [[unlikely]] {
    // A start in the future is that of a flow older than a clock set back; one without a start is
    // older than that setting. And one that a dump has shown without a start has none.
    const int64_t latest_ns = Later(now_ns, kClockSlackNs);
    const bool in_future =
        event.start_ns > latest_ns && (flow->start_exact || ReadNs(flow->start_ns) <= latest_ns);
    const bool other =
        in_future || (flow->start_exact ? event.start_ns == 0 : flow->shown && event.start_ns != 0);
    if (other || IsForerunner(event, *flow)) {
      if (!first_time) {
        NoteNoStart(event);
        ++counts_->duplicate_destroys;
        return change;
      }
      ApplyLateDestroy(event, hash, now_ns, flow, &change);
      return change;
    }
    if (IsFollower(event, *flow)) {
      Supersede(flow, hash, &change);
      flow = nullptr;
    }
  }
  if (event.start_ns == 0) {
    // Then the mark above only serves to know stale dump entries.
    first_time = destroyed_.Add(CounterFingerprint(event, hash));
    // Where others have start times, it may be of a flow before, and repeated.
    if (flow != nullptr && timestamps_on_ && !flow->shown) {
      NoteNoStart(event);
      ++counts_->unknown_destroys;
      return change;
    }
    // Where none has, a flow that lives cannot have been destroyed before.
    first_time = first_time || (flow != nullptr && !timestamps_on_);
  }
  if (!first_time) {
    if (flow != nullptr) NoteNoStart(event);
    ++counts_->duplicate_destroys;
    return change;
  }
  NoteEnded(event);
  if (flow != nullptr) {
    // Its NEW was read late, or this is of a forerunner whose DESTROY is repeated after a restart.
    const bool maybe_forerunner = !flow->start_exact && event.start_ns != 0 &&
                                  event.start_ns < Later(ReadNs(flow->start_ns), -kNewJitterNs);
    if (maybe_forerunner || flow->last_seen < last_whole_) [[unlikely]]
      NoteLate(event, now_ns, Beginning::kZero);
    if (!flow->start_exact && event.start_ns != 0 && AnyLaidAside()) {
      (void)TakeKnown(event, hash, flow);
    }
    End(event, now_ns, flow, &change);
    Erase(flow, hash);
    return change;
  }
  Flow unseen(event.identity);
  unseen.start_ns = EventTime(event, now_ns);
  // During the very first dump, events may be of flows older than the engine that the dump has not
  // shown yet.
  const Beginning beginning =
      BeginAccounting(event, hash, now_ns, KnowsOlder() || !dump_running_, &unseen);
  if (beginning == Beginning::kPresent) {
    ++counts_->unknown_destroys;
    return change;
  }
  // The kernel reports its birth before its end.
  if (beginning == Beginning::kZero && !NoteExplained(event.start_ns)) NoteHidden(event.start_ns);
  NoteLate(event, now_ns, beginning);
  End(event, now_ns, &unseen, &change);
  return change;
}

template <typename Address>
void BasicFlowTable<Address>::ApplyLateDestroy(const FlowEvent& event, size_t hash, int64_t now_ns,
                                               Flow* follower, FlowChange* change) {
  NoteEnded(event);
  Flow unseen(event.identity);
  const Beginning beginning = BeginAccounting(event, hash, now_ns, false, &unseen);
  // Its own NEW may have been taken for one of the follower, and its close with that.
  if (!follower->start_exact && follower->closed) unseen.closed = true;
  if (!follower->shown) {
    // Its NEW, repeated, made the entry. If not, a dump shows the follower.
    SetOpen(false, follower, change);
    Erase(follower, hash);
    follower = nullptr;
  }
  if (beginning == Beginning::kPresent) {
    ++counts_->unknown_destroys;
    return;
  }
  // Its NEW made the record that a dump has given to the follower, whose own NEW is to come.
  if (beginning == Beginning::kZero && follower != nullptr && follower->start_exact) {
    follower->seen_new = false;
  }
  NoteLate(event, now_ns, beginning);
  End(event, now_ns, &unseen, change);
}

template <typename Address>
void BasicFlowTable<Address>::NoteLate(const FlowEvent& event, int64_t now_ns,
                                       Beginning beginning) {
  if (event.stop_ns == 0 && !timestamps_on_) return;
  if (event.stop_ns < whole_began_ns_ || event.stop_ns > Later(now_ns, kClockSlackNs) ||
      (beginning == Beginning::kKnown && clock_was_set_back_)) {
    NoteUnreported(0, std::min(event.stop_ns, whole_began_ns_));
  }
}

template <typename Address>
bool BasicFlowTable<Address>::TakeKnown(const FlowEvent& event, size_t hash, Flow* flow) {
  const auto continue_from = [&](const auto& before) {
    flow->start_ns = before.start_ns;
    flow->original = before.original;
    flow->reply = before.reply;
    // A repeated NEW may have made another entry meanwhile, and its close been counted there.
    flow->seen_new = flow->seen_new || before.seen_new;
    flow->closed = flow->closed || before.closed;
    return true;
  };
  const auto take = [&](int64_t life, const auto& fits) {
    const uint64_t fingerprint = Fingerprint(hash, static_cast<uint64_t>(life));
    const Flow* const found = superseded_.empty() ? nullptr : superseded_.Find(fingerprint);
    if (found != nullptr && fits(*found)) {
      const Flow before = *found;
      Untally(before);
      superseded_.Erase(fingerprint);
      return continue_from(before);
    }
    const auto before = forgotten_.Take(fingerprint);
    return before.has_value() && fits(*before) && continue_from(*before);
  };
  if (event.start_ns == 0 && timestamps_on_) return false;
  if (take(event.start_ns, [](const auto&) { return true; })) return true;
  if (event.start_ns == 0) return false;
  // Or one that no dump has shown: its start is when its NEW was read. What began long ago must fit
  // better: it may be another one of the tuple.
  return take(0, [&](const auto& before) {
    const int64_t read_ns = ReadNs(before.start_ns);
    const int64_t late_ns = BeganKnown(event.start_ns) ? kClockSlackNs : 10 * kNewJitterNs;
    return before.original.packets == 0 && event.start_ns <= Later(read_ns, kNewJitterNs) &&
           event.start_ns >= Later(read_ns, -late_ns);
  });
}

template <typename Address>
typename BasicFlowTable<Address>::Beginning BasicFlowTable<Address>::BeginAccounting(
    const FlowEvent& event, size_t hash, int64_t now_ns, bool if_start_unknown, Flow* flow) {
  // Until the first dump is done, a flow that is not known is older than the engine.
  const bool may_be_new = KnowsOlder() || dump_index_ > 1 || clock_was_set_back_;
  if (event.start_ns > Later(now_ns, kClockSlackNs)) clock_was_set_back_ = true;
  if (AnyLaidAside() && TakeKnown(event, hash, flow)) return Beginning::kKnown;
  if (CountsFromZero(event, now_ns, if_start_unknown)) return Beginning::kZero;
  flow->original = event.original;
  flow->reply = event.reply;
  // Two whole dumps should have shown it. It was missed, or forgotten; or this is a DESTROY
  // that is repeated long after.
  if (may_be_new) NoteUnreported(0, tally_.front().began_ns);
  return Beginning::kPresent;
}

template <typename Address>
bool BasicFlowTable<Address>::IsOwn(const FlowEvent& event, const Flow& flow) const {
  if (flow.start_exact) return event.start_ns == flow.start_ns;
  if (flow.shown || event.start_ns > Later(ReadNs(flow.start_ns), kNewJitterNs)) return false;
  return BeganKnown(event.start_ns) ||
         event.start_ns >= Later(ReadNs(flow.start_ns), -kNewJitterNs);
}

template <typename Address>
bool BasicFlowTable<Address>::IsFollower(const FlowEvent& event, const Flow& flow) const {
  if (event.start_ns == 0 || IsOwn(event, flow)) return false;
  if (flow.start_exact) return event.start_ns > flow.start_ns;
  // A dump has shown that it has none.
  return flow.shown || event.start_ns > Later(ReadNs(flow.start_ns), kNewJitterNs);
}

template <typename Address>
bool BasicFlowTable<Address>::IsForerunner(const FlowEvent& event, const Flow& flow) const {
  if (event.start_ns == 0) return false;
  if (flow.start_exact) return event.start_ns < flow.start_ns;
  // A NEW may be repeated with the time that it had at first.
  const bool of_first_dump =
      event.kind == FlowEventKind::kDump && last_whole_ == 0 && !flow.restored && !events_kept_;
  return !BeganKnown(event.start_ns) &&
         (of_first_dump || event.start_ns < Later(ReadNs(flow.start_ns), -kNewJitterNs));
}

template <typename Address>
void BasicFlowTable<Address>::NoteEnded(const FlowEvent& event) {
  if (event.start_ns < ended_since_ns_) [[likely]]
    return;
  if (ended_.size() < kEndedMax) {
    ended_.push_back({event.identity, event.start_ns});
  } else {
    ended_since_ns_ = Later(event.start_ns, 1);
  }
}

template <typename Address>
void BasicFlowTable<Address>::NoteNoStart(const FlowEvent& event) {
  if (timestamps_on_ && event.start_ns == 0) loss_.uncounted = true;
}

template <typename Address>
void BasicFlowTable<Address>::NoteCounters(const FlowEvent& event) {
  if (event.has_counters) [[likely]]
    return;
  ++counts_->without_counters;
  loss_.uncounted = true;
}

template <typename Address>
void BasicFlowTable<Address>::End(const FlowEvent& event, int64_t now_ns, Flow* flow,
                                  FlowChange* change) {
  NoteCounters(event);
  Account(event, flow, &change->growth);
  change->growth.flow_count = 1;
  change->growth.unanswered_count = IsUnanswered(event) ? 1 : 0;
  if (!HasConnections(event.identity.protocol)) return;
  if (event.start_ns != 0) {
    flow->start_ns = event.start_ns;
    flow->start_exact = true;
  }
  int64_t end_ns = event.stop_ns != 0 ? event.stop_ns : EventTime(event, now_ns);
  // Past its close, which was not reported: it has probably expired. The kernel's stop time is
  // when it did so, not when that was noticed. Wrong where somebody deleted it before (conntrack
  // -F, a full table): then the duration does not include the rest of the timeout, at most up to
  // the last dump that showed it. A connection that was refused closes when it ends, without an
  // UPDATE (nf_ct_kill_acct() in net/netfilter/nf_conntrack_proto_tcp.c).
  const bool refused = flow->seen_new && (event.status & IPS_SEEN_REPLY) == 0;
  if (!refused && !flow->closed && HasClosed(event)) {
    end_ns = ClosedBefore(end_ns, TimeoutNs(event.tcp_state), *flow);
  }
  Close(end_ns, flow, change);
}

template <typename Address>
int64_t BasicFlowTable<Address>::TimeoutNs(TcpState state) const {
  switch (state) {
    case TcpState::kCloseWait:
      return timeouts_.close_wait_seconds * kNanosPerSecond;
    case TcpState::kLastAck:
      return timeouts_.last_ack_seconds * kNanosPerSecond;
    case TcpState::kTimeWait:
      return timeouts_.time_wait_seconds * kNanosPerSecond;
    case TcpState::kClose:
      return timeouts_.close_seconds * kNanosPerSecond;
    default:
      return 0;
  }
}

template <typename Address>
int64_t BasicFlowTable<Address>::ClosedBefore(int64_t now_ns, int64_t in_state_ns,
                                              const Flow& flow) const {
  int64_t closed_ns;
  // Negative where the timeouts are not what we think. And the times of a capture may be anything.
  if (__builtin_sub_overflow(now_ns, std::max<int64_t>(in_state_ns, 0), &closed_ns)) {
    closed_ns = flow.start_ns;
  }
  closed_ns = std::max(closed_ns, flow.start_ns);
  // A dump that has shown it did so before its close, or it would have been counted then; except in
  // the last second, where an UPDATE was waited for.
  const int64_t waited_ns = flow.seen_new ? kNanosPerSecond : 0;
  if (flow.shown && flow.last_seen == dump_index_) {
    closed_ns = std::max(closed_ns, Later(dump_began_ns_, -waited_ns));
  } else if (flow.shown && flow.last_seen + 1 == dump_index_) {
    closed_ns = std::max(closed_ns, Later(dump_before_began_ns_, -waited_ns));
  }
  return std::min(closed_ns, now_ns);
}

template <typename Address>
void BasicFlowTable<Address>::Account(const FlowEvent& event, Flow* flow, TrafficSums* growth) {
  if (!event.has_counters) return;
  if (flow->skipped) [[unlikely]] {
    NoteNoStart(event);
    flow->skipped = false;
  }
  if (event.original.packets < flow->original.packets ||
      event.original.bytes < flow->original.bytes || event.reply.packets < flow->reply.packets ||
      event.reply.bytes < flow->reply.bytes) {
    ++counts_->counter_falls;
    NoteUnreported(
        0, tally_[flow->last_seen >= tally_floor_ ? flow->last_seen - tally_floor_ : 0].began_ns);
    flow->original = flow->reply = FlowCounters();
  }
  growth->original.packets += event.original.packets - flow->original.packets;
  growth->original.bytes += event.original.bytes - flow->original.bytes;
  growth->reply.packets += event.reply.packets - flow->reply.packets;
  growth->reply.bytes += event.reply.bytes - flow->reply.bytes;
  flow->original = event.original;
  flow->reply = event.reply;
}

template <typename Address>
void BasicFlowTable<Address>::Close(int64_t end_ns, Flow* flow, FlowChange* change) {
  SetOpen(false, flow, change);
  if (flow->closed) return;
  flow->closed = true;
  ++change->growth.connection_count;
  // Never negative: the wall clock may have been set back meanwhile. Unsigned: two times in a
  // capture may be further apart than an int64_t can hold.
  if (end_ns > flow->start_ns && (flow->start_exact || flow->start_ns >= 0)) {
    change->growth.AddConnectionTime(
        (static_cast<uint64_t>(end_ns) - static_cast<uint64_t>(flow->start_ns)) / 1000);
  }
}

template <typename Address>
void BasicFlowTable<Address>::SetOpen(bool open, Flow* flow, FlowChange* change) {
  change->open_change += static_cast<int>(open) - static_cast<int>(flow->open);
  flow->open = open;
}

template <typename Address>
void BasicFlowTable<Address>::Supersede(Flow* flow, size_t hash, FlowChange* change) {
  SetOpen(false, flow, change);
  const uint64_t fingerprint = SupersededFingerprint(*flow, hash);
  if (superseded_.size() < kSupersededMax) {
    auto [entry, added] = superseded_.FindOrAddEntry(fingerprint, superseded_.Hash(fingerprint));
    if (added) {
      entry->second = *flow;
      // It stays in the tally.
      flows_.EraseEntry(flow, hash);
      return;
    }
  } else {
    destroyed_.Add(fingerprint);
    NoteUnreported(1, tally_.front().began_ns);
  }
  Erase(flow, hash);
}

template <typename Address>
bool BasicFlowTable<Address>::BeganKnown(int64_t start_ns) const {
  // Where dumps follow each other fast, a flow that was forgotten may have begun since
  // known_since_ns_.
  return start_ns >= known_since_ns_ && start_ns > forgotten_.lost_until_ns();
}

template <typename Address>
bool BasicFlowTable<Address>::CountsFromZero(const FlowEvent& event, int64_t now_ns,
                                             bool if_start_unknown) const {
  // A start in the future is that of a flow older than a clock set back.
  if (event.start_ns != 0) {
    return BeganKnown(event.start_ns) && event.start_ns <= Later(now_ns, kClockSlackNs);
  }
  // Where new flows have start times, a flow without one is older than that setting. Elsewhere it
  // may have been forgotten.
  return if_start_unknown && !timestamps_on_ && !forgotten_.lost_some();
}

template <typename Address>
void BasicFlowTable<Address>::BeginDump(int64_t now_ns, bool asked_since_overrun) {
  assert(started_);
  dump_running_ = true;
  ++dump_index_;
  tally_.back().began_ns = now_ns;
  tally_.push_back({0, now_ns});
  // The kernel sets a flow's start a moment before dumps can show it.
  ended_since_ns_ = Later(now_ns, -kNewJitterNs);
  std::erase_if(ended_, [this](const Ended& flow) { return flow.start_ns < ended_since_ns_; });
  dump_before_began_ns_ = dump_began_ns_;
  dump_began_ns_ = now_ns;
  if (needs_resync_ && resync_index_ == 0 && asked_since_overrun) resync_index_ = dump_index_;
}

template <typename Address>
void BasicFlowTable<Address>::FinishDump(bool whole) {
  dump_running_ = false;
  if (!whole) return;
  whole_before_ = last_whole_;
  last_whole_ = dump_index_;
  // Captures are not in order to the microsecond, nor is a dump's first datagram received when it
  // was made.
  known_since_ns_ = std::max(known_since_ns_, Later(whole_began_ns_, -kClockSlackNs));
  if (whole_before_ != 0) {
    constexpr int64_t kNever = std::numeric_limits<int64_t>::max();
    known_since_ns_ = std::min(known_since_ns_, std::exchange(set_back_to_ns_, kNever));
  }
  whole_began_ns_ = dump_began_ns_;
  if (!early_closes_.empty()) early_closes_ = EarlyCloses();
  if (unclear_index_ != 0) {
    NoteUnreported(0, tally_.front().began_ns);
    if (unclear_index_ < whole_before_) unclear_index_ = 0;
  }
  if (!needs_resync_) {
    const SeenAtDump unreported = TakeSeenBefore(whole_before_);
    if (unreported.flows != 0) NoteUnreported(unreported.flows, unreported.began_ns);
  } else if (resync_index_ != 0) {
    // A dump that ran when the events were lost may have passed by what died or was born then.
    needs_resync_ = false;
    flows_lost_ = TakeSeenBefore(resync_index_).flows;
  }
  forget_before_ = std::min(whole_before_, tally_floor_);
  if (told_ != 0) {
    sweep_next_ = 0;
  } else if (!superseded_.empty()) {
    sweep_next_ = Flows::shards();
  }
}

template <typename Address>
void BasicFlowTable<Address>::EndRun() {
  if (needs_resync_ || last_whole_ == 0 || last_whole_ != dump_index_) return;
  forget_before_ = last_whole_;
  run_ends_ = true;
  sweep_next_ = 0;
}

template <typename Address>
bool BasicFlowTable<Address>::SweepSome(std::vector<FlowIdentity>* no_longer_open) {
  size_t slots = 0;
  for (; sweep_next_ < Flows::shards() && slots < kSweepSlots; ++sweep_next_) {
    slots += flows_.SlotsOfShard(sweep_next_);
    if (snapshot_ != nullptr) CopyShard(sweep_next_);
    flows_.EraseIfInShard(sweep_next_, [&](Flow* flow) {
      FlowChange change;
      const bool forgotten = Sweep(*flow, &change);
      if (change.open_change != 0) no_longer_open->push_back(flow->Identity());
      return forgotten;
    });
  }
  for (; sweep_next_ >= Flows::shards() && sweep_next_ < kSweepEnd && slots < kSweepSlots;
       ++sweep_next_) {
    const size_t shard = sweep_next_ - Flows::shards();
    slots += superseded_.SlotsOfShard(shard);
    superseded_.EraseIfInShard(shard, [&](auto* entry) {
      FlowChange ignored;
      return Sweep(entry->second, &ignored);
    });
  }
  if (sweeping()) return true;
  return destroyed_.ForgetSome();
}

template <typename Address>
bool BasicFlowTable<Address>::Sweep(const Flow& flow, FlowChange* change) {
  if (flow.last_seen >= forget_before_) return false;
  if (run_ends_ && flow.last_seen >= tally_floor_) {
    // A capture may contain the NEW before a dump that had passed its place.
    if (!flow.shown && ReadNs(flow.start_ns) >= Later(whole_began_ns_, -kClockSlackNs))
      return false;
    NoteUnreported(1, tally_[flow.last_seen - tally_floor_].began_ns);
  }
  change->open_change -= static_cast<int>(flow.open);
  Untally(flow);
  ++counts_->forgotten_flows;
  // No later than the dump that does not show it, whatever its start says (a clock set back).
  const int64_t latest_start_ns =
      std::min(dump_began_ns_,
               flow.start_exact ? flow.start_ns : Later(ReadNs(flow.start_ns), kNewJitterNs));
  forgotten_.Add(
      LifeFingerprint(flow, Hash(flow.Identity())),
      {flow.start_ns, latest_start_ns, flow.original, flow.reply, flow.seen_new, flow.closed});
  return true;
}

template <typename Address>
void BasicFlowTable<Address>::NoteOverrun(int64_t began_ns, int64_t ended_ns) {
  if (!needs_resync_) {
    events_explained_ = 0;
    overrun_began_ns_ = began_ns;
  }
  overrun_ended_ns_ = ended_ns;
  needs_resync_ = true;
  resync_index_ = 0;
}

template <typename Address>
void BasicFlowTable<Address>::BeginSnapshot(uint64_t seal, SnapshotStream* out, bool taken) {
  chunk_ = SnapshotChunk();
  chunk_.seal = seal;
  chunk_.known_since_ns =
      dump_index_ == 0 ? known_since_ns_ : std::max(known_since_ns_, ended_since_ns_);
  // An event read since may have happened before one that is still to be read.
  chunk_.taken_ns = dump_began_ns_ != 0 ? dump_began_ns_ : known_since_ns_;
  if (!taken) {
    LeaveOutSnapshot(seal, out);
    return;
  }
  snapshot_ = out;
  copied_.reset();
  copy_next_ = 0;
  copy_seen_since_ = forget_before_;
  // Few, unless very many events were lost.
  superseded_.ForEach([&](const auto& entry) { CopyFlow(entry.second, kFlowSuperseded); });
  for (const Ended& flow : ended_) {
    if (flow.start_ns >= ended_since_ns_)
      CopyRecord({flow.identity, kFlowEnded, flow.start_ns, {}, {}});
  }
}

template <typename Address>
void BasicFlowTable<Address>::LeaveOutSnapshot(uint64_t seal, SnapshotStream* out) {
  FinishSnapshot();
  SnapshotChunk none;
  none.seal = seal;
  none.last = true;
  none.whole = false;
  out->Push(std::move(none));
}

template <typename Address>
bool BasicFlowTable<Address>::SnapshotSome() {
  if (snapshot_ != nullptr && !snapshot_->IsFull()) {
    CopySome(kSweepSlots);
    return snapshot_ != nullptr;
  }
  return false;
}

template <typename Address>
void BasicFlowTable<Address>::FinishSnapshot() {
  if (snapshot_ != nullptr) CopySome(std::numeric_limits<size_t>::max());
}

template <typename Address>
void BasicFlowTable<Address>::CopySome(size_t slots_max) {
  for (size_t slots = 0; copy_next_ < Flows::shards() && slots < slots_max; ++copy_next_) {
    if (!copied_[copy_next_]) slots += flows_.SlotsOfShard(copy_next_);
    CopyShard(copy_next_);
  }
  if (copy_next_ < Flows::shards()) return;
  chunk_.last = true;
  PushChunk();
  snapshot_ = nullptr;
}

template <typename Address>
void BasicFlowTable<Address>::CopyShard(size_t shard) {
  if (copied_[shard]) return;
  copied_[shard] = true;
  flows_.ForEachInShard(shard, [&](const Flow& flow) { CopyFlow(flow, 0); });
}

template <typename Address>
void BasicFlowTable<Address>::PushChunk() {
  SnapshotChunk next;
  next.seal = chunk_.seal;
  next.known_since_ns = chunk_.known_since_ns;
  next.taken_ns = chunk_.taken_ns;
  snapshot_->Push(std::exchange(chunk_, std::move(next)));
}

template <typename Address>
void BasicFlowTable<Address>::CopyRecord(const FlowRecord& record) {
  if (chunk_.template RecordsOf<Address>().size() == SnapshotChunk::kRecordsMax) PushChunk();
  std::vector<FlowRecord>& records = chunk_.template RecordsOf<Address>();
  if (records.empty()) records.reserve(SnapshotChunk::kRecordsMax);
  records.push_back(record);
}

template <typename Address>
void BasicFlowTable<Address>::CopyFlow(const Flow& flow, uint32_t flags) {
  if (flow.last_seen < copy_seen_since_) return;
  flags |= (flow.start_exact ? kFlowStartExact : 0) | (flow.seen_new ? kFlowSeenNew : 0) |
           (flow.shown ? kFlowShown : 0) | (flow.closed ? kFlowClosed : 0) |
           (flow.open ? kFlowOpen : 0);
  CopyRecord({flow.Identity(), flags, flow.start_ns, flow.original, flow.reply});
}

template <typename Address>
void BasicFlowTable<Address>::NoteClockSetBack(int64_t now_ns) {
  clock_was_set_back_ = true;
  // Flows older than the engine are known by now. If not, they look like new ones.
  if (!KnowsOlder()) NoteUnreported(0, now_ns);
  if (restored_ && whole_before_ == 0) {
    set_back_to_ns_ = std::min(set_back_to_ns_, now_ns);
  } else {
    known_since_ns_ = std::min(known_since_ns_, now_ns);
  }
  dump_began_ns_ = std::min(dump_began_ns_, now_ns);
  whole_began_ns_ = std::min(whole_began_ns_, now_ns);
  forgotten_.NoteClockSetBack(now_ns);
}

template <typename Address>
void BasicFlowTable<Address>::EndInterval() {
  // Without start times the memory must be short: a fingerprint may equal that of the next
  // incarnation. With them a DESTROY is remembered as long as it would count from zero if the
  // kernel repeated it: until two whole dumps have begun since, the first of them kClockSlackNs
  // later. The kernel repeats it to all listeners while one of them does not read, and with
  // reliable delivery to all our sockets while one of them is full.
  if (timestamps_on_ && !(destroyed_.IsLarge() && whole_before_ > aged_at_dump_ + 2)) return;
  aged_at_dump_ = dump_index_;
  destroyed_.EndGeneration();
}

template class BasicFlowTable<Ipv4Address>;
template class BasicFlowTable<Ipv6Address>;

}  // namespace ctacct
