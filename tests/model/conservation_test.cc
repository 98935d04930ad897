// The promise of docs/accounting.md, against a model of the kernel that knows what really moved.
//
// The model has a small table of flows that are born, move packets and die; event sockets that
// overflow as the kernel's do; and dumps made in pieces meanwhile. It drives the real Worker,
// IntervalMerge, Checkpoint and Restart as EventLoop, Collector and Flusher would. It repeats and
// suppresses events, cuts dumps short, lets them miss or repeat flows, switches settings off, sets
// the clock, stops reading for seconds, and kills the engine between any two steps.
//
// Two assertions: an interval that is complete or resynced has exactly the packets that were due in
// it, and no flow and no close is ever counted twice. "Due" is what the kernel has reported or
// should have: the counters that a dump shows or a DESTROY reports; and those of a flow that ended
// unreported, once two whole dumps did not show it.
//
// CTACCT_MODEL_SECONDS sets how long it runs (default: 5 for each kind of engine),
// CTACCT_MODEL_SEED where it begins. A failure names the seed; the run of one seed is
// deterministic.
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/accounting/worker.h"
#include "engine/output/checkpoint.h"
#include "engine/output/interval_merge.h"
#include "engine/restart.h"
#include "gtest/gtest.h"
#include "netlink/event_filter.h"

namespace ctacct {
namespace {

constexpr int64_t kMilli = 1'000'000;
constexpr int64_t kSecond = 1000 * kMilli;
constexpr int64_t kEpoch = 1'600'000'000 * kSecond;
constexpr uint32_t kWorkers = 2;
constexpr size_t kSlots = 40;
constexpr int64_t kIntervalNs = 4 * kSecond;

// One incarnation of a flow, and what the engine must know of it.
struct Life {
  size_t slot = 0;
  int64_t birth = 0;  // How many births there were, this one included.
  int64_t start_ns = 0;
  int64_t born_ns = 0;       // Monotonic.
  int64_t new_ns = 0;        // Monotonic: when its last NEW was sent.
  int64_t read_ns = 0;       // Monotonic: when the engine read its last event.
  uint64_t packets = 0;      // Really moved.
  uint64_t due = 0;          // That must be in rows.
  bool counted = true;       // nf_conntrack_acct was on at its birth.
  bool stamped = true;       // nf_conntrack_timestamp was on at its birth.
  bool reports = true;       // nf_conntrack_events was on at its birth.
  bool reports_end = true;   // No rule masks its DESTROY.
  bool older = false;        // Older than the engine, and no dump has shown it.
  bool told = false;         // The engine knows of it.
  bool shown = false;        // By a dump.
  bool new_pending = false;  // The kernel repeats its NEW with each packet.
  bool missed = false;       // A dump should have shown it.
  bool unclear = false;      // Known by its NEW alone, and may be taken for another one.
  bool given_up = false;     // It lives, but the engine has said that it ended unreported.
  bool ended = false;
  uint32_t last_shown = 0;  // The dump that has shown it last, or that ran at its birth.
};
using LifePtr = std::shared_ptr<Life>;
using Packets =
    std::array<uint64_t, kSlots>;  // By the flow's slot, which its source address contains.

uint64_t NumberFrom(const char* variable, uint64_t otherwise) {
  const char* const text = std::getenv(variable);
  uint64_t number = 0;
  return text != nullptr && absl::SimpleAtoi(text, &number) ? number : otherwise;
}

struct EngineKind {
  const char* name;
  bool light;        // No NEW, no UPDATE.
  bool timestamps;   // nf_conntrack_timestamp can be on.
  bool event_times;  // Since Linux 6.14.
};

class Model {
 public:
  Model(uint64_t seed, const EngineKind& kind, const std::string& folder)
      : random_(seed), kind_(kind), folder_(folder) {
    // Each run has its own mixture of trouble.
    const auto rate = [&](double most) { return Chance(0.4) ? 0.0 : Real() * most; };
    rates_.death = Chance(0.3) ? 0.01 : 0.15 * Real();
    rates_.flush = rate(0.005);
    rates_.repeat = rate(0.3);
    rates_.mask = rate(0.2);
    rates_.miss = rate(0.02);
    rates_.twice = rate(0.1);
    rates_.cut = rate(0.2);
    rates_.settings = rate(0.002);
    // Without start times, incarnations whose ends are not reported cannot be distinguished.
    (Chance(0.5) ? rates_.settings : rates_.mask) = 0;
    rates_.clock = rate(0.001);
    rates_.kill = rate(0.002);
    rates_.stop = rate(0.002);
    rates_.idle = 0.2 + 0.75 * Real();
    rates_.stall = rate(0.9);
    rates_.hold = rate(0.01);
    // Nor can they if it is not known when a NEW happened that is read late.
    if (rates_.hold > 0 && !kind_.event_times) rates_.mask = 0;
    queue_max_ = Chance(0.5) ? 1000 : static_cast<size_t>(3 + Up(40));
    std::filesystem::create_directories(folder_);
    for (size_t i = 0; i < kSlots; ++i) {
      FlowIdentity identity;
      identity.src = Ipv4Address::FromHostOrder(0x0a000000 + static_cast<uint32_t>(i));
      identity.dst = Ipv4Address::FromHostOrder(0x0b000001);
      identity.protocol = i % 3 == 0 ? kProtocolTcp : kProtocolUdp;
      identity.src_port = static_cast<uint16_t>(1000 + i);
      identity.dst_port = 80;
      identity.id = static_cast<uint32_t>(i * 7);
      slots_.push_back({identity, nullptr});
    }
    for (size_t i = 0; i < kSlots / 2; ++i) Birth(i);
    monotonic_ns_ += kSecond;
    StartEngine(/*events_kept=*/false);
  }

  // False once an assertion has failed; see problem().
  bool Run(int steps) {
    for (int i = 0; i < steps && problem_.empty(); ++i) Step();
    return problem_.empty();
  }
  const std::string& problem() const { return problem_; }
  const std::array<uint64_t, 3>& intervals() const { return intervals_; }
  uint64_t restarts() const { return restarts_; }
  uint64_t dropped() const { return dropped_; }

 private:
  struct Slot {
    FlowIdentity identity;
    LifePtr life;  // nullptr: none lives.
  };
  struct Rates {
    double death, flush, repeat, mask, miss, twice, cut, settings, clock, kill, stop, idle, stall,
        hold;
  };
  struct Event {
    FlowEvent event;
    LifePtr life;
  };
  // A worker, its event socket, and what EventLoop knows of both.
  struct Share {
    std::deque<Event> queue;
    bool congested = false;  // The kernel drops all until the queue is empty.
    bool error = false;      // ENOBUFS waits to be read.
    uint64_t drops = 0;
    bool overrun = false;
    int64_t drained_ns = 0;
    int64_t over_ns = 0;  // Monotonic: when the last overrun was over.
    uint32_t resync_index = 0;
    std::unique_ptr<AccountingHandoff> handoff;
    std::unique_ptr<SnapshotStream> stream;
    std::unique_ptr<Worker> worker;
  };
  struct Entry {
    FlowEvent event;
    LifePtr life;
  };
  struct Dump {
    bool ends_interval = false;
    bool whole = true;
    bool begun = false;
    int64_t requested_ns = 0;
    std::vector<size_t> order;  // Slots still to be shown, last first.
    std::vector<Entry> chunk;   // Made by the kernel, and not received yet.
  };
  // What was due at an interval's end: of all intervals, and of each flow that lived or was a
  // ghost.
  struct Due {
    Packets packets{};
    struct OfLife {
      uint64_t packets = 0;
      bool given_up = false;
    };
    std::map<LifePtr, OfLife> of_life;
  };
  struct Interval {
    uint64_t sequence = 0;
    uint64_t seal = 0;
    std::shared_ptr<const Due> due;
    Completeness completeness = Completeness::kComplete;
    Packets packets{};
    Packets closes{};
  };

  double Real() { return std::uniform_real_distribution<double>(0, 1)(random_); }
  bool Chance(double p) { return p > 0 && Real() < p; }
  int64_t Up(int64_t most) { return std::uniform_int_distribution<int64_t>(0, most)(random_); }
  int64_t WallNs() const { return kEpoch + monotonic_ns_ + clock_offset_ns_; }
  Share& ShareOf(const Slot& slot) { return shares_[OwnerOfFlow(slot.identity.id, kWorkers)]; }

  // ---- The kernel ----

  void Step() {
    monotonic_ns_ += Up(60 * kMilli);
    if (Chance(rates_.settings)) {
      // Without start times the end of one flow hides the next one's birth, so a loss has no bound.
      const bool may_lose = queue_max_ < 1000;
      (Chance(0.5) ? acct_ : Chance(0.5) || may_lose ? events_ : timestamps_) = false;
    }
    if (Chance(rates_.clock)) {
      Trace(kSlots, "clock is set");
      // A NEW without a time that waits meanwhile seems to have happened before its flow's start.
      if (!kind_.event_times) {
        for (Share& share : shares_) Turn(&share);
      }
      // If the clock is set back and the engine restarts, a flow that ended before looks like one
      // that began since.
      repeats_.clear();
      clock_was_set_ = true;
      const int64_t by_ns =
          Chance(0.5) ? Up(4 * kSecond) - 2 * kSecond : Up(7200 * kSecond) - 3600 * kSecond;
      clock_offset_ns_ += by_ns;
      // Events come all the time, so an engine notices at once.
      if (by_ns < 0) NoteClockSetBack();
    }
    if (Chance(rates_.flush)) {
      for (Slot& slot : slots_) {
        if (slot.life != nullptr && MayEnd(*slot.life)) Death(slot);
      }
    }
    for (int i = 0; i < 4; ++i) {
      const auto number = static_cast<size_t>(Up(kSlots - 1));
      Slot& slot = slots_[number];
      if (slot.life == nullptr) {
        if (Chance(0.3)) Birth(number);
      } else if (Chance(rates_.death) && MayEnd(*slot.life)) {
        Death(slot);
        if (Chance(0.3)) Birth(number);  // The tuple is used again at once.
      } else {
        Packet(slot);
      }
    }
    if (Chance(rates_.kill)) return Restart(/*clean=*/false);
    if (Chance(rates_.stop)) return Restart(/*clean=*/true);
    // Somebody else has the CPU, for longer than anything that the engine reckons with.
    if (Chance(rates_.hold)) held_until_ns_ = monotonic_ns_ + Up(8 * kSecond);
    if (monotonic_ns_ < held_until_ns_) return;
    if (Chance(rates_.idle)) return;  // The engine does nothing.
    if (Chance(rates_.stall)) return;
    Engine();
  }

  void NoteClockSetBack() {
    for (Share& share : shares_) share.worker->NoteClockSetBack(WallNs());
    // The next one of the tuple may have the same start by the clock as it is now.
    for (const Slot& slot : slots_) {
      if (slot.life != nullptr) slot.life->unclear = !slot.life->shown;
    }
    for (const LifePtr& ghost : ghosts_) ghost->unclear = !ghost->shown;
  }

  FlowEvent EventOf(const Slot& slot, FlowEventKind kind) {
    FlowEvent event;
    event.kind = kind;
    event.identity = slot.identity;
    if (kind_.event_times && timestamps_on_ && kind != FlowEventKind::kDump)
      event.event_ns = WallNs();
    const Life& life = *slot.life;
    if (kind != FlowEventKind::kDump && kind != FlowEventKind::kDestroy) return event;
    event.has_counters = life.counted;
    if (life.counted) {
      event.original = {life.packets, life.packets * 100};
      event.reply = {life.packets / 2, life.packets * 10};
    }
    if (life.stamped) event.start_ns = life.start_ns;
    if (life.stamped && kind == FlowEventKind::kDestroy) event.stop_ns = WallNs();
    return event;
  }

  // False: dropped.
  bool Send(Slot& slot, const FlowEvent& event) {
    if (!listening_) return false;
    Share& share = ShareOf(slot);
    if (share.congested || share.queue.size() >= queue_max_) {
      share.congested = share.error = true;
      ++share.drops;
      ++dropped_;
      Trace(slot.life->slot, "dropped ", static_cast<int>(event.kind));
      return false;
    }
    share.queue.push_back({event, slot.life});
    Trace(slot.life->slot, "sent ", static_cast<int>(event.kind), " start ", event.start_ns,
          " packets ", event.original.packets);
    return true;
  }

  void Birth(size_t number) {
    Slot& slot = slots_[number];
    slot.life = std::make_shared<Life>();
    Life& life = *slot.life;
    life.slot = number;
    life.born_ns = monotonic_ns_;
    // Never equal: the kernel's clock has nanoseconds.
    life.birth = ++births_;
    life.start_ns = WallNs() + births_;
    life.counted = acct_;
    life.stamped = timestamps_ && kind_.timestamps;
    life.reports = events_;
    life.reports_end = !Chance(rates_.mask);
    life.last_shown = dump_index_;
    life.new_pending = Chance(rates_.repeat);
    Trace(number, "born ", life.start_ns, life.counted ? "" : ", uncounted",
          life.reports ? "" : ", no events", life.reports_end ? "" : ", masked");
    SendNew(slot);
    Packet(slot);
  }

  // Two lives of a tuple that begin within 10 ms, of which the first ends unreported, cannot be
  // distinguished.
  bool MayEnd(const Life& life) const {
    return monotonic_ns_ - life.born_ns > 20 * kMilli &&
           (life.reports_end || !life.told || KnownBefore(life));
  }
  // Where events have no times, the time of reading a NEW is its flow's start.
  bool KnownBefore(const Life& life) const {
    const int64_t known_ns = kind_.event_times ? life.new_ns : life.read_ns;
    return life.shown || (known_ns >= life.new_ns && monotonic_ns_ - known_ns > 20 * kMilli);
  }

  void SendNew(Slot& slot) {
    if (kind_.light || !slot.life->reports) return;
    // While the engine knows one before it whose end was not reported, it takes this NEW for a
    // repeated one of that.
    bool hidden = last_whole_ == 0 && restarts_ != 0;
    for (const LifePtr& ghost : ghosts_) {
      hidden = hidden || (ghost->slot == slot.life->slot &&
                          (ghost->last_shown >= last_whole_ || !ghost->shown || !ghost->stamped));
    }
    if (!Send(slot, EventOf(slot, FlowEventKind::kNew))) return;
    (hidden ? slot.life->missed : slot.life->told) = true;
    slot.life->new_ns = monotonic_ns_;
  }

  void Packet(Slot& slot) {
    const auto packets = static_cast<uint64_t>(1 + Up(20));
    slot.life->packets += packets;
    truth_[slot.life->slot] += packets;
    if (slot.life->new_pending) SendNew(slot);
  }

  void Death(Slot& slot) {
    Life& life = *slot.life;
    Trace(life.slot, "dies, packets ", life.packets);
    life.ended = true;
    if (slot.identity.protocol == kProtocolTcp) {
      ++ends_[life.slot];
      FlowEvent close = EventOf(slot, FlowEventKind::kUpdate);
      close.has_tcp_state = true;
      close.tcp_state = TcpState::kLastAck;
      if (!kind_.light && life.reports && Chance(0.5)) (void)Send(slot, close);
    }
    const FlowEvent destroy = EventOf(slot, FlowEventKind::kDestroy);
    if (life.reports && life.reports_end && Send(slot, destroy)) {
      if (life.older) life.due = life.packets;  // A baseline, and a dump may still show it.
      SetDue(life.packets, &life);
      if (Chance(rates_.repeat)) repeats_.push_back({destroy, slot.life});
    } else if (life.told && KnownBefore(life)) {
      // If it was given up, the interval of that was partial; nothing reports that it lived longer.
      if (!life.given_up) ghosts_.push_back(slot.life);
    } else if (!life.reports && life.birth > births_at_check_) {
      // Nothing reported it, and no dump has shown it: the engine learns that this is possible when
      // it next checks the settings.
      deferred_.push_back(slot.life);
    } else if (!life.older && !life.missed && !(kind_.light && life.reports && !life.reports_end)) {
      // Nothing reported it because of an overrun, which the engine notices. (It cannot know about
      // the others.)
      SetDue(life.packets, &life);
      if (life.told) ghosts_.push_back(slot.life);  // Its NEW is still to be read.
    }
    slot.life.reset();
    if (!repeats_.empty() && Chance(0.5)) {
      const auto i = static_cast<size_t>(Up(static_cast<int64_t>(repeats_.size()) - 1));
      Slot again = {repeats_[i].event.identity, repeats_[i].life};
      (void)Send(again, repeats_[i].event);
      if (Chance(0.5)) repeats_.erase(repeats_.begin() + static_cast<std::ptrdiff_t>(i));
    }
  }

  // Of one flow, to see how it came to a failure; kSlots: of the engine.
  template <typename... Text>
  void Trace(size_t number, const Text&... text) const {
    if (traced_ > kSlots || (number != traced_ && number != kSlots)) return;
    std::fprintf(stderr, "%.3f %s\n", static_cast<double>(monotonic_ns_) / 1e9,
                 absl::StrCat(text...).c_str());
  }

  void SetDue(uint64_t packets, Life* life) {
    if (packets <= life->due) return;
    Trace(life->slot, "due ", packets - life->due, " of ", life->start_ns);
    due_[life->slot] += packets - life->due;
    life->due = packets;
  }

  void MakeChunk() {
    dump_->chunk.clear();
    for (int64_t left = 1 + Up(kSlots / 2); left > 0 && !dump_->order.empty(); --left) {
      Slot& slot = slots_[dump_->order.back()];
      dump_->order.pop_back();
      if (slot.life == nullptr) continue;
      // The second: a table that is resized.
      // A flow that the dump after a loss misses is taken for lost, whatever becomes of it.
      // And if the clock is set back, one that is older than the engine is taken for a new one.
      const bool may_miss =
          !ShareOf(slot).worker->needs_resync() && (last_whole_ != 0 || rates_.clock == 0);
      if ((may_miss && Chance(rates_.miss)) || (!dump_->whole && Chance(0.5))) {
        slot.life->missed = true;
        continue;
      }
      for (int copies = Chance(rates_.twice) ? 2 : 1; copies > 0; --copies) {
        dump_->chunk.push_back({EventOf(slot, FlowEventKind::kDump), slot.life});
      }
    }
  }

  // ---- The engine ----

  void StartEngine(bool events_kept) {
    id_[0] = static_cast<uint8_t>(restarts_);
    id_[1] = static_cast<uint8_t>(restarts_ >> 8);
    sequence_ = 0;
    merge_.emplace(false, RowLimit::kDefault, kIntervalNs, nullptr);
    dump_.reset();
    dump_index_ = 0;
    last_whole_ = whole_before_ = 0;
    chunks_.clear();
    subscribed_ns_ = WallNs();
    listening_ = true;
    acct_ = events_ = timestamps_ = true;
    timestamps_on_ = kind_.timestamps;
    settings_checked_ns_ = WallNs();
    for (Share& share : shares_) {
      if (!events_kept) {
        share.queue.clear();
        share.congested = share.error = false;
        share.drops = 0;
      }
      share.overrun = false;
      share.drained_ns = subscribed_ns_;
      share.over_ns = 0;
      share.resync_index = 0;
      share.handoff = std::make_unique<AccountingHandoff>();
      share.stream = std::make_unique<SnapshotStream>(Worker::kFlowTables);
      Worker::Options options;
      options.rules.interval_ns = kIntervalNs;
      options.snapshots = share.stream.get();
      share.worker = std::make_unique<Worker>(std::move(options), share.handoff.get(), &ports_);
    }
    for (Slot& slot : slots_) {
      if (slot.life != nullptr) slot.life->last_shown = 0;
    }
    for (const LifePtr& ghost : ghosts_) ghost->last_shown = 0;
    RestartCheckpoint(events_kept);
    next_boundary_ns_ = monotonic_ns_ + Up(kIntervalNs);
  }

  void RestartCheckpoint(bool events_kept);

  void Engine() {
    for (Share& share : shares_) {
      if (!Chance(0.3)) Turn(&share);
    }
    Flush();
    if (dump_.has_value()) {
      ReceiveChunk();
      return;
    }
    const bool over = monotonic_ns_ >= next_boundary_ns_;
    const bool resync = std::any_of(std::begin(shares_), std::end(shares_), [](const Share& share) {
      return share.worker->needs_resync() && share.over_ns >= 0;
    });
    const bool can_seal = std::all_of(std::begin(shares_), std::end(shares_),
                                      [](const Share& share) { return share.handoff->HasSpare(); });
    if (can_seal && (over || resync || dump_index_ == 0)) RequestDump(over);
  }

  // What follows `life`, and is known by its NEW alone, may be taken for it.
  void NoteUnclear(const Life& life) {
    const auto note = [&](Life* next) {
      if (next->slot == life.slot && next->birth > life.birth) next->unclear = !next->shown;
    };
    for (const LifePtr& ghost : ghosts_) note(ghost.get());
    if (slots_[life.slot].life != nullptr) note(slots_[life.slot].life.get());
  }

  // As EventLoop::TakeEvents.
  void Turn(Share* share) {
    const int64_t now_ns = WallNs();
    if (share->error) Trace(kSlots, "worker ", share - shares_, " has lost events");
    if (now_ns < share->drained_ns) share->worker->NoteClockSetBack(now_ns);
    if (std::exchange(share->error, false) && !std::exchange(share->overrun, true)) {
      share->worker->OnOverrunBegins(share->drained_ns);
      share->over_ns = -1;
      share->resync_index = 0;
    }
    while (!share->queue.empty()) {
      share->worker->OnFlow(share->queue.front().event, now_ns);
      Life& life = *share->queue.front().life;
      Trace(life.slot, "read ", static_cast<int>(share->queue.front().event.kind), " at dump ",
            dump_index_, share->worker->needs_resync() ? ", after a loss" : "");
      if (share->queue.front().event.kind == FlowEventKind::kDestroy) NoteUnclear(life);
      // It is taken for a repeated one of a flow that still lives, as far as the engine knows, and
      // ends with that.
      if (share->queue.front().event.kind == FlowEventKind::kNew && !life.shown) {
        // Before the first whole dump, also of one that the run before has given up.
        life.unclear =
            life.unclear || (last_whole_ == 0 && restarts_ != 0) ||
            std::any_of(ghosts_.begin(), ghosts_.end(), [&](const LifePtr& before) {
              return before->slot == life.slot && before->birth < life.birth && before->shown;
            });
      }
      if (std::exchange(life.read_ns, monotonic_ns_) == 0 && !life.shown) {
        // Not lost with what is lost already.
        const bool after_loss = share->worker->needs_resync() && share->resync_index == 0;
        life.last_shown =
            std::max(life.last_shown, dump_index_ + static_cast<uint32_t>(after_loss));
      }
      share->queue.pop_front();
    }
    share->congested = false;
    if (std::exchange(share->overrun, false)) {
      share->worker->OnOverrun(std::exchange(share->drops, 0), share->drained_ns, now_ns,
                               monotonic_ns_);
      share->over_ns = monotonic_ns_;
    }
    share->drained_ns = now_ns;
    share->worker->ApplyPending();
    if (Chance(0.5)) (void)share->worker->SweepSome();
    if (Chance(0.5)) (void)share->worker->SnapshotSome();
  }

  void CheckSettings() {
    if (!acct_ || !events_ || (!timestamps_ && kind_.timestamps)) {
      for (Share& share : shares_) share.worker->OnSettingsOff(settings_checked_ns_, WallNs());
    }
    for (const LifePtr& life : deferred_) {
      if (!life->older && !life->missed) SetDue(life->packets, life.get());
    }
    deferred_.clear();
    acct_ = events_ = timestamps_ = true;
    settings_checked_ns_ = WallNs();
    births_at_check_ = births_;
  }

  void RequestDump(bool ends_interval) {
    if (ends_interval) CheckSettings();
    dump_.emplace();
    dump_->ends_interval = ends_interval;
    dump_->whole = !Chance(rates_.cut);
    dump_->requested_ns = monotonic_ns_;
    for (size_t i = 0; i < kSlots; ++i) dump_->order.push_back(i);
    std::shuffle(dump_->order.begin(), dump_->order.end(), random_);
    MakeChunk();
  }

  void ReceiveChunk() {
    const int64_t now_ns = WallNs();
    for (Share& share : shares_) Turn(&share);
    if (!std::exchange(dump_->begun, true)) {
      ++dump_index_;
      Trace(kSlots, "dump ", dump_index_, " begins, requested ",
            (monotonic_ns_ - dump_->requested_ns) / 1000000, " ms ago");
      dump_began_ns_ = now_ns;
      for (Share& share : shares_) {
        share.worker->BeginDump(now_ns, dump_->requested_ns);
        if (share.worker->needs_resync() && share.resync_index == 0 && share.over_ns >= 0 &&
            dump_->requested_ns >= share.over_ns) {
          share.resync_index = dump_index_;
        }
      }
    }
    for (const Entry& entry : dump_->chunk) {
      Share& share = shares_[OwnerOfFlow(entry.event.identity.id, kWorkers)];
      share.worker->OnFlow(entry.event, now_ns);
      Life& life = *entry.life;
      Trace(life.slot, "shown ", entry.event.start_ns, " packets ", entry.event.original.packets,
            " by dump ", dump_index_);
      if (life.ended && life.due == life.packets) continue;  // Its DESTROY came first.
      NoteUnclear(life);  // A NEW after it may be taken for a repeated one of this.
      life.last_shown = dump_index_;
      life.told = life.shown = true;
      life.unclear = life.given_up = false;
      const auto deferred = std::find(deferred_.begin(), deferred_.end(), entry.life);
      if (deferred != deferred_.end()) deferred_.erase(deferred);
      if (life.ended && std::find(ghosts_.begin(), ghosts_.end(), entry.life) == ghosts_.end()) {
        ghosts_.push_back(entry.life);
      }
      if (std::exchange(life.older, false) && dump_index_ == 1) {
        life.due = std::max(life.due,
                            entry.event.has_counters ? entry.event.original.packets : life.packets);
        continue;
      }
      SetDue(life.counted ? entry.event.original.packets : life.packets, &life);
    }
    for (Share& share : shares_) share.worker->ApplyPending();
    if (!dump_->order.empty()) return MakeChunk();
    EndDump();
  }

  void EndDump() {
    Trace(kSlots, "dump ", dump_index_, dump_->whole ? " whole" : " cut",
          dump_->ends_interval ? " ends an interval" : "");
    for (Share& share : shares_) {
      const bool had_lost = share.worker->needs_resync();
      share.worker->EndDump(dump_->whole);
      if (!had_lost || share.worker->needs_resync()) continue;
      // What died in the loss is known now.
      GiveUp([&](const Life& life) {
        return &ShareOf(slots_[life.slot]) == &share && life.last_shown < share.resync_index;
      });
    }
    if (dump_->whole) {
      whole_before_ = std::exchange(last_whole_, dump_index_);
      GiveUp([&](const Life& life) {
        return life.last_shown < whole_before_ &&
               !ShareOf(slots_[life.slot]).worker->needs_resync();
      });
    }
    if (dump_->ends_interval) {
      Seal();
      next_boundary_ns_ = std::max(next_boundary_ns_ + kIntervalNs, monotonic_ns_);
    }
    dump_.reset();
  }

  // The engine says that these have ended unreported.
  template <typename Predicate>
  void GiveUp(Predicate is_due) {
    for (const Slot& slot : slots_) {
      if (slot.life != nullptr && is_due(*slot.life)) slot.life->given_up = true;
    }
    ghosts_.erase(std::remove_if(ghosts_.begin(), ghosts_.end(),
                                 [&](const LifePtr& life) {
                                   if (!is_due(*life)) return false;
                                   if (!life->older && !life->unclear) {
                                     SetDue(life->packets, life.get());
                                   }
                                   return true;
                                 }),
                  ghosts_.end());
  }

  void Seal() {
    ++seal_;
    for (Share& share : shares_) share.worker->Seal(WallNs(), dump_began_ns_);
    auto due = std::make_shared<Due>();
    due->packets = due_;
    for (const Slot& slot : slots_) {
      if (slot.life != nullptr) due->of_life[slot.life] = {slot.life->due, slot.life->given_up};
    }
    for (const LifePtr& ghost : ghosts_) due->of_life[ghost] = {ghost->due, false};
    due_at_seal_[shares_[0].worker->seal()] = due;
  }

  // As Flusher. Chunks wait for the table of their interval.
  void Flush() {
    if (Chance(0.2)) return;
    std::vector<AccountingHandoff*> handoffs;
    for (Share& share : shares_) {
      handoffs.push_back(share.handoff.get());
      for (SnapshotChunk& chunk : share.stream->Take()) chunks_.push_back(std::move(chunk));
    }
    merge_->Take(handoffs);
    while (std::optional<IntervalRows> rows = merge_->Next()) {
      Interval interval;
      interval.sequence = ++sequence_;
      interval.seal = rows->seal;
      interval.due = due_at_seal_[rows->seal];
      interval.completeness = rows->completeness;
      for (const TrafficRow& row : rows->rows) {
        interval.packets[row.src[3]] += row.packets_src;
        interval.closes[row.src[3]] += row.connection_count;
      }
      prepared_.push_back(std::move(interval));
    }
    if (Chance(rates_.kill * 10)) return Restart(/*clean=*/false);
    for (SnapshotChunk& chunk : std::exchange(chunks_, {})) {
      if (chunk.seal <= merge_->sealed_by_all()) {
        checkpoint_->Add(std::move(chunk));
      } else {
        chunks_.push_back(std::move(chunk));
      }
    }
    Commit();
  }

  void Commit() {
    if (checkpoint_->state() != Checkpoint::State::kComplete) return;
    uint64_t last = 0;
    std::shared_ptr<const Due> due;
    for (const Interval& interval : prepared_) {
      if (interval.seal > checkpoint_->seal()) break;
      last = interval.sequence;
      due = interval.due;
    }
    if (last == 0) return;
    const uint64_t seal = checkpoint_->seal();
    if (!CommitCheckpoint(last)) {
      problem_ = "the checkpoint could not be written";
      return;
    }
    committed_due_ = due;
    if (Chance(rates_.kill * 10)) return Restart(/*clean=*/false);
    while (!prepared_.empty() && prepared_.front().seal <= seal) RevealOldest();
  }
  bool CommitCheckpoint(uint64_t last_sequence);

  void RevealOldest() {
    const Interval interval = std::move(prepared_.front());
    if (traced_ < kSlots)
      Trace(traced_, "interval ", interval.sequence, " ", CompletenessName(interval.completeness),
            " has ", interval.packets[traced_], ", due ",
            interval.due->packets[traced_] - revealed_due_[traced_], "; closes ",
            interval.closes[traced_], ", all in all ", closed_[traced_] + interval.closes[traced_],
            " of ", ends_[traced_]);
    prepared_.pop_front();
    ++intervals_[static_cast<size_t>(interval.completeness)];
    for (size_t i = 0; i < kSlots; ++i) {
      counted_[i] += interval.packets[i];
      closed_[i] += interval.closes[i];
      if (closed_[i] > ends_[i]) {
        problem_ = absl::StrCat("flow ", i, " has ", closed_[i], " closes of ", ends_[i]);
        return;
      }
      const uint64_t due =
          interval.due->packets[i] - std::exchange(revealed_due_[i], interval.due->packets[i]);
      if (counted_[i] > truth_[i]) {
        problem_ = absl::StrCat("flow ", i, " has ", counted_[i], " packets of ", truth_[i]);
      } else if (interval.completeness != Completeness::kPartial && interval.packets[i] != due) {
        absl::StrAppend(&problem_, "interval ", interval.sequence, " of run ", restarts_, " is ",
                        CompletenessName(interval.completeness), " and flow ", i, " has ",
                        interval.packets[i], " packets, due are ", due, "\n");
      }
    }
  }

  void FlushAll(uint64_t run) {
    for (int i = 0; i < 100 && run == restarts_ && problem_.empty(); ++i) {
      for (Share& share : shares_) {
        while (share.worker->SnapshotSome()) {
        }
      }
      Flush();
    }
  }

  void Restart(bool clean) {
    bool events_kept = clean && Chance(0.5);
    if (clean) {
      const uint64_t run = restarts_;
      // A last dump of its own, and all that waits.
      while (dump_.has_value()) ReceiveChunk();
      FlushAll(run);
      if (run == restarts_) RequestDump(true);
      while (dump_.has_value()) ReceiveChunk();
      FlushAll(run);
      if (run != restarts_) return;  // Killed meanwhile.
      const bool revealed = prepared_.empty() && problem_.empty();
      events_kept = events_kept && revealed && checkpoint_->MarkClean().ok();
    }
    ++restarts_;
    Trace(kSlots, clean ? "stop" : "kill");
    // Events of what is lost with the process are not, if the sockets outlive it.
    listening_ = events_kept;
    for (Share& share : shares_) share.worker.reset();
    checkpoint_.reset();
    if (clock_was_set_) repeats_.clear();  // As above.
    for (int64_t steps = Up(20); steps > 0; --steps) {
      monotonic_ns_ += Up(60 * kMilli);
      const auto number = static_cast<size_t>(Up(kSlots - 1));
      Slot& slot = slots_[number];
      if (slot.life == nullptr) {
        Birth(number);
      } else if (Chance(0.2) && MayEnd(*slot.life)) {
        Death(slot);
      } else {
        Packet(slot);
      }
    }
    StartEngine(events_kept);
  }

  const size_t traced_ = NumberFrom("CTACCT_MODEL_TRACE", kSlots + 1);
  std::mt19937_64 random_;
  const EngineKind kind_;
  const std::string folder_;
  Rates rates_{};
  size_t queue_max_ = 0;
  int64_t monotonic_ns_ = 0;
  int64_t clock_offset_ns_ = 0;
  int64_t held_until_ns_ = 0;
  bool clock_was_set_ = false;
  bool acct_ = true;
  bool events_ = true;
  bool timestamps_ = true;
  bool timestamps_on_ = true;
  bool listening_ = false;
  int64_t births_ = 0;
  std::vector<Slot> slots_;
  std::vector<Event> repeats_;
  std::vector<LifePtr> deferred_;
  std::vector<LifePtr> ghosts_;  // Ended, but the engine does not know it.
  Packets due_{};
  Packets truth_{};
  Packets ends_{};  // Of connections.

  CurrentPortList ports_;
  Share shares_[kWorkers];
  std::optional<IntervalMerge> merge_;
  std::unique_ptr<Checkpoint> checkpoint_;
  std::vector<SnapshotChunk> chunks_;
  std::optional<Dump> dump_;
  uint32_t dump_index_ = 0;
  uint32_t last_whole_ = 0;
  uint32_t whole_before_ = 0;
  int64_t dump_began_ns_ = 0;
  int64_t next_boundary_ns_ = 0;
  int64_t subscribed_ns_ = 0;
  int64_t settings_checked_ns_ = 0;
  int64_t births_at_check_ = 0;
  EngineId id_{};
  uint64_t sequence_ = 0;
  uint64_t seal_ = 0;
  std::map<uint64_t, std::shared_ptr<const Due>> due_at_seal_;
  std::shared_ptr<const Due> committed_due_;  // Of the interval that the checkpoint is of.

  std::deque<Interval> prepared_;
  uint64_t committed_ = 0;  // The last interval that the checkpoint covers.
  Packets revealed_due_{};
  Packets counted_{};
  Packets closed_{};
  std::array<uint64_t, 3> intervals_{};
  uint64_t restarts_ = 0;
  uint64_t dropped_ = 0;
  std::string problem_;
};

void Model::RestartCheckpoint(bool events_kept) {
  absl::StatusOr<std::unique_ptr<Checkpoint>> checkpoint =
      Checkpoint::Open(folder_ + "/state", folder_);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  checkpoint_ = *std::move(checkpoint);
  RestartOptions options;
  options.rules.interval_ns = kIntervalNs;
  options.engine_id = id_;
  options.gateway = "model";
  options.subscribed_ns = subscribed_ns_;
  options.timestamps_on = timestamps_on_;
  options.events_kept = events_kept;
  bool continued = false;
  options.log = [&](const std::string& line) {
    continued = line.find("flows continued") != std::string::npos;
  };
  std::vector<std::unique_ptr<Worker>> workers;
  for (Share& share : shares_) workers.push_back(std::move(share.worker));
  const absl::StatusOr<Resumed> resumed = ::ctacct::Restart(options, workers, checkpoint_.get());
  ASSERT_TRUE(resumed.ok()) << resumed.status();
  for (size_t i = 0; i < kWorkers; ++i) {
    shares_[i].worker = std::move(workers[i]);
    if (resumed->drained_ns != 0) shares_[i].drained_ns = resumed->drained_ns;
  }
  // The rows that the checkpoint covers are revealed; the traffic of the others is accounted again.
  while (!prepared_.empty() && prepared_.front().sequence <= committed_) RevealOldest();
  prepared_.clear();
  committed_ = 0;
  deferred_.clear();
  if (continued && events_kept) return;  // All was committed.
  if (continued) {
    // What was accounted since the checkpoint is accounted again.
    due_ = committed_due_->packets;
    const auto back = [&](const LifePtr& life) {
      const auto it = committed_due_->of_life.find(life);
      if (it != committed_due_->of_life.end()) {
        life->due = it->second.packets;
        life->given_up = it->second.given_up;
        return;
      }
      // The engine does not know it.
      life->due = 0;
      life->given_up = false;
      life->told = life->shown = false;
      life->read_ns = 0;
    };
    for (const Slot& slot : slots_) {
      if (slot.life != nullptr) back(slot.life);
    }
    for (const LifePtr& ghost : ghosts_) back(ghost);
    return;
  }
  for (Slot& slot : slots_) {
    if (slot.life != nullptr) slot.life->older = true;
  }
  ghosts_.clear();
  revealed_due_ = due_;
}

bool Model::CommitCheckpoint(uint64_t last_sequence) {
  if (!checkpoint_->Commit(last_sequence).ok()) return false;
  committed_ = last_sequence;
  return true;
}

const EngineKind kKinds[] = {{"precise", false, true, true},
                             {"precise on an older kernel", false, true, false},
                             {"light", true, true, true}};

class ConservationTest : public testing::TestWithParam<EngineKind> {};

TEST_P(ConservationTest, CompleteMeansExactAndNothingCountsTwice) {
  constexpr int kSteps = 5000;
  const absl::Time end =
      absl::Now() + absl::Seconds(static_cast<int64_t>(NumberFrom("CTACCT_MODEL_SECONDS", 5)));
  const std::string folder = testing::TempDir() + "/conservation";
  std::array<uint64_t, 3> intervals{};
  uint64_t seeds = 0;
  uint64_t restarts = 0;
  uint64_t dropped = 0;
  for (uint64_t seed = NumberFrom("CTACCT_MODEL_SEED", 1); seeds == 0 || absl::Now() < end;
       ++seed, ++seeds) {
    std::filesystem::remove_all(folder);
    Model model(seed, GetParam(), folder);
    ASSERT_TRUE(model.Run(kSteps))
        << "seed " << seed << ", " << GetParam().name << ": " << model.problem();
    for (size_t i = 0; i < intervals.size(); ++i) intervals[i] += model.intervals()[i];
    restarts += model.restarts();
    dropped += model.dropped();
  }
  std::filesystem::remove_all(folder);
  std::printf(
      "%llu steps, %llu restarts, %llu events dropped; intervals: %llu complete, %llu "
      "resynced, %llu partial\n",
      static_cast<unsigned long long>(seeds * kSteps), static_cast<unsigned long long>(restarts),
      static_cast<unsigned long long>(dropped), static_cast<unsigned long long>(intervals[0]),
      static_cast<unsigned long long>(intervals[1]), static_cast<unsigned long long>(intervals[2]));
  // A model in which nothing goes wrong, or everything, would prove nothing.
  EXPECT_GT(intervals[0], intervals[2] / 4);
  EXPECT_GT(intervals[2], 0u);
  EXPECT_GT(restarts, 0u);
  EXPECT_GT(dropped, 0u);
}

INSTANTIATE_TEST_SUITE_P(Kinds, ConservationTest, testing::ValuesIn(kKinds),
                         [](const auto& kind) { return absl::StrCat("Kind", kind.index); });

}  // namespace
}  // namespace ctacct
