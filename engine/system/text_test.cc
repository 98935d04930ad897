#include "engine/system/text.h"

#include "gtest/gtest.h"

namespace ctacct {
namespace {

TEST(TextTest, ControlCharactersAreEscaped) {
  EXPECT_EQ(EscapeControls("a\nb\x1b[2J\x7f"), "a\\x0ab\\x1b[2J\\x7f");
  EXPECT_EQ(EscapeControls("g\xc3\xbcnther \\x"), "g\xc3\xbcnther \\x");
  EXPECT_EQ(EscapeControls(""), "");
}

TEST(TextTest, Thousands) {
  EXPECT_EQ(WithThousands(0), "0");
  EXPECT_EQ(WithThousands(999), "999");
  EXPECT_EQ(WithThousands(1'000), "1,000");
  EXPECT_EQ(WithThousands(123'456), "123,456");
  EXPECT_EQ(WithThousands(18'446'744'073'709'551'615u), "18,446,744,073,709,551,615");
}

}  // namespace
}  // namespace ctacct
