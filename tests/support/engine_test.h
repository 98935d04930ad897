// Base of tests with a real engine on a real gateway: a folder, a gateway, traffic through it, and
// an engine that is started, stopped and killed. They skip, or fail in CI, where no gateway can be
// made. What goes wrong fails the test; a function that ends with "Engine" or begins with "BringUp"
// fails it fatally (see ASSERT_NO_FATAL_FAILURE).
#ifndef CTACCT_TESTS_SUPPORT_ENGINE_TEST_H_
#define CTACCT_TESTS_SUPPORT_ENGINE_TEST_H_

#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/support/conditions.h"
#include "tests/support/files.h"
#include "tests/support/gateway.h"
#include "tests/support/subprocess.h"

namespace ctacct {

// Flags of the group masks that most tests account by, and what these make of traffic.
inline const std::vector<std::string> kGroupFlags = {"-src-group-mask=255.239.255.0",
                                                     "-dst-group-mask=255.239.255.0"};
inline const GroupOptions kGrouped = {.src_mask = 0xffefff00, .dst_mask = 0xffefff00, .ports = {}};

class EngineTest : public testing::Test {
 protected:
  // The name is the folder's; see TestFolder.
  explicit EngineTest(const std::string& name);

  void SetUp() override;  // Brings a gateway up, unless the derived class does.
  void BringUp(const GatewayOptions& options = {});

  std::string spool() const { return folder_ + "/spool"; }
  std::string sent() const { return folder_ + "/sent.csv"; }  // For Gateway::StartPlay.

  // The first does not wait until the engine accounts.
  void LaunchEngine(const std::vector<std::string>& argv, const SubprocessOptions& options = {});
  void StartEngine(const std::vector<std::string>& argv, const SubprocessOptions& options = {});
  // Waits for a line of its log.
  void WaitForEngine(const std::string& to_say);
  // SIGTERM, and exit status 0.
  void StopEngine();
  static void Stop(Subprocess& engine);
  void KillEngine();

  // What was sent, in all of it at once or in the file that StartPlay was given.
  Traffic Play(const std::vector<std::string>& flags);
  Traffic Sent() const;
  std::unique_ptr<Subprocess> StartPlay(const std::vector<std::string>& flags);
  static void WaitForPlay(Subprocess& generator);
  void FlushConntrack();

 private:
  const TestFolder temporary_;

 protected:
  const std::string folder_;
  std::unique_ptr<Gateway> gateway_;
  std::unique_ptr<Subprocess> engine_;
};

}  // namespace ctacct

#endif  // CTACCT_TESTS_SUPPORT_ENGINE_TEST_H_
