// When an interval ends. Driven by the times of what is read, never by a clock of its own, so that
// a replay of a capture ends its intervals where the live engine did.
//
// With dumps, an interval ends when the first dump begun at or after its boundary is done: the
// dump's growth belongs to the interval it ends. Without dumps (a capture of events only), it ends
// at the first packet past its boundary. Where several boundaries are passed at once, all that was
// accounted belongs to the first interval still open.
//
// The wall clock may be set. Forward, it passes boundaries like any silence. Set back by a little,
// the open interval lasts until the clock has reached its end, so that no interval comes twice. Set
// back by more than kPatienceNs, it ends at once, under the end that it had, and the next one is
// where the clock is now: waiting could be a day without rows. If it ran through that day before,
// intervals have the same ends twice.
//
// The first interval is the one that the clock shows, also after a restart. So two runs may share
// an interval, and no end is ever later than the clock's own. Each run says what it has observed.
//
// Times are nanoseconds since the Unix epoch; boundaries are multiples of the interval.
// Thread-compatible.
#ifndef CTACCT_ENGINE_ACCOUNTING_INTERVAL_CLOCK_H_
#define CTACCT_ENGINE_ACCOUNTING_INTERVAL_CLOCK_H_

#include <algorithm>
#include <cassert>
#include <cstdint>

namespace ctacct {

class IntervalClock {
 public:
  // Ten minutes.
  static constexpr int64_t kPatienceNs = 600'000'000'000;

  explicit IntervalClock(int64_t interval_ns) : interval_ns_(interval_ns) {
    assert(interval_ns > 0);
  }

  // The end of the interval that is open now; 0 before the first Observe.
  int64_t open_end_ns() const { return open_end_ns_; }
  bool is_open() const { return is_open_; }

  // Everything read is shown to the clock first; the first time opens the first interval.
  void Observe(int64_t now_ns) {
    if (is_open_) return;
    is_open_ = true;
    open_end_ns_ = BoundaryNotBefore(now_ns);
  }

  // For sources without dumps: true if a packet of this time lies past the open interval's
  // boundary.
  bool IsPast(int64_t now_ns) const { return is_open_ && now_ns > open_end_ns_; }
  // So far before the open interval that the clock was set back, and is not waited for.
  bool IsSetBack(int64_t now_ns) const {
    return is_open_ && now_ns < open_end_ns_ - interval_ns_ - kPatienceNs;
  }
  // A dump begun at this time will end the open interval.
  bool DumpWouldEndInterval(int64_t now_ns) const {
    return now_ns >= open_end_ns_ || IsSetBack(now_ns);
  }

  void DumpBegins(int64_t now_ns) { dump_began_ns_ = now_ns; }
  int64_t dump_began_ns() const { return dump_began_ns_; }  // 0: none has begun.
  // True if the dump that is done now ends the open interval.
  bool DumpEndsInterval() const { return DumpWouldEndInterval(dump_began_ns_); }

  // Opens the interval that follows, after the open one was sealed.
  void OpenAfterDump() { OpenAt(dump_began_ns_, BoundaryNotBefore(dump_began_ns_ + 1)); }
  void OpenAfterPacket(int64_t now_ns) { OpenAt(now_ns, BoundaryNotBefore(now_ns)); }
  // The very next one, even if its end has passed.
  void OpenFollowing() { open_end_ns_ += interval_ns_; }

 private:
  int64_t BoundaryNotBefore(int64_t time_ns) const {
    return (time_ns + interval_ns_ - 1) / interval_ns_ * interval_ns_;
  }
  void OpenAt(int64_t now_ns, int64_t end_ns) {
    const int64_t sealed_ns = open_end_ns_;
    if (IsSetBack(now_ns)) {
      // To where it leapt from: that interval has been sealed.
      open_end_ns_ = end_ns == before_leap_ns_ ? end_ns + interval_ns_ : end_ns;
      return;
    }
    open_end_ns_ = std::max(end_ns, sealed_ns + interval_ns_);
    if (open_end_ns_ > sealed_ns + interval_ns_) before_leap_ns_ = sealed_ns;
  }

  const int64_t interval_ns_;
  bool is_open_ = false;
  int64_t open_end_ns_ = 0;
  int64_t dump_began_ns_ = 0;
  int64_t before_leap_ns_ = 0;  // The last end before intervals were passed over.
};

}  // namespace ctacct

#endif  // CTACCT_ENGINE_ACCOUNTING_INTERVAL_CLOCK_H_
