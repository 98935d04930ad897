#include "engine/input/replay.h"

#include <linux/netlink.h>

#include <filesystem>
#include <memory>
#include <optional>
#include <set>
#include <system_error>
#include <thread>

#include "absl/strings/str_cat.h"
#include "netlink/capture_file.h"
#include "netlink/ctnetlink_parser.h"

namespace ctacct {
namespace {

void Work(Worker* worker, FrameQueue* queue) {
  for (;;) {
    queue->Take();
    Frame frame;
    const uint8_t* data = nullptr;
    while (queue->Next(&frame, &data)) {
      if (!worker->OnFrame(frame, data)) return;
    }
    worker->ApplyPending();
    if (!worker->SweepSome()) queue->WaitReady();
  }
}

}  // namespace

absl::StatusOr<CaptureTraits> ExamineCapture(const std::string& path) {
  std::error_code ignored;  // Opening it will report what is wrong.
  if (std::filesystem::exists(path, ignored) && !std::filesystem::is_regular_file(path, ignored)) {
    return absl::FailedPreconditionError(
        absl::StrCat("capture ", path, ": must be a regular file, since it is read twice"));
  }
  const absl::StatusOr<std::unique_ptr<CaptureReader>> reader = CaptureReader::Open(path);
  if (!reader.ok()) return reader.status();
  CaptureTraits traits;
  CapturedDatagram datagram;
  std::optional<uint32_t> other_dump;
  std::optional<int64_t> began_ns;
  std::set<uint32_t> part_dumps;
  while (traits.interval_end != IntervalEnd::kByDump || !traits.timestamps_on) {
    const absl::StatusOr<bool> more = (*reader)->Next(&datagram);
    // A damaged place is reported by the replay itself, after what came before it was accounted.
    if (!more.ok() || !*more) break;
    if (!began_ns.has_value()) began_ns = datagram.time_ns;
    DatagramCursor cursor(datagram.data, datagram.bytes);
    NetlinkMessage message;
    FlowEvent event;
    Ipv6FlowEvent ipv6_event;
    while (cursor.Next(&message)) {
      const ParseResult parsed = ParseFlowMessage(message, &event);
      int64_t start_ns = parsed == ParseResult::kFlow ? event.start_ns : 0;
      if (parsed == ParseResult::kIpv6 &&
          ParseIpv6FlowMessage(message, &ipv6_event) == ParseResult::kFlow) {
        start_ns = ipv6_event.start_ns;
      }
      if (start_ns != 0 && start_ns >= *began_ns) traits.timestamps_on = true;
      if (RequestedScope(message) == DumpScope::kPart) part_dumps.insert(message.sequence);
      if ((message.flags & NLM_F_MULTI) == 0 || part_dumps.count(message.sequence) != 0) continue;
      // Dumps of other subsystems, and their ends, are none: see Dispatcher::OnMessage.
      if (message.type != NLMSG_DONE && !IsFlowMessage(message)) other_dump = message.sequence;
      if (other_dump != message.sequence) traits.interval_end = IntervalEnd::kByDump;
    }
  }
  return traits;
}

absl::Status Replay(const std::string& path, const Dispatcher::Options& options,
                    const std::vector<std::unique_ptr<Worker>>& workers,
                    const std::atomic<bool>& stop) {
  const absl::StatusOr<std::unique_ptr<CaptureReader>> reader = CaptureReader::Open(path);
  if (!reader.ok()) return reader.status();
  std::vector<std::unique_ptr<FrameQueue>> owned;
  std::vector<FrameQueue*> queues;
  std::vector<std::thread> threads;
  for (const std::unique_ptr<Worker>& worker : workers) {
    owned.push_back(std::make_unique<FrameQueue>());
    queues.push_back(owned.back().get());
    threads.emplace_back(Work, worker.get(), queues.back());
  }
  Dispatcher dispatcher(options, queues);
  absl::Status status;
  CapturedDatagram datagram;
  while (!stop.load(std::memory_order_relaxed)) {
    const absl::StatusOr<bool> more = (*reader)->Next(&datagram);
    if (!more.ok()) status = more.status();
    if (!more.ok() || !*more) break;
    dispatcher.OnDatagram(datagram.data, datagram.bytes, datagram.time_ns);
  }
  dispatcher.Finish();
  for (std::thread& thread : threads) thread.join();
  return status;
}

}  // namespace ctacct
