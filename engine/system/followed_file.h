// A text file that others write, read again whenever it changes. Thread-compatible.
#ifndef CTACCT_ENGINE_SYSTEM_FOLLOWED_FILE_H_
#define CTACCT_ENGINE_SYSTEM_FOLLOWED_FILE_H_

#include <sys/stat.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/statusor.h"

namespace ctacct {

class FollowedFile {
 public:
  // 100,000 names with all fields are 10 MB; all ports of several protocols are less.
  static constexpr size_t kBytesMax = size_t{64} << 20;
  // Of a file that was written so recently more may follow: OpenVPN and editors write in place.
  static constexpr int64_t kSettleNs = 200'000'000;

  // `may_be_empty`: else it is an error, of a full disk or of a writer that is held up.
  explicit FollowedFile(std::string path, bool may_be_empty = false)
      : path_(std::move(path)), may_be_empty_(may_be_empty) {}

  // The text, if its inode, size or a time changed since the last attempt and it is at rest. An
  // error of reading comes with each call; the file's absence is NotFound.
  [[nodiscard]] absl::StatusOr<std::optional<std::string>> ReadIfChanged();

  // It has changed, but somebody may be writing it still: look again after kSettleNs.
  bool is_settling() const { return is_settling_; }
  const std::string& path() const { return path_; }

 private:
  struct Stamp {
    ino_t inode = 0;
    off_t bytes = 0;
    int64_t changed_ns = 0;
    int64_t inode_changed_ns = 0;  // Programs set the other one as they like.
    friend bool operator==(const Stamp&, const Stamp&) = default;
  };
  static Stamp StampOf(const struct stat& info);

  std::string path_;
  bool may_be_empty_;
  std::optional<Stamp> stamp_;  // Of the text returned last.
  int64_t empty_since_ns_ = 0;  // Monotonic; 0: it is not.
  bool is_settling_ = false;
};

}  // namespace ctacct

#endif  // CTACCT_ENGINE_SYSTEM_FOLLOWED_FILE_H_
