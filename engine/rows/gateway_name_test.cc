#include "engine/rows/gateway_name.h"

#include <string>

#include "gtest/gtest.h"

namespace ctacct {
namespace {

TEST(GatewayNameTest, IsPrintableUtf8) {
  const std::string good[] = {"",
                              "gw1",
                              "gw's \"one\"",
                              "G\u00fcrtel-\u20ac-\U0001f300",
                              std::string(255, 'g'),
                              "\u00a0\u061b\u200d\u2010\u2027\u202f\u2065\u206a",
                              "\xf4\x8f\xbf\xbf"};
  for (const std::string& name : good) EXPECT_TRUE(CheckGatewayName(name).ok()) << name;
  const std::string bad[] = {std::string(256, 'g'),
                             std::string("a\0b", 3),
                             "a\nb",
                             "a\x7f",
                             "\xfc",
                             "\xc0\x80",
                             "\xe0\x80\x80",
                             "\xed\xa0\x80",
                             "\xf4\x90\x80\x80",
                             "\xc3",
                             "\xe2\x82",
                             "\x80",
                             "a\u0080",
                             "a\u0085",
                             "a\u009b",
                             "a\u009f",
                             "a\u061c",
                             "a\u200e",
                             "a\u200f",
                             "a\u2028",
                             "a\u2029",
                             "a\u202a",
                             "a\u202e",
                             "a\u2066",
                             "a\u2069"};
  for (const std::string& name : bad) {
    EXPECT_TRUE(absl::IsInvalidArgument(CheckGatewayName(name))) << name;
  }
}

}  // namespace
}  // namespace ctacct
