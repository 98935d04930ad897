// Owns one file descriptor and closes it. Errors of close() are ignored: a caller that needs the
// bytes on disk calls fsync() first.
//
// Thread-compatible; movable, not copyable.
#ifndef CTACCT_ENGINE_SYSTEM_UNIQUE_FD_H_
#define CTACCT_ENGINE_SYSTEM_UNIQUE_FD_H_

#include <unistd.h>

#include <utility>

namespace ctacct {

class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    if (this != &other) {
      Close();
      fd_ = std::exchange(other.fd_, -1);
    }
    return *this;
  }
  ~UniqueFd() { Close(); }

  [[nodiscard]] bool valid() const { return fd_ >= 0; }
  [[nodiscard]] int get() const { return fd_; }
  [[nodiscard]] int Release() { return std::exchange(fd_, -1); }

 private:
  void Close() {
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
  }

  int fd_ = -1;
};

}  // namespace ctacct

#endif  // CTACCT_ENGINE_SYSTEM_UNIQUE_FD_H_
