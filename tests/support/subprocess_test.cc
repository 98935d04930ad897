#include "tests/support/subprocess.h"

#include <signal.h>

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace ctacct {
namespace {

using ::testing::HasSubstr;

TEST(SubprocessTest, CapturesOutputAndStatus) {
  const auto done =
      RunProcess({"sh", "-c", "echo $GREETING; pwd; echo trouble >&2; exit 3"}, absl::Seconds(10),
                 {.environment = {{"GREETING", "hello"}}, .working_directory = "/"});
  ASSERT_TRUE(done.ok()) << done.status();
  EXPECT_EQ(done->out, "hello\n/\n");
  EXPECT_EQ(done->err, "trouble\n");
  EXPECT_EQ(done->exit.ToString(), "exit status 3");
  const auto error = RunProcessOrError({"sh", "-c", "echo trouble >&2; exit 3"}, absl::Seconds(10));
  EXPECT_THAT(std::string(error.status().message()), HasSubstr("exit status 3: trouble"));
}

TEST(SubprocessTest, MissingProgramAndFolder) {
  EXPECT_EQ(Subprocess::Start({"/no/such/program"}).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(Subprocess::Start({"true"}, {.working_directory = "/no/such"}).status().code(),
            absl::StatusCode::kNotFound);
}

TEST(SubprocessTest, OutputOfAnyLengthBlocksNobody) {
  auto child =
      Subprocess::Start({"sh", "-c", "head -c 3000000 /dev/zero; echo; echo end >&2; sleep 100"});
  ASSERT_TRUE(child.ok()) << child.status();
  ASSERT_TRUE((*child)->WaitForOutput("end", absl::Seconds(20)).ok());
  EXPECT_EQ((*child)->Stdout().size(), 3000001u);
  EXPECT_TRUE((*child)->Running());
}

TEST(SubprocessTest, DeadlineAndSignal) {
  auto child = Subprocess::Start({"sleep", "100"});
  ASSERT_TRUE(child.ok()) << child.status();
  EXPECT_EQ((*child)->Wait(absl::Milliseconds(20)).status().code(),
            absl::StatusCode::kDeadlineExceeded);
  ASSERT_TRUE((*child)->Signal(SIGTERM).ok());
  const auto exit = (*child)->Wait(absl::Seconds(10));
  ASSERT_TRUE(exit.ok()) << exit.status();
  EXPECT_EQ(exit->signal, SIGTERM);
  EXPECT_FALSE((*child)->Running());
  EXPECT_FALSE((*child)->Signal(SIGTERM).ok());
  EXPECT_EQ((*child)->Wait(absl::ZeroDuration())->signal, SIGTERM);  // Asked again.
}

TEST(SubprocessTest, TakesItsChildrenAlong) {
  pid_t grandchild = 0;
  {
    auto child = Subprocess::Start({"sh", "-c", "sleep 100 & echo $! ready; wait"});
    ASSERT_TRUE(child.ok()) << child.status();
    ASSERT_TRUE((*child)->WaitForOutput("ready", absl::Seconds(10)).ok());
    grandchild = std::stoi((*child)->Stdout());
    EXPECT_EQ(kill(grandchild, 0), 0);
  }
  // Its new parent reaps it in a moment; until then its process id still exists.
  const std::string stat = "/proc/" + std::to_string(grandchild) + "/stat";
  const auto state = RunProcess(
      {"sh", "-c", "sleep 0.2; cat " + stat + " 2>/dev/null | cut -d' ' -f3"}, absl::Seconds(10));
  ASSERT_TRUE(state.ok()) << state.status();
  EXPECT_THAT(state->out, testing::AnyOf("", "Z\n"));
}

TEST(SubprocessTest, NamedFiles) {
  const std::string path = testing::TempDir() + "/subprocess_out";
  ASSERT_TRUE(RunProcess({"echo", "kept"}, absl::Seconds(10), {.stdout_path = path}).ok());
  EXPECT_EQ(*RunProcessOrError({"cat", path}, absl::Seconds(10)), "kept\n");
}

TEST(SubprocessTest, OutputThatNeverComes) {
  auto child = Subprocess::Start({"sh", "-c", "echo other >&2"});
  ASSERT_TRUE(child.ok()) << child.status();
  const absl::Status status = (*child)->WaitForOutput("wanted", absl::Seconds(10));
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("other"));
}

}  // namespace
}  // namespace ctacct
