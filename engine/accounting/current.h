// A value in force, which one thread replaces while workers use it: the port list, the gateway's
// own addresses. nullptr: none.
//
// A worker asks its Reader before each batch. That costs one load of a version that hardly ever
// changes; only a new value is fetched under the mutex. The old one is freed with its last holder.
//
// Thread safety: Replace and Get by any thread; each Reader by one.
#ifndef CTACCT_ENGINE_ACCOUNTING_CURRENT_H_
#define CTACCT_ENGINE_ACCOUNTING_CURRENT_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>

namespace ctacct {

template <typename Value>
class Current {
 public:
  void Replace(std::shared_ptr<const Value> value) {
    const std::lock_guard lock(mutex_);
    value_ = std::move(value);
    version_.fetch_add(1, std::memory_order_relaxed);
  }
  std::shared_ptr<const Value> Get() const {
    const std::lock_guard lock(mutex_);
    return value_;
  }

  class Reader {
   public:
    explicit Reader(const Current& current) : current_(current) {}
    // Valid until the next call.
    const Value* Get() {
      const uint64_t version = current_.version_.load(std::memory_order_relaxed);
      if (version != version_) [[unlikely]] {
        version_ = version;
        value_ = current_.Get();  // Of this version or a later one: the mutex orders them.
      }
      return value_.get();
    }

   private:
    const Current& current_;
    uint64_t version_ = 0;
    std::shared_ptr<const Value> value_;
  };

 private:
  mutable std::mutex mutex_;
  std::shared_ptr<const Value> value_;  // Guarded by mutex_.
  std::atomic<uint64_t> version_{0};
};

}  // namespace ctacct

#endif  // CTACCT_ENGINE_ACCOUNTING_CURRENT_H_
