// Writes lines to a FIFO whose reader may be absent, slow or dead, on a thread of its own:
// nobody ever waits for the reader. Lines are whole or not written at all: a write of at most
// PIPE_BUF bytes is atomic (pipe(7)). Of the lines offered, those that no reader took by the time
// the next ones come are dropped and counted.
//
// Thread safety: Offer, WaitDelivered, Finish and the destructor by one thread; the counts by any.
#ifndef CTACCT_ENGINE_OUTPUT_PIPE_WRITER_H_
#define CTACCT_ENGINE_OUTPUT_PIPE_WRITER_H_

#include <limits.h>
#include <sys/types.h>

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/system/unique_fd.h"

namespace ctacct {

// Rows show who talked to whom, so only the reader's group may read. Nobody else may write: that
// would put invented traffic into the reader's database.
inline constexpr mode_t kFifoMode = 0640;

class PipeWriter {
 public:
  // Of a line with its '\n': longer ones cannot be written whole.
  static constexpr size_t kLineBytesMax = PIPE_BUF;

  // Makes the FIFO if there is nothing (mode 0640); fails if there is something else. The process
  // must ignore SIGPIPE.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<PipeWriter>> Open(const std::string& path);
  // Whether what is there is a FIFO that this process may write to.
  [[nodiscard]] static absl::Status Check(const std::string& path);
  ~PipeWriter() { Stop(); }

  // Lines with their '\n', none longer than kLineBytesMax; `count` of them, perhaps none.
  void Offer(std::string lines, size_t count);

  // Waits as WaitDelivered does, then drops what is left: now each line offered is either written
  // or dropped, and the counts are final. Nothing may be offered afterwards.
  void Finish();

  // Returns once everything offered is delivered or dropped, or no reader has taken anything for a
  // second; then at once, until one does.
  void WaitDelivered();

  uint64_t lines_written() const { return lines_written_.load(std::memory_order_relaxed); }
  uint64_t lines_dropped() const { return lines_dropped_.load(std::memory_order_relaxed); }

 private:
  explicit PipeWriter(std::string path);

  void Stop();
  void Run();
  // Writes as much as the pipe takes now. False if the thread should wait before it tries again.
  bool WriteSome();
  void Drop();  // The lines that are left.

  const std::string path_;
  std::atomic<uint64_t> lines_written_{0};
  std::atomic<uint64_t> lines_dropped_{0};
  std::atomic<uint64_t> attempts_without_progress_{0};

  // Only the thread:
  UniqueFd fd_;
  std::string lines_;
  size_t offset_ = 0;
  size_t count_ = 0;

  std::mutex mutex_;
  std::condition_variable changed_;
  // Guarded by mutex_:
  std::string offered_;
  size_t offered_count_ = 0;
  bool idle_ = true;
  bool stop_ = false;

  std::thread thread_;  // Last: it uses all the others.
};

}  // namespace ctacct

#endif  // CTACCT_ENGINE_OUTPUT_PIPE_WRITER_H_
