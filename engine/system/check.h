// CTACCT_CHECK(condition): an assertion for programmer errors at the seams (hand-over, merge,
// commit), where continuing would write wrong figures. It stays on in all builds: if the condition
// does not hold, the program prints file, line and condition on standard error and aborts. Keep the
// condition cheap, and keep CTACCT_CHECK out of code that runs for each event.
//
// Operating errors (a full disk, a broken file) are not for this: return an absl::Status.
#ifndef CTACCT_ENGINE_SYSTEM_CHECK_H_
#define CTACCT_ENGINE_SYSTEM_CHECK_H_

#include <cstdio>
#include <cstdlib>

namespace ctacct::internal {

[[noreturn]] [[gnu::cold]] [[gnu::noinline]] inline void CheckFailed(const char* file, int line,
                                                                     const char* condition) {
  std::fprintf(stderr, "%s:%d: check failed: %s\n", file, line, condition);
  std::abort();
}

}  // namespace ctacct::internal

#define CTACCT_CHECK(condition)       \
  ((condition) ? static_cast<void>(0) \
               : ::ctacct::internal::CheckFailed(__FILE__, __LINE__, #condition))

#endif  // CTACCT_ENGINE_SYSTEM_CHECK_H_
