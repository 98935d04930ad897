#include "tests/support/engine_test.h"

#include <signal.h>

#include <filesystem>

namespace ctacct {

EngineTest::EngineTest(const std::string& name) : temporary_(name), folder_(temporary_.path()) {
  // Started as root the engine becomes another user, who writes here. Only the modes of what it
  // makes are to keep a stranger out.
  std::filesystem::create_directory(spool());
  for (const std::string& folder : {folder_, spool()}) {
    std::filesystem::permissions(folder, std::filesystem::perms(0777));
  }
}

void EngineTest::SetUp() {
  RequireRootOrSkip();
  if (!IsSkipped() && !HasFatalFailure()) BringUp();
}

void EngineTest::BringUp(const GatewayOptions& options) {
  gateway_.reset();
  auto gateway = Gateway::Up(options);
  ASSERT_TRUE(gateway.ok()) << gateway.status();
  gateway_ = *std::move(gateway);
}

void EngineTest::LaunchEngine(const std::vector<std::string>& argv,
                              const SubprocessOptions& options) {
  auto engine = gateway_->Start(argv, options);
  ASSERT_TRUE(engine.ok()) << engine.status();
  engine_ = *std::move(engine);
}

void EngineTest::StartEngine(const std::vector<std::string>& argv,
                             const SubprocessOptions& options) {
  ASSERT_NO_FATAL_FAILURE(LaunchEngine(argv, options));
  WaitForEngine("accounting live");
}

void EngineTest::WaitForEngine(const std::string& to_say) {
  const absl::Status said = engine_->WaitForOutput(to_say, kPatience);
  ASSERT_TRUE(said.ok()) << said;
}

void EngineTest::StopEngine() { Stop(*engine_); }

void EngineTest::Stop(Subprocess& engine) {
  ASSERT_TRUE(engine.Running()) << engine.Stderr();
  ASSERT_TRUE(engine.Signal(SIGTERM).ok());
  const auto exit = engine.Wait(kPatience);
  ASSERT_TRUE(exit.ok()) << exit.status() << engine.Stderr();
  EXPECT_TRUE(exit->ok()) << exit->ToString() << engine.Stderr();
}

void EngineTest::KillEngine() {
  ASSERT_TRUE(engine_->Running()) << engine_->Stderr();
  ASSERT_TRUE(engine_->Signal(SIGKILL).ok());
  const auto exit = engine_->Wait(kPatience);
  ASSERT_TRUE(exit.ok() && exit->signal == SIGKILL) << engine_->Stderr();
}

Traffic EngineTest::Play(const std::vector<std::string>& flags) {
  const auto sent = gateway_->Play(flags);
  EXPECT_TRUE(sent.ok()) << sent.status();
  return sent.value_or(Traffic());
}

Traffic EngineTest::Sent() const {
  const auto traffic = ReadExpectation(sent());
  EXPECT_TRUE(traffic.ok()) << traffic.status();
  return traffic.value_or(Traffic());
}

std::unique_ptr<Subprocess> EngineTest::StartPlay(const std::vector<std::string>& flags) {
  auto generator = gateway_->StartPlay(flags, sent());
  EXPECT_TRUE(generator.ok()) << generator.status();
  return generator.ok() ? *std::move(generator) : nullptr;
}

void EngineTest::WaitForPlay(Subprocess& generator) {
  const auto exit = generator.Wait(absl::Seconds(120));
  ASSERT_TRUE(exit.ok() && exit->ok()) << generator.Stderr();
}

void EngineTest::FlushConntrack() {
  const absl::Status flushed = gateway_->FlushConntrack();
  ASSERT_TRUE(flushed.ok()) << flushed;
}

}  // namespace ctacct
