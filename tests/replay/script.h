// The language in which tests write captures: what a kernel would have sent a listener, message by
// message.
//
//   Script script;                                  // Timestamps as of a recent kernel.
//   Flow flow = TcpFlow({.dst_port = 22});          // Who talks to whom; no message yet.
//   script.Dump(100, {});                           // The table at start: empty.
//   script.New(1000, flow);                         // An event, 1 s after kEpoch.
//   script.Dump(5010, {script.Entry(flow, {10, 1000}, {5, 500})});
//   script.Destroy(6000, flow, {12, 1200}, {5, 500});
//   Replay(script);                                 // replay_test_base.h
//
// Times are milliseconds since kEpoch, an interval's boundary. Counters are {packets, bytes} of the
// original and of the reply direction. An engine takes a flow that starts after the capture's first
// packet as new, and any other as older than itself: of that only the growth counts.
// For messages that no kernel sends, change what NewMessage and its like return and Add it.
#ifndef CTACCT_TESTS_REPLAY_SCRIPT_H_
#define CTACCT_TESTS_REPLAY_SCRIPT_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "netlink/test_messages.h"
#include "tests/support/capture_builder.h"

namespace ctacct {

inline constexpr int64_t kMillisecond = 1'000'000;
inline constexpr int64_t kSecond = 1'000 * kMillisecond;
// Where every capture begins, or soon after: a boundary of 5 s intervals, and of 10 s ones.
inline constexpr int64_t kEpoch = 1'600'000'000 * kSecond;

// Nanoseconds since 1970, as captures and rows have it.
constexpr int64_t At(int64_t ms) { return kEpoch + ms * kMillisecond; }

// What the kernel is set to stamp.
enum class Stamps {
  kEvents,  // nf_conntrack_timestamp=1 on a recent kernel: attributes 20 and 27.
  kFlows,   // The same on an older one: attribute 20, in dumps and DESTROY.
  kNone,    // nf_conntrack_timestamp=0.
};
inline constexpr Stamps kAllStamps[] = {Stamps::kEvents, Stamps::kFlows, Stamps::kNone};
inline constexpr Stamps kWithStartTimes[] = {Stamps::kEvents, Stamps::kFlows};

struct Flow {
  TestMessage tuple;
  int64_t start_ns = 0;  // Set by Script::New; by hand for a flow older than the capture.
};

[[nodiscard]] Flow TcpFlow(TestMessage tuple = {});
[[nodiscard]] Flow UdpFlow(TestMessage tuple = {});

class Script {
 public:
  explicit Script(Stamps stamps = Stamps::kEvents, const CaptureFormat& format = {})
      : stamps_(stamps), capture_(format) {}

  // Events.
  void New(int64_t ms, Flow& flow) { Add(ms, NewMessage(ms, flow)); }
  void Update(int64_t ms, const Flow& flow, uint8_t tcp_state) {
    Add(ms, UpdateMessage(ms, flow, tcp_state));
  }
  void Destroy(int64_t ms, const Flow& flow, TestCounters original, TestCounters reply) {
    Add(ms, DestroyMessage(ms, flow, original, reply));
  }
  // NEW and DESTROY of a flow that no other message reports.
  void Life(int64_t born_ms, int64_t ended_ms, Flow flow, TestCounters original,
            TestCounters reply = {}) {
    New(born_ms, flow);
    Destroy(ended_ms, flow, original, reply);
  }

  // A whole dump in one datagram; or its parts, of which the first after DumpDone begins the next.
  void Dump(int64_t ms, const std::vector<TestMessage>& entries) {
    Add(ms, Entries(entries) + DoneMessage());
  }
  void DumpPart(int64_t ms, const std::vector<TestMessage>& entries) { Add(ms, Entries(entries)); }
  void DumpDone(int64_t ms) { Add(ms, DoneMessage()); }
  // The one before was given up: the next datagram belongs to another request.
  void NextDump() { ++dump_; }

  // Any datagram.
  void Add(int64_t ms, std::string_view datagram, uint16_t netlink_family = 12) {
    capture_.Add(At(ms), datagram, netlink_family);
  }
  void Add(int64_t ms, const TestMessage& message) { Add(ms, BuildMessage(message)); }

  // The messages, for tests that change or repeat them. An entry of a TCP flow is established
  // unless another state is given.
  TestMessage NewMessage(int64_t ms, Flow& flow) const;
  TestMessage UpdateMessage(int64_t ms, const Flow& flow, uint8_t tcp_state) const;
  TestMessage DestroyMessage(int64_t ms, const Flow& flow, TestCounters original,
                             TestCounters reply) const;
  TestMessage Entry(const Flow& flow, TestCounters original, TestCounters reply,
                    std::optional<uint8_t> tcp_state = {}) const;

  const std::string& bytes() const { return capture_.bytes(); }

 private:
  TestMessage Event(int64_t ms, const Flow& flow, TestMessage::Kind kind) const;
  std::string Entries(const std::vector<TestMessage>& entries) const;
  std::string DoneMessage();

  Stamps stamps_;
  CaptureBuilder capture_;
  uint32_t dump_ = 1;
};

// Fifty flows over four intervals: dumps, and ends in each. At whole milliseconds, so that every
// capture format holds it exactly.
[[nodiscard]] Script Mixture(const CaptureFormat& format = {});

}  // namespace ctacct

#endif  // CTACCT_TESTS_REPLAY_SCRIPT_H_
