#include "engine/accounting/dispatcher.h"

#include <linux/netlink.h>

#include <algorithm>
#include <utility>

#include "netlink/event_filter.h"

namespace ctacct {
namespace {

// A capture whose clock leaps by years must not make a file for each second of them.
constexpr int kSilentIntervalsMax = 10'000;
// Captures are not in order to the microsecond.
constexpr int64_t kClockJitterNs = 2'000'000'000;

}  // namespace

Dispatcher::Dispatcher(Options options, std::vector<FrameQueue*> queues)
    : options_(options),
      queues_(std::move(queues)),
      kept_(queues_.size()),
      clock_(options_.interval_ns) {}

void Dispatcher::OnDatagram(const uint8_t* data, size_t bytes, int64_t now_ns) {
  Observe(now_ns);
  if (options_.interval_end == IntervalEnd::kByPacket) {
    const bool set_back = clock_.IsSetBack(now_ns);
    if (set_back || clock_.IsPast(now_ns)) Seal(set_back ? before_ns_ : clock_.open_end_ns());
    // Nothing moved in intervals that passed in silence, but they were observed.
    if (clock_.IsPast(now_ns)) SealSilentIntervals(now_ns);
    if (set_back || clock_.IsPast(now_ns)) clock_.OpenAfterPacket(now_ns);
  }
  DatagramCursor cursor(data, bytes);
  NetlinkMessage message;
  const uint8_t* end = data;
  while (cursor.Next(&message)) {
    end = message.data + NLMSG_ALIGN(message.bytes);
    OnMessage(message, now_ns);
  }
  // The first worker counts it.
  if (cursor.malformed()) Keep(0, end, static_cast<size_t>(data + bytes - end));
  SendKept(now_ns);
}

void Dispatcher::OnMessage(const NetlinkMessage& message, int64_t now_ns) {
  if (message.type == NLMSG_OVERRUN) {
    SendKept(now_ns);
    // DESTROYs of any flow may have been among them, but they are counted once.
    Frame frame;
    frame.kind = FrameKind::kOverrun;
    frame.events_dropped = OverrunEvents(message);
    frame.time_ns = now_ns;
    frame.began_ns = before_ns_;
    for (FrameQueue* const queue : queues_) {
      queue->Push(frame);
      frame.kind = FrameKind::kOverrunElsewhere;
    }
    return;
  }
  const DumpScope scope = RequestedScope(message);
  if (scope == DumpScope::kWhole) {
    // Another program's request may have had the same number, or ours of an earlier run.
    for (auto& [sequence, part] : requests_) {
      if (sequence == message.sequence) part = DumpScope::kNoDump;
    }
  } else if (scope != DumpScope::kNoDump) {
    requests_[requests_next_++ % requests_.size()] = {message.sequence, scope};
  }
  const bool done = message.type == NLMSG_DONE;
  if ((message.flags & NLM_F_MULTI) != 0) {
    // A capture of nlmon also holds dumps of other subsystems, and their ends.
    if (!done && !IsFlowMessage(message)) other_dump_ = message.sequence;
    if (other_dump_ == message.sequence && !dump_running_) return;
    if (!dump_running_) BeginDump(message.sequence, now_ns);
    if ((message.flags & NLM_F_DUMP_INTR) != 0) dump_cut_ = true;
  }
  const uint32_t id = queues_.size() > 1 && IsFlowMessage(message) ? FlowId(message) : 0;
  Keep(OwnerOfFlow(id, static_cast<uint32_t>(queues_.size())), message.data, message.bytes);
  if (done && dump_running_) {
    SendKept(now_ns);
    // Two dumps at once: the entries of one cannot be separated from those of the other.
    if (message.sequence != dump_sequence_) {
      dump_cut_ = true;
      mixed_up_ = dump_sequence_;
    }
    EndDump(MessageError(message) == 0 && !dump_cut_);
  }
}

void Dispatcher::OnDumpFailed(int64_t now_ns) {
  Observe(now_ns);
  // Perhaps not even its first datagram came.
  if (!dump_running_) BeginDump(0, now_ns);
  EndDump(false);
  Publish();
}

void Dispatcher::OnSettingsOff(int64_t began_ns, int64_t now_ns) {
  Mark({.kind = FrameKind::kSettingsOff, .time_ns = now_ns, .began_ns = began_ns});
  Publish();
}

void Dispatcher::Finish() {
  // Living flows are known as the last dump has shown them.
  const bool dumped = options_.interval_end == IntervalEnd::kByDump && clock_.dump_began_ns() != 0;
  Mark({.kind = FrameKind::kFinish,
        .time_ns = clock_.open_end_ns(),
        .covered_to_ns = dumped ? clock_.dump_began_ns() : latest_ns_.value_or(0)});
  Publish();
}

void Dispatcher::Observe(int64_t now_ns) {
  if (!clock_.is_open()) {
    Mark({.kind = FrameKind::kStart, .timestamps_on = options_.timestamps_on, .time_ns = now_ns});
  }
  clock_.Observe(now_ns);
  before_ns_ = latest_ns_.value_or(now_ns);
  if (now_ns < before_ns_ - kClockJitterNs) {
    Mark({.kind = FrameKind::kClockSetBack, .time_ns = now_ns});
    latest_ns_ = now_ns;
  }
  latest_ns_ = std::max(latest_ns_.value_or(now_ns), now_ns);
}

void Dispatcher::BeginDump(uint32_t sequence, int64_t now_ns) {
  SendKept(now_ns);
  dump_running_ = true;
  dump_sequence_ = sequence;
  const auto requested = [&](DumpScope scope) {
    return std::count(requests_.begin(), requests_.end(), std::make_pair(sequence, scope)) != 0;
  };
  dump_of_part_ = requested(DumpScope::kPart);
  dump_of_ipv4_ = requested(DumpScope::kIpv4);
  dump_cut_ = dump_of_part_ || mixed_up_ == sequence;
  mixed_up_.reset();
  clock_.DumpBegins(now_ns);
  Mark({.kind = FrameKind::kBeginDump,
        .time_ns = std::min(now_ns, dump_requested_wall_ns_),
        .requested_ns = dump_requested_ns_});
}

void Dispatcher::EndDump(bool whole) {
  dump_running_ = false;
  const bool seals =
      options_.interval_end == IntervalEnd::kByDump && !dump_of_part_ && clock_.DumpEndsInterval();
  Mark({.kind = FrameKind::kEndDump,
        .whole = whole,
        .ipv4_only = dump_of_ipv4_,
        .of_part = dump_of_part_,
        .ends_interval = seals,
        .time_ns = clock_.open_end_ns(),
        .covered_to_ns = clock_.dump_began_ns()});
  if (seals) clock_.OpenAfterDump();
}

void Dispatcher::SealSilentIntervals(int64_t now_ns) {
  for (int i = 0; i < kSilentIntervalsMax; ++i) {
    clock_.OpenFollowing();
    if (!clock_.IsPast(now_ns)) return;
    Seal(clock_.open_end_ns());
  }
}

void Dispatcher::Seal(int64_t covered_to_ns) {
  Mark({.kind = FrameKind::kSeal, .time_ns = clock_.open_end_ns(), .covered_to_ns = covered_to_ns});
}

void Dispatcher::Mark(const Frame& frame) {
  for (FrameQueue* const queue : queues_) queue->Push(frame);
}

void Dispatcher::Keep(size_t worker, const uint8_t* data, size_t bytes) {
  std::vector<uint8_t>& kept = kept_[worker];
  kept.resize((kept.size() + NLMSG_ALIGNTO - 1) / NLMSG_ALIGNTO * NLMSG_ALIGNTO);
  kept.insert(kept.end(), data, data + bytes);
}

void Dispatcher::SendKept(int64_t now_ns) {
  for (size_t i = 0; i < queues_.size(); ++i) {
    if (kept_[i].empty()) continue;
    Frame frame;
    frame.bytes = static_cast<uint32_t>(kept_[i].size());
    frame.time_ns = now_ns;
    queues_[i]->Push(frame, kept_[i].data());
    kept_[i].clear();
  }
}

void Dispatcher::Publish() {
  for (FrameQueue* const queue : queues_) queue->Publish();
}

}  // namespace ctacct
