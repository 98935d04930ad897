#include "engine/system/text.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace ctacct {
namespace {

TEST(TextTest, ControlCharactersAreEscaped) {
  EXPECT_EQ(EscapeControls("a\nb\x1b[2J\x7f"), "a\\x0ab\\x1b[2J\\x7f");
  EXPECT_EQ(EscapeControls("g\xc3\xbcnther \\x"), "g\xc3\xbcnther \\x");
  EXPECT_EQ(EscapeControls(""), "");
  // C1, line separators and bidirectional controls are what terminals and pagers obey as well.
  EXPECT_EQ(EscapeControls("a\u0085b\u009b2J"), "a\\xc2\\x85b\\xc2\\x9b2J");
  EXPECT_EQ(EscapeControls("a\u2028b\u202ec\u061c"), "a\\xe2\\x80\\xa8b\\xe2\\x80\\xaec\\xd8\\x9c");
  EXPECT_EQ(EscapeControls("\u2065\u2066\u2069\u206a"),
            "\u2065\\xe2\\x81\\xa6\\xe2\\x81\\xa9\u206a");
  // What is not UTF-8.
  EXPECT_EQ(EscapeControls("g\xfcnther \x9b\xc3"), "g\\xfcnther \\x9b\\xc3");
}

TEST(TextTest, Thousands) {
  EXPECT_EQ(WithThousands(0), "0");
  EXPECT_EQ(WithThousands(999), "999");
  EXPECT_EQ(WithThousands(1'000), "1,000");
  EXPECT_EQ(WithThousands(123'456), "123,456");
  EXPECT_EQ(WithThousands(18'446'744'073'709'551'615u), "18,446,744,073,709,551,615");
}

TEST(TextTest, FieldsOfCsv) {
  using testing::ElementsAre;
  EXPECT_THAT(SplitCsv("a,b c"), testing::Optional(ElementsAre("a", "b c")));
  EXPECT_THAT(SplitCsv(" \"a, \"\"b\"\"\" ,c"), testing::Optional(ElementsAre("a, \"b\"", "c")));
  EXPECT_THAT(SplitCsv("a,"), testing::Optional(ElementsAre("a", "")));
  EXPECT_THAT(SplitCsv(""), testing::Optional(ElementsAre("")));
  for (const char* const bad : {"\"a", "a\"b\"", "\"a\"b", "a,\""}) {
    EXPECT_EQ(SplitCsv(bad), std::nullopt) << bad;
  }
}

}  // namespace
}  // namespace ctacct
