// An allocator for large vectors beside threads that must not wait: the memory goes back to the
// kernel a small part at a time.
//
// munmap of 120 MB keeps the lock of the address space for 13 ms, and so long another thread waits
// for its own mmap, mremap or page fault. MADV_DONTNEED takes that lock for each part alone.
//
// Thread-safe. Memory from std::allocator, so it throws std::bad_alloc.
#ifndef CTACCT_ENGINE_SYSTEM_PARTWISE_ALLOCATOR_H_
#define CTACCT_ENGINE_SYSTEM_PARTWISE_ALLOCATOR_H_

#include <sys/mman.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace ctacct {

template <typename T>
struct PartwiseAllocator {
  using value_type = T;

  PartwiseAllocator() = default;
  template <typename Other>
  PartwiseAllocator(const PartwiseAllocator<Other>&) {}  // NOLINT: as std::allocator.

  T* allocate(size_t count) { return std::allocator<T>().allocate(count); }
  void deallocate(T* memory, size_t count) {
    constexpr uintptr_t kPart = 1 << 20;
    constexpr uintptr_t kPage = 1 << 16;  // The largest of any machine.
    const auto begins = reinterpret_cast<uintptr_t>(memory);
    const uintptr_t end = (begins + count * sizeof(T)) & ~(kPage - 1);
    for (uintptr_t at = (begins + kPage - 1) & ~(kPage - 1); at < end; at += kPart) {
      // If it fails, the memory is given back at once, as without it.
      madvise(reinterpret_cast<void*>(at), std::min(kPart, end - at), MADV_DONTNEED);
    }
    std::allocator<T>().deallocate(memory, count);
  }

  friend bool operator==(const PartwiseAllocator&, const PartwiseAllocator&) { return true; }
};

template <typename T>
using PartwiseVector = std::vector<T, PartwiseAllocator<T>>;

}  // namespace ctacct

#endif  // CTACCT_ENGINE_SYSTEM_PARTWISE_ALLOCATOR_H_
