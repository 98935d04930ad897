// The most flows of the whole machine (nf_conntrack_max), lower than it was while an object lives.
//
// Needs root. A process of its own puts the limit back, whatever becomes of the test. One at a
// time.
#ifndef CTACCT_TESTS_SUPPORT_LOWERED_TABLE_LIMIT_H_
#define CTACCT_TESTS_SUPPORT_LOWERED_TABLE_LIMIT_H_

#include <sys/types.h>

#include <cstdint>

#include "engine/system/unique_fd.h"

namespace ctacct {

class LoweredTableLimit {
 public:
  explicit LoweredTableLimit(uint64_t flows);
  LoweredTableLimit(const LoweredTableLimit&) = delete;
  LoweredTableLimit& operator=(const LoweredTableLimit&) = delete;
  ~LoweredTableLimit();

 private:
  UniqueFd alive_;
  pid_t keeper_ = -1;
};

}  // namespace ctacct

#endif  // CTACCT_TESTS_SUPPORT_LOWERED_TABLE_LIMIT_H_
