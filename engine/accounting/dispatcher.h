// Decides where dumps and intervals begin and end, and hands each message about a flow to the
// worker that owns the flow. The input is a whole recording (a replay), or only the chunks of the
// dumps (live: each worker reads its own events).
//
// All workers get the same marks in the same order, and each flow's messages go to one worker in
// the order they came: so the rows do not depend on the number of workers. Time is the time of what
// is read; there is no other clock.
//
// Thread-compatible: one thread owns it, the producer of all the queues.
#ifndef CTACCT_ENGINE_ACCOUNTING_DISPATCHER_H_
#define CTACCT_ENGINE_ACCOUNTING_DISPATCHER_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "engine/accounting/frame_queue.h"
#include "engine/accounting/interval_clock.h"
#include "netlink/ctnetlink_parser.h"

namespace ctacct {

// How intervals end: see IntervalClock.
enum class IntervalEnd { kByDump, kByPacket };

class Dispatcher {
 public:
  struct Options {
    int64_t interval_ns = 0;
    IntervalEnd interval_end = IntervalEnd::kByDump;
    // Flows that start from now on have start times (nf_conntrack_timestamp).
    bool timestamps_on = false;
  };
  // One queue per worker; they must outlive the dispatcher.
  Dispatcher(Options options, std::vector<FrameQueue*> queues);

  // A datagram, received at `now_ns` since the Unix epoch. Workers see it after the next Publish,
  // or sooner.
  void OnDatagram(const uint8_t* data, size_t bytes, int64_t now_ns);

  void Publish();

  // A dump that began will not end (an error, or silence). Its entries so far stay accounted. The
  // open interval ends if its boundary has passed. Published.
  void OnDumpFailed(int64_t now_ns);

  // The dump that is running is cut short: the kernel's table was resized meanwhile.
  void NoteDumpCut() { dump_cut_ = true; }

  // Since `began_ns` the kernel did not count or report everything. Published.
  void OnSettingsOff(int64_t began_ns, int64_t now_ns);

  // Ends what is open, whatever the time. Nothing may follow. Published.
  void Finish();

  // The dump that begins next was asked for at this time, CLOCK_MONOTONIC and since the Unix epoch.
  // The kernel makes its first datagram at once, however late that is received: for the workers the
  // dump begins then.
  void NoteDumpRequested(int64_t monotonic_ns, int64_t wall_ns) {
    dump_requested_ns_ = monotonic_ns;
    dump_requested_wall_ns_ = wall_ns;
  }

  // The end of the open interval, nanoseconds since the Unix epoch; 0 before the first datagram.
  int64_t open_end_ns() const { return clock_.open_end_ns(); }
  // A dump that begins at this time will end the open interval.
  bool DumpWouldEndInterval(int64_t now_ns) const { return clock_.DumpWouldEndInterval(now_ns); }
  bool dump_running() const { return dump_running_; }

 private:
  void Observe(int64_t now_ns);
  void OnMessage(const NetlinkMessage& message, int64_t now_ns);
  void BeginDump(uint32_t sequence, int64_t now_ns);
  void EndDump(bool whole);
  void SealSilentIntervals(int64_t now_ns);
  void Seal(int64_t covered_to_ns);
  // To every worker, after what was kept for it.
  void Mark(const Frame& frame);
  // Keeps bytes for a worker until SendKept, so that a chunk becomes one frame.
  void Keep(size_t worker, const uint8_t* data, size_t bytes);
  void SendKept(int64_t now_ns);

  const Options options_;
  const std::vector<FrameQueue*> queues_;
  std::vector<std::vector<uint8_t>> kept_;  // One per worker.
  IntervalClock clock_;
  bool dump_running_ = false;
  bool dump_cut_ = false;      // It does not show all flows.
  bool dump_of_part_ = false;  // Another program asked for a part: it ends no interval.
  uint32_t dump_sequence_ = 0;
  std::optional<uint32_t> mixed_up_;  // The sequence of a dump that another one's end cut off.
  bool dump_of_ipv4_ = false;         // The same, of IPv4 only: it says nothing about IPv6.
  // The sequences of the last requests for less than the whole.
  std::array<std::pair<uint32_t, DumpScope>, 16> requests_{};
  size_t requests_next_ = 0;
  int64_t dump_requested_ns_ = 0;
  int64_t dump_requested_wall_ns_ = std::numeric_limits<int64_t>::max();  // In a replay.
  std::optional<int64_t> latest_ns_;    // Of the times seen; after a clock set back, since then.
  int64_t before_ns_ = 0;               // The same, before the datagram at hand.
  std::optional<uint32_t> other_dump_;  // Sequence of a dump of another subsystem.
};

}  // namespace ctacct

#endif  // CTACCT_ENGINE_ACCOUNTING_DISPATCHER_H_
