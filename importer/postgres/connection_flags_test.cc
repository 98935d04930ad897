#include "importer/postgres/connection_flags.h"

#include <stdlib.h>

#include <string>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace ctacct {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// "hush" is the password, or what libpq would take for something else although it is part of it.
TEST(CheckConnectionTest, PartsOfPasswordsAreRefusedAndNotRepeated) {
  for (const char* const conninfo : {
           "postgresql://joe:p@hush@host/x",
           "postgres://joe:p@hush@host/x",
           "postgresql://joe:hush@hush@hush@host/x",
           "postgresql://joe:p/hush@host/x",
           "postgresql://joe:hush/x",
           "postgresql://joe:p hush/x",
           "postgresql://joe:p%zzhush@host/x",
           "postgresql://joe@host/x?password=p@hush",
           "postgresql://joe@host/x?password=p&hush",
           "postgresql://joe:p@[::1/hush",
           "postgresqls://joe:p@hush@host/x",
           "postgresqls://joe:p@hush=@host/x",
           "host=db password=p hush",
           "host=db password='hush",
           "host=joe:p@hush dbname=x",
           "host=db,joe:p@hush dbname=x",
           "host=postgresql://joe:hush/x",
           "host=db dbname=postgresql://joe:p@hush@host/x",
           "host=db user=postgresql://joe:hush@host/x",
           "host=db port=hush",
       }) {
    PgOptions options;
    options.conninfo = conninfo;
    const absl::Status status = CheckConnection(options);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << conninfo;
    EXPECT_THAT(std::string(status.message()), HasSubstr("flag -conninfo: ")) << conninfo;
    EXPECT_THAT(std::string(status.message()), Not(HasSubstr("hush"))) << conninfo;
  }
  PgOptions options;
  options.conninfo = "postgresql://joe:p@hush@host/x";
  EXPECT_THAT(std::string(CheckConnection(options).message()), HasSubstr("%40"));
}

TEST(CheckConnectionTest, OtherFlagsAndTheEnvironmentAreChecked) {
  for (std::string PgOptions::*const field :
       {&PgOptions::host, &PgOptions::database, &PgOptions::user}) {
    PgOptions options;
    options.*field = "postgresql://joe:hush@host/x";
    EXPECT_TRUE(absl::IsInvalidArgument(CheckConnection(options)));
    EXPECT_THAT(std::string(CheckConnection(options).message()), Not(HasSubstr("hush")));
  }
  for (const char* const name : {"PGHOST", "PGPORT", "PGDATABASE", "PGUSER"}) {
    ASSERT_EQ(setenv(name, "postgresql://joe:hush@host/x", 1), 0);
    const absl::Status status = CheckConnection({});
    unsetenv(name);
    EXPECT_TRUE(absl::IsInvalidArgument(status));
    EXPECT_THAT(std::string(status.message()), HasSubstr(name));
    EXPECT_THAT(std::string(status.message()), Not(HasSubstr("hush")));
  }
}

TEST(CheckConnectionTest, WhatIsRightIsTaken) {
  for (const char* const conninfo :
       {"", "host=/tmp dbname=x", "host=@socket", "host=a,b port=1,65535", "host=a port=",
        "postgresql://", "postgresql:///x?host=/run/pg&port=5433", "postgresql://host/x",
        "postgresql://joe:p%40ss%2Fword@host:5432,[::1]:5433/x?connect_timeout=3",
        "postgresql://joe:p?s:s@host/x", "postgresql://%2Frun%2Fpg/x", "password='p@ss wo/rd'"}) {
    PgOptions options;
    options.conninfo = conninfo;
    const absl::Status status = CheckConnection(options);
    EXPECT_TRUE(status.ok()) << conninfo << ": " << status;
  }
}

TEST(CheckArgumentsTest, ConnectionStringsAreNoFiles) {
  EXPECT_TRUE(CheckArguments({"a.spool", "/b/traffic_1.csv", "user@host.csv"}).ok());
  for (const char* const bad : {"postgresql://joe:hush@host/x", "host=db password=hush"}) {
    const absl::Status status = CheckArguments({"a.spool", bad});
    EXPECT_TRUE(absl::IsInvalidArgument(status));
    EXPECT_THAT(std::string(status.message()), Not(HasSubstr("hush")));
  }
}

TEST(HideSecretsTest, NothingOfThemStaysInTheArguments) {
  std::string words[] = {"importer",    "-pass=hush", "--conninfo", "password=hush", "-once",
                         "hush://hush", "a.spool",    "-pass",      "hush"};
  char* argv[9];
  for (int i = 0; i < 9; ++i) argv[i] = words[i].data();
  HideSecrets(9, argv);
  const char* const expected[] = {"importer",      "-pass=xxxx", "--conninfo",
                                  "xxxxxxxxxxxxx", "-once",      "xxxxxxxxxxx",
                                  "a.spool",       "-pass",      "xxxx"};
  for (int i = 0; i < 9; ++i) EXPECT_EQ(words[i], expected[i]);
}

}  // namespace
}  // namespace ctacct
