#include "tests/support/conditions.h"

#include <cstdlib>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "tests/support/subprocess.h"

namespace ctacct {

bool Eventually(const std::function<bool()>& holds, absl::Duration at_most) {
  const absl::Time deadline = absl::Now() + at_most;
  while (!holds()) {
    if (absl::Now() > deadline) return false;
    absl::SleepFor(absl::Milliseconds(10));
  }
  return true;
}

bool InCi() {
  const char* const ci = std::getenv("CI");
  return ci != nullptr && std::string(ci) == "true";
}

void CannotRun(const std::string& why) {
  if (InCi()) FAIL() << "CI=true, but " << why;
  GTEST_SKIP() << why;
}

void RequireProgramOrSkip(const std::string& program, const std::string& version_flag,
                          const std::string& package) {
  if (RunProcessOrError({program, version_flag}, kPatience).ok()) return;
  CannotRun(absl::StrCat("there is no ", program, " (package ", package, ")"));
}

uint64_t NumberFromEnvironment(const char* name, uint64_t otherwise) {
  const char* const text = std::getenv(name);
  if (text == nullptr) return otherwise;
  uint64_t number = 0;
  EXPECT_TRUE(absl::SimpleAtoi(text, &number)) << name << "=" << text;
  return number;
}

}  // namespace ctacct
