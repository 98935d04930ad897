// Accounts live. Each worker has a thread and an event socket on which the kernel queues the events
// of its share of the flows (EventLoop). The thread that calls Run asks for a dump at each
// interval's boundary, and after an overrun, and hands its chunks to the workers through the
// dispatcher's queues.
//
// Thread-compatible; Run belongs to one thread, which must be in the network namespace of Open.
#ifndef CTACCT_ENGINE_INPUT_COLLECTOR_H_
#define CTACCT_ENGINE_INPUT_COLLECTOR_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/accounting/dispatcher.h"
#include "engine/accounting/worker.h"
#include "engine/input/dump_schedule.h"
#include "engine/input/event_loop.h"
#include "engine/input/live_metrics.h"
#include "engine/input/table_guard.h"
#include "engine/system/service_manager.h"
#include "engine/system/unique_fd.h"
#include "netlink/capture_file.h"
#include "netlink/dump_socket.h"
#include "netlink/local_addresses.h"

namespace ctacct {

class Collector {
 public:
  struct Options {
    AccountingRules rules;  // What the kernel need not queue.
    bool destroy_only = false;
    // Kernel memory for bursts of events, of all workers together.
    size_t receive_buffer_bytes = 0;
    // With rules.skip_local: kept up to date.
    Current<LocalAddresses>* local = nullptr;
    bool reliable = false;  // See EventSocket::SetReliable; given up while the table is too full.
    std::unique_ptr<CaptureWriter> record;        // nullptr: none. With one worker.
    std::function<void(const std::string&)> log;  // One line of trouble; any thread.
    // Keeps the event sockets when this process ends. It is notified when accounting is live, and
    // then regularly that the engine is alive. Must not be null.
    ServiceManager* manager = nullptr;
  };

  // Subscribes, once per worker: from here on the kernel queues events. Or continues with sockets
  // of an earlier engine.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<Collector>> Open(
      Options options, const std::vector<AccountingHandoff*>& handoffs);

  // Flows born from then on count in full; since the Unix epoch.
  int64_t subscribed_ns() const { return subscribed_ns_; }
  // All event sockets come from an earlier engine with the same settings. They hold the events that
  // the kernel reported while no engine ran; events dropped meanwhile are counted as usual.
  bool events_kept() const { return events_kept_; }
  // Call before Run: an earlier engine has read all events up to then.
  void NoteDrained(int64_t drained_ns);

  // How often reliable delivery was turned off because the table was too full.
  uint64_t times_reliable_left() const { return times_reliable_left_.load(); }
  // All except conntrack's own figures; any thread.
  LiveMetrics metrics() const;

  // `timestamps_on`: nf_conntrack_timestamp. Accounts until *stop, then takes a last dump, reads
  // the events still queued, and finishes the workers. `wake_fd` becomes readable when *stop was
  // set. An error ends it early; the workers are finished and *stop is set then as well, and the
  // flusher must take all tables.
  [[nodiscard]] absl::Status Run(const std::vector<std::unique_ptr<Worker>>& workers,
                                 bool timestamps_on, std::atomic<bool>* stop, int wake_fd);

 private:
  explicit Collector(Options options) : options_(std::move(options)) {}

  void Loop(const std::atomic<bool>& stop, int wake_fd);
  void TakeLastDump();
  void AwaitUndelivered();
  void OnTableRoom(bool room, const TableFill& fill);
  void RequestDump();
  // The gateway's own addresses, if they have changed.
  void FollowAddresses();
  absl::Status ReadAddresses();
  // Each second, and before an interval ends: whether conntrack has counted and reported everything
  // since the last time.
  void CheckSettings();
  // Takes a chunk of the dump that runs; false if none waits, or the dump has failed.
  bool TakeChunk();
  void FailDump(const std::string& why);
  DumpSchedule::Need NeedOfDump() const;
  void ShowDumps();
  // Every worker has applied all that was dispatched.
  bool AllCaughtUp() const;
  bool AnyNeedsResync() const;
  bool AnyFailed() const;
  // Every interval sealed so far could be handed over: another may end.
  bool CanSeal() const;
  void NoteBaseline();
  // Sends the service manager's watchdog a sign of life if this thread and all workers still make
  // progress. If not, events overflow, and a restart continues with the same sockets. The flusher
  // is not checked: a slow disk may hold it up while rows wait in memory, and killing it would lose
  // them.
  void TellAlive();
  void WakeWorkers();
  void Wait(int wake_fd);

  const Options options_;
  std::vector<AccountingHandoff*> handoffs_;
  UniqueFd attention_fd_;  // A worker wants something of this thread.
  std::vector<std::unique_ptr<EventLoop>> loops_;
  std::unique_ptr<DumpSocket> dump_socket_;
  std::unique_ptr<AddressSocket> address_socket_;  // nullptr: nobody wants them.
  LocalAddresses addresses_;
  std::optional<Dispatcher> dispatcher_;
  int64_t subscribed_ns_ = 0;  // Just before the kernel began to queue events.
  bool events_kept_ = false;
  std::vector<std::string> kept_names_;
  std::atomic<uint64_t> times_reliable_left_{0};
  // As of the last dump, for any thread.
  mutable std::mutex dump_counts_mutex_;
  DumpSchedule::Counts dump_counts_;
  DumpSchedule dumps_;
  uint64_t buckets_ = 0;  // Of the kernel's table, when the dump was requested.
  int64_t settings_checked_ns_ = 0;
  int64_t settings_looked_at_ns_ = 0;  // The same, CLOCK_MONOTONIC.
  bool settings_were_on_ = true;       // What is off for long is logged once.
  bool record_good_ = true;
  bool baseline_told_ = false;
  std::vector<uint64_t> turns_told_;  // Of each worker's loop, at the last sign of life.
};

}  // namespace ctacct

#endif  // CTACCT_ENGINE_INPUT_COLLECTOR_H_
