// The ports that are accounted one by one. All other ports of their protocol are summed under
// kPortNotListed.
//
// Text format: one `protocol:port` a line (protocol by name or decimal number, port 0 to 65535);
// `#` starts a comment. The file is read and watched by engine/port_list_file.h.
#ifndef CTACCT_ENGINE_ACCOUNTING_PORT_LIST_H_
#define CTACCT_ENGINE_ACCOUNTING_PORT_LIST_H_

#include <atomic>
#include <bitset>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "absl/status/statusor.h"

namespace ctacct {

// Immutable once parsed; thread-safe.
class PortList {
 public:
  // An error names `path` and the line.
  [[nodiscard]] static absl::StatusOr<std::shared_ptr<const PortList>> Parse(
      const std::string& text, const std::string& path);

  bool Contains(uint8_t protocol, uint16_t port) const {
    const Ports* ports = protocols_[protocol].get();
    return ports != nullptr && ports->test(port);
  }
  size_t size() const { return size_; }
  // Two lists of the same ports have the same checksum, however their files look. Never 0.
  uint64_t checksum() const { return checksum_; }

 private:
  uint64_t MakeChecksum() const;

  using Ports = std::bitset<65536>;

  std::unique_ptr<Ports> protocols_[256];
  size_t size_ = 0;
  uint64_t checksum_ = 0;
};

// The port list in force, which one thread replaces while workers use it. Without a list (nullptr)
// every port is accounted.
//
// A worker asks its Reader before each batch. That costs one load of a version that hardly ever
// changes; only a new list is fetched under the mutex. The old list is freed with its last holder.
//
// Thread safety: Replace and Get by any thread; each Reader by one.
class CurrentPortList {
 public:
  void Replace(std::shared_ptr<const PortList> list) {
    const std::lock_guard lock(mutex_);
    list_ = std::move(list);
    version_.fetch_add(1, std::memory_order_relaxed);
  }
  std::shared_ptr<const PortList> Get() const {
    const std::lock_guard lock(mutex_);
    return list_;
  }

  class Reader {
   public:
    explicit Reader(const CurrentPortList& current) : current_(current) {}
    // Valid until the next call.
    const PortList* Get() {
      const uint64_t version = current_.version_.load(std::memory_order_relaxed);
      if (version != version_) [[unlikely]] {
        version_ = version;
        list_ = current_.Get();  // Of this version or a later one: the mutex orders them.
      }
      return list_.get();
    }

   private:
    const CurrentPortList& current_;
    uint64_t version_ = 0;
    std::shared_ptr<const PortList> list_;
  };

 private:
  mutable std::mutex mutex_;
  std::shared_ptr<const PortList> list_;  // Guarded by mutex_.
  std::atomic<uint64_t> version_{0};
};

}  // namespace ctacct

#endif  // CTACCT_ENGINE_ACCOUNTING_PORT_LIST_H_
