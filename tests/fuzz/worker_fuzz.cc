// A stream of datagrams, as a hostile capture would give them, through a whole worker. The input is
// cut into datagrams: two bytes of length, one of time passing. Rows may be nonsense; memory and
// control flow may not.
#include <cstddef>
#include <cstdint>

#include "engine/worker.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
  ctacct::AccountingHandoff handoff;
  ctacct::PortListFile ports("");
  ctacct::Worker::Options options;
  options.rules.interval_ns = 1'000'000'000;
  options.rules.include_icmp = true;
  options.rules.track_open = true;
  options.interval_end =
      bytes % 2 == 0 ? ctacct::IntervalEnd::kByDump : ctacct::IntervalEnd::kByPacket;
  ctacct::Worker worker(options, &handoff, &ports);
  int64_t now_ns = 1'600'000'000'000'000'000;
  while (bytes >= 3) {
    const size_t wanted = static_cast<size_t>(data[0]) | static_cast<size_t>(data[1]) << 8;
    now_ns += data[2] * int64_t{10'000'000};
    data += 3;
    bytes -= 3;
    const size_t take = wanted < bytes ? wanted : bytes;
    worker.OnDatagram(data, take, now_ns);
    data += take;
    bytes -= take;
    if (ctacct::AccountingTable* table = handoff.Take(); table != nullptr) handoff.GiveBack(table);
  }
  worker.Finish();
  return 0;
}
