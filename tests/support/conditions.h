// What a test waits for, and what it cannot run without.
#ifndef CTACCT_TESTS_SUPPORT_CONDITIONS_H_
#define CTACCT_TESTS_SUPPORT_CONDITIONS_H_

#include <cstdint>
#include <functional>
#include <string>

#include "absl/time/time.h"

namespace ctacct {

// A number that the environment may set: more work than an ordinary run has time for, or a seed.
[[nodiscard]] uint64_t NumberFromEnvironment(const char* name, uint64_t otherwise);

// How many times as long everything takes here: CTACCT_SLOWNESS, which ./dev kernels sets for
// emulated machines.
inline const double kSlowness = static_cast<double>(NumberFromEnvironment("CTACCT_SLOWNESS", 1));

// Only a broken program needs as long: what a test waits for comes within seconds.
inline const absl::Duration kPatience = absl::Seconds(60) * kSlowness;

// Asks until `holds` is true; false if it is not by the deadline. For conditions that nothing
// announces.
[[nodiscard]] bool Eventually(const std::function<bool()>& holds,
                              absl::Duration at_most = kPatience);

// True where the environment says CI=true: a test that cannot run is a failure there.
[[nodiscard]] bool InCi();

// Fails the test in CI and skips it elsewhere, with the reason. For SetUp; elsewhere return from
// the test afterwards.
void CannotRun(const std::string& why);

// CannotRun unless `program --version` or the like succeeds. `package` is Debian's.
void RequireProgramOrSkip(const std::string& program, const std::string& version_flag,
                          const std::string& package);

}  // namespace ctacct

#endif  // CTACCT_TESTS_SUPPORT_CONDITIONS_H_
