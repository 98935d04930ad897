#include "tests/replay/script.h"

#include "absl/strings/str_cat.h"

namespace ctacct {
namespace {

// Who asked for the dumps.
constexpr uint32_t kPortId = 4711;

}  // namespace

Flow TcpFlow(TestMessage tuple) {
  tuple.protocol = 6;
  return {tuple};
}

Flow UdpFlow(TestMessage tuple) {
  tuple.protocol = 17;
  return {tuple};
}

TestMessage Script::Event(int64_t ms, const Flow& flow, TestMessage::Kind kind) const {
  TestMessage message = flow.tuple;
  message.kind = kind;
  if (stamps_ == Stamps::kEvents) message.event_ns = At(ms);
  return message;
}

TestMessage Script::NewMessage(int64_t ms, Flow& flow) const {
  flow.start_ns = At(ms);
  TestMessage message = Event(ms, flow, TestMessage::Kind::kNew);
  message.timeout_seconds = 120;
  if (message.protocol == 6) message.tcp_state = kTestTcpSynSent;
  return message;
}

TestMessage Script::UpdateMessage(int64_t ms, const Flow& flow, uint8_t tcp_state) const {
  TestMessage message = Event(ms, flow, TestMessage::Kind::kUpdate);
  message.timeout_seconds = 60;
  message.tcp_state = tcp_state;
  return message;
}

TestMessage Script::DestroyMessage(int64_t ms, const Flow& flow, TestCounters original,
                                   TestCounters reply) const {
  TestMessage message = Event(ms, flow, TestMessage::Kind::kDestroy);
  message.original = original;
  message.reply = reply;
  if (stamps_ != Stamps::kNone && flow.start_ns != 0) {
    message.start_ns = flow.start_ns;
    message.stop_ns = At(ms);
  }
  return message;
}

TestMessage Script::Entry(const Flow& flow, TestCounters original, TestCounters reply,
                          std::optional<uint8_t> tcp_state) const {
  TestMessage message = flow.tuple;
  message.kind = TestMessage::Kind::kDump;
  message.original = original;
  message.reply = reply;
  message.timeout_seconds = 100;
  message.tcp_state = tcp_state;
  if (message.protocol == 6 && !tcp_state) message.tcp_state = kTestTcpEstablished;
  if (stamps_ != Stamps::kNone && flow.start_ns != 0) message.start_ns = flow.start_ns;
  return message;
}

std::string Script::Entries(const std::vector<TestMessage>& entries) const {
  std::string datagram;
  for (TestMessage entry : entries) {
    entry.sequence = dump_;
    entry.port_id = kPortId;
    datagram += BuildMessage(entry);
  }
  return datagram;
}

std::string Script::DoneMessage() {
  return BuildMessage({.kind = TestMessage::Kind::kDone, .sequence = dump_++, .port_id = kPortId});
}

Script Mixture(const CaptureFormat& format) {
  Script script(Stamps::kNone, format);
  script.Dump(100, {});
  std::vector<Flow> flows;
  for (uint16_t i = 0; i < 50; ++i) {
    Flow flow = {{.src = absl::StrCat("10.1.", i % 7, ".", i),
                  .protocol = static_cast<uint8_t>(i % 3 == 0 ? 6 : 17),
                  .src_port = i,
                  .dst_port = static_cast<uint16_t>(i % 5 + 1),
                  .id = i}};
    script.New(1000 + i * 20, flow);
    flows.push_back(flow);
  }
  for (uint64_t interval = 1; interval <= 4; ++interval) {
    const int64_t end = static_cast<int64_t>(interval) * 5000;
    std::vector<TestMessage> entries;
    for (size_t i = 0; i < flows.size(); ++i) {
      if (i % 4 == interval - 1) {
        script.Destroy(end - 1000, flows[i], {interval * 10, interval * 1000 + i},
                       {interval * 5, interval * 500});
      } else if (i % 4 > interval - 1) {
        entries.push_back(script.Entry(flows[i], {interval * 10, interval * 1000 + i},
                                       {interval * 5, interval * 500}));
      }
    }
    script.Dump(end + 10, entries);
  }
  return script;
}

}  // namespace ctacct
