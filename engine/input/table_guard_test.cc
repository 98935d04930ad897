#include "engine/input/table_guard.h"

#include "gtest/gtest.h"

namespace ctacct {
namespace {

TEST(TableGuardTest, LeavesAtOneShareAndReturnsBelowALowerOne) {
  EXPECT_TRUE(TableGuard::HasRoom({.flows = 84, .flows_max = 100}, true));
  EXPECT_FALSE(TableGuard::HasRoom({.flows = 85, .flows_max = 100}, true));
  EXPECT_FALSE(TableGuard::HasRoom({.flows = 84, .flows_max = 100}, false));
  EXPECT_FALSE(TableGuard::HasRoom({.flows = 70, .flows_max = 100}, false));
  EXPECT_TRUE(TableGuard::HasRoom({.flows = 69, .flows_max = 100}, false));
  // More than the limit, once it was lowered; and no limit at all.
  EXPECT_FALSE(TableGuard::HasRoom({.flows = 1000, .flows_max = 100}, true));
  EXPECT_TRUE(TableGuard::HasRoom({.flows = 1000, .flows_max = 0}, true));
  EXPECT_TRUE(TableGuard::HasRoom({.flows = 0, .flows_max = 1}, false));
}

// The destructor ends the thread, whatever the thread waits for.
TEST(TableGuardTest, Ends) {
  for (int i = 0; i < 20; ++i) {
    TableGuard guard([](bool, const TableFill&) {});
  }
}

}  // namespace
}  // namespace ctacct
