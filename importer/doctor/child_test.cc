#include "importer/doctor/child.h"

#include <stdlib.h>
#include <sys/stat.h>

#include <fstream>
#include <memory>
#include <string>

#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace ctacct {
namespace {

constexpr absl::Duration kPatience = absl::Seconds(60);

// Root's PATH may have a folder of somebody else's in front, and its other variables be as bad.
TEST(ChildTest, ProgramsAreTheSystemsAndGetNothingOfTheEnvironment) {
  const std::string folder = testing::TempDir();
  for (const char* const name : {"env", "ctacct-planted"}) {
    const std::string planted = folder + "/" + name;
    std::ofstream(planted) << "#!/bin/sh\necho planted\n";
    ASSERT_EQ(chmod(planted.c_str(), 0755), 0);
  }
  ASSERT_EQ(setenv("PATH", folder.c_str(), 1), 0);
  ASSERT_EQ(setenv("LD_PRELOAD_OF_NO_CONSEQUENCE", "secret", 1), 0);
  const auto child = Child::Start({"env"});
  ASSERT_TRUE(child.ok()) << child.status();
  EXPECT_EQ((*child)->Wait(kPatience), 0);
  EXPECT_EQ((*child)->Output(), "PATH=/usr/sbin:/usr/bin:/sbin:/bin\nLC_ALL=C\n");

  const auto missing = Child::Start({"ctacct-planted"});
  ASSERT_TRUE(missing.ok()) << missing.status();
  EXPECT_EQ((*missing)->Wait(kPatience), 127);
  EXPECT_EQ((*missing)->Output(), "");
  EXPECT_EQ((*missing)->LastError(), "No such file or directory");

  const auto named = Child::Start({folder + "/ctacct-planted"});
  ASSERT_TRUE(named.ok()) << named.status();
  EXPECT_EQ((*named)->Wait(kPatience), 0);
  EXPECT_EQ((*named)->Output(), "planted\n");
}

}  // namespace
}  // namespace ctacct
