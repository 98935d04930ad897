#include "engine/system/command_line.h"

#include <fstream>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

ABSL_FLAG(std::string, some_text, "fallback", "a text");
ABSL_FLAG(int, some_number, 15, "a number");
ABSL_FLAG(bool, some_switch, false, "a switch");

namespace ctacct {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::Pair;

class CommandLineTest : public testing::Test {
 protected:
  void SetUp() override {
    absl::SetFlag(&FLAGS_some_text, "fallback");
    absl::SetFlag(&FLAGS_some_number, 15);
    absl::SetFlag(&FLAGS_some_switch, false);
  }
  static absl::StatusOr<CommandLine> Parse(std::vector<const char*> args) {
    args.insert(args.begin(), "program");
    return ParseCommandLine(static_cast<int>(args.size()), args.data());
  }
  static std::string Error(std::vector<const char*> args) {
    return std::string(Parse(std::move(args)).status().message());
  }
  static std::string WriteFlagFile(const std::string& text) {
    const std::string path = testing::TempDir() + "/flags";
    std::ofstream(path) << text;
    return path;
  }
};

TEST_F(CommandLineTest, EverySpellingOfAFlag) {
  for (const std::vector<const char*>& args : std::vector<std::vector<const char*>>{
           {"-some-number=7"},
           {"--some-number=7"},
           {"-some_number", "7"},
           {"--some_number", "7"},
           {"--some-number", "7"},
       }) {
    absl::SetFlag(&FLAGS_some_number, 0);
    ASSERT_TRUE(Parse(args).ok());
    EXPECT_EQ(absl::GetFlag(FLAGS_some_number), 7);
  }
}

TEST_F(CommandLineTest, AFlagGivenTwiceIsAnError) {
  const std::string path = WriteFlagFile("some_number 7\n");
  const std::string file = "-flagfile=" + path;
  for (const std::vector<const char*>& args : std::vector<std::vector<const char*>>{
           {"-some-number=7", "-some-number=7"},
           {"-some-number=7", "--some_number", "8"},
           {"--some_number", "7", "-some-number=8"},
           {file.c_str(), "-some-number=8"},
           {"-some-number=8", file.c_str()},
       }) {
    EXPECT_THAT(Error(args), HasSubstr("flag -some-number: given twice"));
  }
  EXPECT_THAT(Error({"-some-switch", "-some-switch=false"}), HasSubstr("flag -some-switch"));
  EXPECT_THAT(Error({file.c_str(), file.c_str()}), HasSubstr("flag -flagfile: given twice"));
  (void)WriteFlagFile("some-number=7\n# again\n-some_number=7\n");
  EXPECT_EQ(Error({file.c_str()}), path + ":3: flag -some-number: given twice");
  // One file that names another is no file given twice.
  const std::string outer = testing::TempDir() + "/outer";
  (void)WriteFlagFile("some-number=7\n");
  std::ofstream(outer) << "flagfile=" << path << "\nsome-text=a\n";
  EXPECT_TRUE(Parse({"-flagfile", outer.c_str()}).ok());
  std::ofstream(outer) << "flagfile=" << path << "\nflagfile=" << path << "\n";
  EXPECT_THAT(Error({"-flagfile", outer.c_str()}), HasSubstr(":2: flag -flagfile: given twice"));
}

TEST_F(CommandLineTest, SwitchesTakeNoValueButByEquals) {
  const auto line = Parse({"-some-switch", "left", "--", "-right"});
  ASSERT_TRUE(line.ok()) << line.status();
  EXPECT_TRUE(absl::GetFlag(FLAGS_some_switch));
  EXPECT_THAT(line->arguments, ElementsAre("left", "-right"));
  ASSERT_TRUE(Parse({"-some-switch=false"}).ok());
  EXPECT_FALSE(absl::GetFlag(FLAGS_some_switch));
}

TEST_F(CommandLineTest, ValuesMayHoldAnything) {
  ASSERT_TRUE(Parse({"-some-text=a=b -c", "-some-number", "-3"}).ok());
  EXPECT_EQ(absl::GetFlag(FLAGS_some_text), "a=b -c");
  EXPECT_EQ(absl::GetFlag(FLAGS_some_number), -3);
  ASSERT_TRUE(Parse({"-some-text="}).ok());
  EXPECT_EQ(absl::GetFlag(FLAGS_some_text), "");
}

TEST_F(CommandLineTest, ErrorsNameTheFlag) {
  EXPECT_THAT(Error({"-nosuch=1"}), HasSubstr("'-nosuch'"));
  EXPECT_THAT(Error({"--no-such-either", "1"}), HasSubstr("no-such-either"));
  EXPECT_THAT(Error({"-some-number=x"}), HasSubstr("-some-number"));
  EXPECT_THAT(Error({"-some-number="}), HasSubstr("-some-number"));
  EXPECT_THAT(Error({"-some-number"}), HasSubstr("needs a value"));
  EXPECT_THAT(Error({"-some-switch=perhaps"}), HasSubstr("-some-switch"));
  // absl's own and the test framework's flags are none of ours.
  EXPECT_THAT(Error({"-fromenv=x"}), HasSubstr("unknown"));
  EXPECT_THAT(Error({"-gtest_list_tests"}), HasSubstr("unknown"));
}

TEST_F(CommandLineTest, HostileValuesAreQuotedShortAndEscaped) {
  const std::string hostile = "-some-number=" + std::string(1 << 20, 'x') + "\n\x1b[2J";
  const std::string error = Error({hostile.c_str()});
  EXPECT_LT(error.size(), 500u);
  EXPECT_THAT(Error({"-some-number=\n\x1b[2J"}), Not(HasSubstr("\n")));
}

TEST_F(CommandLineTest, FlagFiles) {
  const std::string path =
      WriteFlagFile("# comment\n\n-some-number=8\n--some_text  two words \nsome-switch\n");
  ASSERT_TRUE(Parse({"--flagfile", path.c_str()}).ok());
  EXPECT_EQ(absl::GetFlag(FLAGS_some_number), 8);
  EXPECT_EQ(absl::GetFlag(FLAGS_some_text), "two words");
  EXPECT_TRUE(absl::GetFlag(FLAGS_some_switch));
}

TEST_F(CommandLineTest, FlagFileErrorsNameFileAndLine) {
  const std::string path = WriteFlagFile("-some-number=8\n-nosuch=3\n");
  const std::string arg = "-flagfile=" + path;
  EXPECT_THAT(Error({arg.c_str()}), HasSubstr(path + ":2"));
  (void)WriteFlagFile("some-switch yes\n");
  EXPECT_THAT(Error({arg.c_str()}), HasSubstr(path + ":1"));
  EXPECT_THAT(Error({"-flagfile=/nowhere/flags"}), HasSubstr("/nowhere/flags"));
  (void)WriteFlagFile("-flagfile=" + path + "\n");  // Itself.
  EXPECT_THAT(Error({arg.c_str()}), HasSubstr("deep"));
}

TEST_F(CommandLineTest, AnUnreadableFlagFileIsAnError) {
  // A folder is not a file without flags.
  EXPECT_THAT(Error({"-flagfile=/dev"}), HasSubstr("flag file '/dev'"));
  EXPECT_THAT(Error({"-flagfile=/dev/zero"}), HasSubstr("larger than"));
}

TEST_F(CommandLineTest, AnotherProgramsFlagFile) {
  const std::string inner = testing::TempDir() + "/inner";
  std::ofstream(inner) << "-receive-buffer 7\n";
  const auto values =
      ReadFlagValues(WriteFlagFile("# none of ours\n--output=/a b\nreliable\noutput-format=csv\n"
                                   "flagfile=" +
                                   inner + "\n"));
  ASSERT_TRUE(values.ok()) << values.status();
  EXPECT_THAT(*values, ElementsAre(Pair("output", "/a b"), Pair("output_format", "csv"),
                                   Pair("receive_buffer", "7"), Pair("reliable", "true")));
  EXPECT_EQ(ReadFlagValues("/nowhere").status().message(),
            "flag file '/nowhere': No such file or directory");
}

TEST_F(CommandLineTest, HelpListsOurFlagsOnly) {
  EXPECT_TRUE(Parse({"-some-number=1", "--help"})->help);
  const std::string help = FlagsHelp("usage: program");
  EXPECT_THAT(help, HasSubstr("usage: program"));
  EXPECT_THAT(help, HasSubstr("-some-number\n        a number (default 15)"));
  EXPECT_THAT(help, Not(HasSubstr("gtest")));
  EXPECT_THAT(help, Not(HasSubstr("fromenv")));
}

TEST(PrintErrorTest, ALongLineEndsWithAWholeCharacter) {
  for (size_t shift = 0; shift < 3; ++shift) {
    std::string text(shift, 'x');
    for (int i = 0; i < 2000; ++i) text += "\u20ac";
    testing::internal::CaptureStderr();
    PrintError("p", absl::UnknownError(text));
    const std::string line = testing::internal::GetCapturedStderr();
    EXPECT_LT(line.size(), 4110u);
    EXPECT_TRUE(line.ends_with("\u20ac...\n")) << shift;
  }
}

TEST_F(CommandLineTest, AFlagThatHasNoEffectIsAnError) {
  using enum FlagRule::Kind;
  const FlagRule needs = {"some-number some-switch", kNeeds, "some-text=a some-text=b"};
  const FlagRule refuses = {"some-number", kRefuses, "some-switch some-text"};
  EXPECT_TRUE(CheckFlagRules({needs, refuses}).ok());  // Nothing is given.
  ASSERT_TRUE(Parse({"-some_switch", "-some-text=c"}).ok());
  EXPECT_EQ(CheckFlagRules({needs}).message(),
            "flag -some-switch: has no effect without -some-text=a or -some-text=b");
  EXPECT_TRUE(CheckFlagRules({refuses}).ok());
  ASSERT_TRUE(Parse({"-some-text=b"}).ok());
  EXPECT_TRUE(CheckFlagRules({needs}).ok());
  ASSERT_TRUE(Parse({"-some-number=7", "-some-switch=false"}).ok());
  EXPECT_EQ(CheckFlagRules({refuses}).message(),
            "flag -some-number: has no effect with -some-text");
  // As it is by default.
  ASSERT_TRUE(Parse({"-some-number=15"}).ok());
  EXPECT_TRUE(CheckFlagRules({refuses}).ok());
}

}  // namespace
}  // namespace ctacct
