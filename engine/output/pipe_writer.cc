#include "engine/output/pipe_writer.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace ctacct {
namespace {

// How often an absent or slow reader is looked for.
constexpr std::chrono::milliseconds kRetry(20);
// WaitDelivered's patience: a second.
constexpr uint64_t kAttemptsMax = 50;
// More room for a reader that comes by in bursts; the kernel's usual limit for everybody.
constexpr int kPipeBytes = 1 << 20;

}  // namespace

absl::StatusOr<std::unique_ptr<PipeWriter>> PipeWriter::Open(const std::string& path) {
  if (mkfifo(path.c_str(), kFifoMode) != 0 && errno != EEXIST) {
    return absl::ErrnoToStatus(errno, absl::StrCat("pipe ", path));
  }
  if (absl::Status status = Check(path); !status.ok()) return status;
  return std::unique_ptr<PipeWriter>(new PipeWriter(path));
}

absl::Status PipeWriter::Check(const std::string& path) {
  struct stat info {};
  if (stat(path.c_str(), &info) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("pipe ", path));
  }
  if (!S_ISFIFO(info.st_mode)) {
    return absl::FailedPreconditionError(absl::StrCat("pipe ", path, ": is there and is no FIFO"));
  }
  if (access(path.c_str(), W_OK) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("pipe ", path));
  }
  return absl::OkStatus();
}

PipeWriter::PipeWriter(std::string path) : path_(std::move(path)), thread_([this] { Run(); }) {}

void PipeWriter::Finish() {
  WaitDelivered();
  Stop();
}

void PipeWriter::Stop() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void PipeWriter::Offer(std::string lines, size_t count) {
  if (count == 0) return;  // The thread would not wake for it, and never be idle.
  {
    const std::lock_guard lock(mutex_);
    lines_dropped_.fetch_add(offered_count_, std::memory_order_relaxed);
    offered_ = std::move(lines);
    offered_count_ = count;
    idle_ = false;
  }
  changed_.notify_all();
}

void PipeWriter::WaitDelivered() {
  std::unique_lock lock(mutex_);
  while (!idle_ && attempts_without_progress_.load(std::memory_order_relaxed) < kAttemptsMax) {
    changed_.wait_for(lock, kRetry);
  }
}

void PipeWriter::Run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    if (offered_count_ > 0) {
      Drop();
      lines_ = std::exchange(offered_, {});
      count_ = std::exchange(offered_count_, 0);
      offset_ = 0;
    }
    if (stop_) break;
    if (count_ == 0) {
      idle_ = true;
      changed_.notify_all();
      changed_.wait(lock, [this] { return stop_ || offered_count_ > 0; });
      continue;
    }
    lock.unlock();
    const bool go_on = WriteSome();
    lock.lock();
    if (!go_on) {
      attempts_without_progress_.fetch_add(1, std::memory_order_relaxed);
      changed_.wait_for(lock, kRetry, [this] { return stop_ || offered_count_ > 0; });
    } else {
      attempts_without_progress_.store(0, std::memory_order_relaxed);
    }
  }
  Drop();
}

bool PipeWriter::WriteSome() {
  if (!fd_.valid()) {
    fd_ = UniqueFd(open(path_.c_str(), O_WRONLY | O_NONBLOCK | O_CLOEXEC));  // ENXIO: no reader.
    struct stat info {};
    // Somebody may have put something else in its place.
    if (fd_.valid() && (fstat(fd_.get(), &info) != 0 || !S_ISFIFO(info.st_mode))) fd_ = UniqueFd();
    if (!fd_.valid()) return false;
    fcntl(fd_.get(), F_SETPIPE_SZ, kPipeBytes);
  }
  size_t bytes = std::min(kLineBytesMax, lines_.size() - offset_);
  if (bytes == kLineBytesMax) bytes = lines_.rfind('\n', offset_ + bytes - 1) + 1 - offset_;
  const ssize_t written = write(fd_.get(), lines_.data() + offset_, bytes);
  if (written < 0) {
    if (errno == EINTR) return true;
    if (errno != EAGAIN) fd_ = UniqueFd();  // EPIPE: the reader is gone. Another may come.
    return false;
  }
  const auto first = lines_.begin() + static_cast<std::ptrdiff_t>(offset_);
  const auto lines = static_cast<size_t>(std::count(first, first + written, '\n'));
  lines_written_.fetch_add(lines, std::memory_order_relaxed);
  count_ -= lines;
  offset_ += static_cast<size_t>(written);
  if (count_ == 0) lines_ = std::string();
  return true;
}

void PipeWriter::Drop() {
  lines_dropped_.fetch_add(count_, std::memory_order_relaxed);
  count_ = 0;
  lines_.clear();
}

}  // namespace ctacct
