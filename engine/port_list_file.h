// The file that contains the port list: read at the start, on SIGHUP and whenever it changes. If it
// is missing or wrong, the last good list stays in force. It is not read while it has changed
// within the last 200 ms.
//
// Thread-compatible: one thread loads. Workers use `current()`.
#ifndef CTACCT_ENGINE_PORT_LIST_FILE_H_
#define CTACCT_ENGINE_PORT_LIST_FILE_H_

#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/accounting/port_list.h"
#include "engine/system/followed_file.h"

namespace ctacct {

class PortListFile {
 public:
  // An empty path: no file and no list.
  explicit PortListFile(std::string path) : path_(std::move(path)) {}

  // Reads the file, also if it did not change; waits while it is being written, for two seconds at
  // most. An error names the path, and the line if it is one line's.
  [[nodiscard]] absl::Status Load();

  // Reads the file if it has changed since the last attempt. True if there is a new list. An error
  // is returned once, not again until there is another.
  [[nodiscard]] absl::StatusOr<bool> ReloadIfChanged();

  const CurrentPortList& current() const { return current_; }

 private:
  // True if there is a new list.
  absl::StatusOr<bool> Read();

  const std::string path_;
  std::optional<FollowedFile> file_;  // Nothing before Load().
  absl::Status problem_;              // Of the last attempt.
  CurrentPortList current_;
};

}  // namespace ctacct

#endif  // CTACCT_ENGINE_PORT_LIST_FILE_H_
