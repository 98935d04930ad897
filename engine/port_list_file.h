// The file that contains the port list: read at the start, on SIGHUP and whenever it changes. If it
// is missing or wrong, the last good list stays in force.
//
// Thread-compatible: one thread loads. Workers use `current()`.
#ifndef CTACCT_ENGINE_PORT_LIST_FILE_H_
#define CTACCT_ENGINE_PORT_LIST_FILE_H_

#include <sys/stat.h>

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/accounting/port_list.h"

namespace ctacct {

class PortListFile {
 public:
  // An empty path: no file and no list.
  explicit PortListFile(std::string path) : path_(std::move(path)) {}

  // Reads the file now. An error names the path, and the line if it is one line's.
  [[nodiscard]] absl::Status Load();

  // Reads the file if its inode, size or time changed since the last attempt. True if there is a
  // new list. An error is returned once, not again until the file changes.
  [[nodiscard]] absl::StatusOr<bool> ReloadIfChanged();

  const CurrentPortList& current() const { return current_; }

 private:
  struct Stamp {
    bool exists = false;
    ino_t inode = 0;
    off_t bytes = 0;
    int64_t changed_ns = 0;
    friend bool operator==(const Stamp&, const Stamp&) = default;
  };
  Stamp StampNow() const;

  const std::string path_;
  Stamp stamp_;
  CurrentPortList current_;
};

}  // namespace ctacct

#endif  // CTACCT_ENGINE_PORT_LIST_FILE_H_
