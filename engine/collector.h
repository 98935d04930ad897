// Joins the kernel's sockets to a worker: the only file that knows both. Runs on the worker's
// thread.
//
// It drains events in batches, asks for a dump at each interval's boundary (and after an overrun),
// and reads it between batches of events. Thread-compatible; Run belongs to one thread, which must
// be in the network namespace of Open.
#ifndef CTACCT_ENGINE_COLLECTOR_H_
#define CTACCT_ENGINE_COLLECTOR_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/worker.h"
#include "netlink/capture_file.h"
#include "netlink/dump_socket.h"
#include "netlink/event_socket.h"

namespace ctacct {

class Collector {
 public:
  struct Options {
    size_t receive_buffer_bytes = 0;
    std::string record;                           // Capture to write; empty: none.
    std::function<void(const std::string&)> log;  // One line of trouble; any thread.
  };

  // Subscribes: from here on the kernel queues events.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<Collector>> Open(Options options);

  // Accounts until *stop, then takes a last dump and what events wait, and finishes the worker.
  // `wake_fd` becomes readable when *stop was set. An error ends it early, the worker finished
  // likewise.
  [[nodiscard]] absl::Status Run(Worker* worker, const std::atomic<bool>& stop, int wake_fd);

 private:
  explicit Collector(Options options) : options_(std::move(options)) {}

  [[nodiscard]] absl::Status Loop(const std::atomic<bool>& stop, int wake_fd);
  // Takes the events that wait and, after them, a chunk of the dump that runs. True if there was
  // one.
  [[nodiscard]] absl::StatusOr<bool> TakeTurn();
  // Applies every event that is queued when it is called.
  [[nodiscard]] absl::Status TakeEvents();
  void NoteOverrun();
  void RequestDump();
  // nullptr: none waits, or the dump has failed. Valid until the next call.
  const Datagram* ReceiveDumpChunk();
  void FailDump(const std::string& why);
  [[nodiscard]] absl::Status TakeLastDump();
  void Wait(int wake_fd);
  void Apply(const Datagram& datagram, int64_t now_ns);

  const Options options_;
  std::unique_ptr<EventSocket> events_;
  std::unique_ptr<DumpSocket> dumps_;
  std::unique_ptr<CaptureWriter> capture_;
  Worker* worker_ = nullptr;
  int64_t subscribed_ns_ = 0;  // Just before the kernel began to queue events.
  bool baselined_ = false;     // The first dump is over.
  bool overrun_ = false;       // ENOBUFS was seen and the queue is not drained yet.
  uint32_t drops_seen_ = 0;
  bool dump_requested_ = false;   // And not done yet.
  int64_t dump_progress_ns_ = 0;  // Monotonic: the last sign of life of the dump.
  int64_t next_request_ns_ = 0;   // Monotonic: not before, after a dump that failed.
};

}  // namespace ctacct

#endif  // CTACCT_ENGINE_COLLECTOR_H_
