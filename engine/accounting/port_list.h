// The list of ports that are accounted one by one; all others of their protocol fall under
// kPortNotListed.
//
// File format: one `proto:port` a line (protocol by name or decimal number, port 0 to 65535); `#`
// starts a comment.
#ifndef CTACCT_ENGINE_ACCOUNTING_PORT_LIST_H_
#define CTACCT_ENGINE_ACCOUNTING_PORT_LIST_H_

#include <sys/stat.h>

#include <array>
#include <atomic>
#include <bitset>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace ctacct {

// Immutable once read; thread-safe.
class PortList {
 public:
  // Reads a file; an error names the path and the line.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<const PortList>> Read(
      const std::string& path);
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<const PortList>> Parse(
      const std::string& text, const std::string& path);

  bool Contains(uint8_t protocol, uint16_t port) const {
    const Ports* ports = protocols_[protocol].get();
    return ports != nullptr && ports->test(port);
  }
  size_t size() const { return size_; }

 private:
  using Ports = std::bitset<65536>;

  std::unique_ptr<Ports> protocols_[256];
  size_t size_ = 0;
};

// A limit on the threads of one engine. Each may map some 4,000 pieces of memory for its tables, of
// the 65,530 that a process gets (vm.max_map_count).
inline constexpr size_t kWorkersMax = 12;

// A file's port list that workers use while another thread replaces it.
//
// Thread safety: Current by each worker under its own index; Load and ReloadIfChanged by one other
// thread. A worker calls Current between batches and may use what it got until its next call.
class PortListFile {
 public:
  explicit PortListFile(std::string path) : path_(std::move(path)) {}

  // Reads the file now. On an error the last good list stays in force.
  [[nodiscard]] absl::Status Load();

  // Reads the file if it changed (inode, size or time) since the last attempt. A deleted file is
  // one error, once. True if there is a new list.
  [[nodiscard]] absl::StatusOr<bool> ReloadIfChanged();

  // The list in force; nullptr if there is no file (every port is accounted). `worker`: 0 to
  // kWorkersMax - 1.
  const PortList* Current(size_t worker) {
    std::atomic<const PortList*>& in_use = in_use_[worker].list;
    // A hazard pointer: the loader frees what is neither published nor shown here. The second look
    // is needed since the list may have been replaced, and freed, before it was shown; both sides
    // are sequentially consistent for it.
    const PortList* list = published_.load();
    for (;;) {
      in_use.store(list);
      const PortList* again = published_.load();
      if (again == list) return list;
      list = again;
    }
  }
  bool has_file() const { return !path_.empty(); }
  // For the thread that loads.
  const PortList* Newest() const { return lists_.empty() ? nullptr : lists_.back().get(); }

 private:
  struct Stamp {
    bool exists = false;
    ino_t inode = 0;
    off_t bytes = 0;
    timespec changed{};
    bool operator==(const Stamp& other) const {
      return exists == other.exists && inode == other.inode && bytes == other.bytes &&
             changed.tv_sec == other.changed.tv_sec && changed.tv_nsec == other.changed.tv_nsec;
    }
  };
  Stamp StampNow() const;

  const std::string path_;  // Empty: no list.
  Stamp stamp_;
  // The newest at the back. An older one is freed once no worker shows that it uses it.
  std::vector<std::unique_ptr<const PortList>> lists_;
  std::atomic<const PortList*> published_{nullptr};
  struct alignas(64) InUse {  // A cache line for each worker.
    std::atomic<const PortList*> list{nullptr};
  };
  std::array<InUse, kWorkersMax> in_use_;
};

}  // namespace ctacct

#endif  // CTACCT_ENGINE_ACCOUNTING_PORT_LIST_H_
