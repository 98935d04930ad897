// A whole engine, from its configuration: what is opened, in which order, and which thread does
// what.
//
// Threads: the caller's is the timer thread (signals, flushing, port list); one reads dumps or the
// capture; each worker has its own. Open, Run and Finish once each, in this order, by one thread.
#ifndef CTACCT_ENGINE_ENGINE_H_
#define CTACCT_ENGINE_ENGINE_H_

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/accounting/accounting_table.h"
#include "engine/accounting/flow_snapshot.h"
#include "engine/accounting/worker.h"
#include "engine/config.h"
#include "engine/input/collector.h"
#include "engine/input/replay.h"
#include "engine/output/checkpoint.h"
#include "engine/output/flusher.h"
#include "engine/output/pipe_writer.h"
#include "engine/output/row_sink.h"
#include "engine/port_list_file.h"
#include "engine/reports.h"
#include "engine/spool/engine_id.h"
#include "engine/system/privileges.h"
#include "engine/system/service_manager.h"
#include "engine/system/unique_fd.h"
#include "netlink/capture_file.h"
#include "netlink/tcp_timeouts.h"

namespace ctacct {

class Engine {
 public:
  // Whether the configuration's user, which this process becomes, may use the port list, and the
  // state folder and FIFO if they are there. Makes nothing, starts nothing, and gives nothing to
  // that user, as Open does with what is empty and root's.
  [[nodiscard]] static absl::Status Check(const Config& config);

  // Opens all that the run needs, and resumes where the previous engine stopped. Live, events are
  // queued from here on. Blocks SIGTERM, SIGINT and SIGHUP in this thread and those it makes.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<Engine>> Open(Config config);

  // Accounts until SIGTERM, SIGINT, the capture's end or an error. The status of reading is kept
  // for Finish.
  void Run();

  // Writes what is left, and says how the run went.
  [[nodiscard]] absl::Status Finish();

 private:
  explicit Engine(Config config) : config_(std::move(config)) {}

  // The parts of Open, in order.
  absl::Status OpenSignals();
  absl::Status OpenFiles();
  absl::Status OpenInput();
  absl::Status OpenCheckpoint();
  absl::Status OpenSink();
  void MakeFlusher();
  void MakeWorkers();
  absl::Status RestartFromCheckpoint();

  // The parts of Run.
  void Read();
  void HandleSignals();
  void FlushSealed();
  void Stop();
  void UpdateMetrics(bool last);

  const Config config_;
  EngineId id_{};
  // Set by the timer thread, and by Read at its end.
  std::atomic<bool> stop_{false};
  std::atomic<bool> finished_{false};
  absl::Status read_status_;   // Written by the reading thread before finished_.
  absl::Status write_status_;  // The first error that ends the run.

  UniqueFd signal_fd_;
  UniqueFd sealed_fd_;  // An eventfd: there is something to flush.
  UniqueFd wake_fd_;    // An eventfd: stop_ was set.
  std::optional<Privileges> privileges_;
  std::unique_ptr<CaptureWriter> record_;  // nullptr: none, or the collector has it.
  std::optional<PortListFile> ports_;
  std::unique_ptr<RowSink> sink_;     // nullptr: rows go to the pipe only.
  std::unique_ptr<PipeWriter> pipe_;  // nullptr: none.
  CaptureTraits capture_;             // Of a replay.
  ServiceManager manager_;
  TcpTimeouts tcp_timeouts_;
  bool settings_were_off_ = false;  // Those of conntrack, before they were set.
  // One for each worker.
  std::vector<std::unique_ptr<AccountingHandoff>> owned_handoffs_;
  std::vector<AccountingHandoff*> handoffs_;
  Current<LocalAddresses> local_addresses_;                 // With -local=skip.
  std::vector<std::unique_ptr<SnapshotStream>> snapshots_;  // None without a checkpoint.
  std::unique_ptr<Collector> collector_;                    // nullptr: a replay.
  std::unique_ptr<Checkpoint> checkpoint_;                  // nullptr: nothing to restart from.
  std::optional<Flusher> flusher_;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::optional<FlushReporter> writes_;
  std::optional<PortListReporter> port_list_;
  std::optional<MetricsReporter> metrics_;
};

}  // namespace ctacct

#endif  // CTACCT_ENGINE_ENGINE_H_
