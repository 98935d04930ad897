// Flags that would have no effect beside the others: every program refuses them, in one line and
// with status 2, before it touches anything. The flag files that we ship keep working.
#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/files.h"
#include "tests/support/subprocess.h"

namespace ctacct {
namespace {

using ::testing::HasSubstr;

constexpr absl::Duration kAtMost = absl::Seconds(30);

constexpr char kEngine[] = "engine/engine";
constexpr char kNames[] = "engine/names/names";
constexpr char kTop[] = "engine/top/top";
constexpr char kImporter[] = "importer/importer";
constexpr char kReport[] = "importer/report/report";

struct Refused {
  const char* program;
  const char* flags;  // Separated by blanks. OUT: a folder that is not there.
  const char* message;
};

constexpr Refused kRefused[] = {
    {kEngine, "-state=OUT", "flag -state: has no effect without -output"},
    {kEngine, "-pipe=OUT -state=OUT", "flag -state: has no effect without -output"},
    {kEngine, "-output-format=csv", "flag -output-format: has no effect without -output"},
    {kEngine, "-pipe-format=influx", "flag -pipe-format: has no effect without -pipe"},
    {kEngine, "-output=OUT -pipe-format=influx", "flag -pipe-format: has no effect without -pipe"},
    {kEngine, "-replay=OUT -record=OUT", "flag -record: has no effect with -replay"},
    {kEngine, "-replay=OUT -reliable", "flag -reliable: has no effect with -replay"},
    {kEngine, "-replay=OUT -receive-buffer=1", "flag -receive-buffer: has no effect with -replay"},
    {kEngine, "-replay=OUT -output=OUT -state=OUT", "flag -state: has no effect with -replay"},
    {kEngine, "-replay=OUT -local=skip", "flag -local=skip: a capture"},
    {kNames, "-output=OUT -file=OUT -wireguard-names=OUT",
     "flag -wireguard-names: has no effect without -wireguard"},
    {kNames, "-output=OUT -file=OUT -wireguard-config=OUT",
     "flag -wireguard-config: has no effect without -wireguard"},
    {kNames, "-output=OUT -file=OUT -once -interval=5", "flag -interval: has no effect with -once"},
    {kTop, "-spool=OUT -limit=3", "flag -limit: has no effect without -once"},
    {kTop, "-spool=OUT -timeout=3", "flag -timeout: has no effect without -once"},
    {kTop, "-spool=OUT -once -timezone=UTC", "flag -timezone: has no effect with -once"},
    {kImporter, "-transaction-files=3 OUT",
     "flag -transaction-files: has no effect without -watch"},
    {kImporter, "-retention-rows=3 OUT", "flag -retention-rows: has no effect without -watch"},
    {kImporter, "-adopt=t -retention-rows=3", "flag -retention-rows: has no effect without -watch"},
    {kImporter, "-adopt=t -move=OUT", "flag -move: has no effect with -adopt"},
    {kReport, "-mode=644", "flag -mode: has no effect without -output"},
    {kReport, "-check -src=10.0.0.1", "flag -src: has no effect with -check"},
    {kReport, "-check -dst-name=a", "flag -dst-name: has no effect with -check"},
    {kReport, "-check -top=3", "flag -top: has no effect with -check"},
    {kReport, "-check -names", "flag -names: has no effect with -check"},
    {kReport, "-over=1GB -top=3", "flag -top: has no effect with -over"},
    {kReport, "-table=gaps -proto=tcp", "flag -proto: has no effect with -table=gaps"},
    {kReport, "-table=total -top=3", "flag -top: has no effect with -table=total"},
    {kReport, "-table=services -names", "flag -names: has no effect with -table=services"},
};

class FlagRulesTest : public testing::Test {
 protected:
  Finished Run(const std::string& program, const std::string& flags) {
    std::vector<std::string> argv = {DataPath(program)};
    for (const std::string& flag : std::vector<std::string>(absl::StrSplit(flags, ' '))) {
      argv.push_back(absl::StrReplaceAll(flag, {{"OUT", folder_.path() + "/out"}}));
    }
    const auto finished = RunProcess(argv, kAtMost);
    EXPECT_TRUE(finished.ok()) << finished.status();
    return *finished;
  }

  const TestFolder folder_{"flag_rules"};
};

TEST_F(FlagRulesTest, AFlagWithoutEffectIsAnError) {
  for (const Refused& refused : kRefused) {
    SCOPED_TRACE(absl::StrCat(refused.program, " ", refused.flags));
    const Finished finished = Run(refused.program, refused.flags);
    EXPECT_EQ(finished.exit.code, 2) << finished.err;
    EXPECT_THAT(finished.err, HasSubstr(refused.message));
    EXPECT_EQ(std::count(finished.err.begin(), finished.err.end(), '\n'), 1) << finished.err;
    EXPECT_TRUE(std::filesystem::is_empty(folder_.path()));
  }
}

// Nothing that asks for what is the default is an error, nor the Go tool's own command line.
TEST_F(FlagRulesTest, WhatHasAnEffectIsNot) {
  for (const auto& [program, flags] : std::vector<std::pair<const char*, const char*>>{
           {kEngine, "-replay=OUT -pipe-format=csv -output-format=spool -reliable=false"},
           {kEngine,
            "-src=10.32.0.0/11 -src-group-mask=255.239.255.0 -dst=10.32.0.0/11 "
            "-dst-group-mask=255.239.255.0 -replay=OUT -track-open"},
           {kReport, "-conninfo=host=OUT -check -gateway=a"},
           {kImporter, "-host=OUT -migrate -watch=OUT -move=OUT -retention-rows=3"}}) {
    SCOPED_TRACE(absl::StrCat(program, " ", flags));
    EXPECT_EQ(Run(program, flags).exit.code, 1);  // Of what it then does not find.
  }
}

TEST_F(FlagRulesTest, FlagsAreCheckedAndNothingIsMade) {
  // The engine looks as another user, if root starts it.
  std::filesystem::permissions(folder_.path(), std::filesystem::perms(0755));
  EXPECT_TRUE(Run(kEngine, "-check-flags -output=OUT -state=OUT/state -pipe=OUT/pipe").exit.ok());
  EXPECT_TRUE(Run(kImporter, "-check-flags -watch=OUT -move=OUT/done").exit.ok());
  EXPECT_EQ(Run(kEngine, "-check-flags -output=OUT -ports=OUT").exit.code, 1);
  EXPECT_EQ(Run(kEngine, "-check-flags -state=OUT").exit.code, 2);
  EXPECT_EQ(Run(kImporter, "-check-flags -retention-fine=3").exit.code, 2);
  EXPECT_TRUE(std::filesystem::is_empty(folder_.path()));
}

}  // namespace
}  // namespace ctacct
