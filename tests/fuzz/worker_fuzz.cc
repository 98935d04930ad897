// A stream of datagrams, as a hostile capture would give them, through a dispatcher and two
// workers. The input is cut into datagrams: two bytes of length, one of time passing. Rows may be
// nonsense; memory and control flow may not.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "engine/accounting/dispatcher.h"
#include "engine/accounting/worker.h"

namespace {

constexpr size_t kWorkers = 2;

struct Share {
  ctacct::FrameQueue queue;
  ctacct::AccountingHandoff handoff;
  std::unique_ptr<ctacct::Worker> worker;

  void Work() {
    queue.Take();
    ctacct::Frame frame;
    const uint8_t* bytes = nullptr;
    while (queue.Next(&frame, &bytes)) {
      if (!worker->OnFrame(frame, bytes)) break;
    }
    worker->ApplyPending();
    if (ctacct::AccountingTable* table = handoff.Take(); table != nullptr) handoff.GiveBack(table);
  }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
  static ctacct::CurrentPortList ports;
  Share shares[kWorkers];
  std::vector<ctacct::FrameQueue*> queues;
  for (size_t i = 0; i < kWorkers; ++i) {
    ctacct::Worker::Options options;
    options.rules.interval_ns = 1'000'000'000;
    options.rules.include_icmp = true;
    options.rules.track_open = true;
    shares[i].worker = std::make_unique<ctacct::Worker>(options, &shares[i].handoff, &ports);
    queues.push_back(&shares[i].queue);
  }
  ctacct::Dispatcher::Options options;
  options.interval_ns = 1'000'000'000;
  options.interval_end =
      bytes % 2 == 0 ? ctacct::IntervalEnd::kByDump : ctacct::IntervalEnd::kByPacket;
  ctacct::Dispatcher dispatcher(options, queues);
  int64_t now_ns = 1'600'000'000'000'000'000;
  while (bytes >= 3) {
    const size_t wanted = static_cast<size_t>(data[0]) | static_cast<size_t>(data[1]) << 8;
    now_ns += data[2] * int64_t{10'000'000};
    data += 3;
    bytes -= 3;
    const size_t take = wanted < bytes ? wanted : bytes;
    dispatcher.OnDatagram(data, take, now_ns);
    dispatcher.Publish();
    for (Share& share : shares) share.Work();
    data += take;
    bytes -= take;
  }
  dispatcher.Finish();
  for (Share& share : shares) share.Work();
  return 0;
}
