#include "importer/doctor/findings.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "importer/doctor/ruleset.h"

namespace ctacct {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;
using ::testing::StartsWith;

Finding Named(Finding finding, const char* name) {
  finding.name = name;
  return finding;
}

TEST(DoctorReportTest, ALineHas80ColumnsAndACommandIsNotBroken) {
  const std::string words = "word word word word word word word word word word word word word word";
  const std::string command = "type this " + words + " " + words;
  EXPECT_EQ(
      ReportText({Named(Ok("good"), "first"), Named(Fail(words, {command}), "second")}, false),
      "ok   first          good\n"
      "FAIL second         word word word word word word word word word word word word\n"
      "                    word word\n"
      "     > " +
          command +
          "\n"
          "This machine does NOT count correctly: second.\n");
}

TEST(DoctorReportTest, TheLastLineSaysTheWorst) {
  const Finding ok = Named(Ok("x"), "a");
  const Finding warn = Named(Warn("x", {}), "b");
  const Finding skip = Named(Skip("x"), "c");
  const Finding fail = Named(Fail("x", {}), "d");
  EXPECT_THAT(ReportText({ok}, false), HasSubstr("\nThis machine counts correctly.\n"));
  EXPECT_THAT(ReportText({ok, skip}, false), HasSubstr("\nNo problem found. "));
  EXPECT_THAT(ReportText({ok, warn}, false), HasSubstr("\nThis machine counts, with warnings: b."));
  EXPECT_THAT(ReportText({fail, warn}, false),
              HasSubstr("\nThis machine does NOT count correctly: d."));
  EXPECT_FALSE(AnyFailed({ok, warn, skip}));
  EXPECT_TRUE(AnyFailed({ok, fail}));
}

TEST(DoctorReportTest, WhatOthersHaveNamedDoesNotReachTheTerminalAsItIs) {
  const Finding finding = Named(Warn("a\033[2Jb", {"kill 1   # \033c"}), "x");
  EXPECT_THAT(ReportText({finding}, false), Not(HasSubstr("\033")));
  EXPECT_THAT(ReportText({finding}, true), Not(HasSubstr("\033[2J")));
  EXPECT_THAT(ReportText({finding}, true), StartsWith("\033[1;33mWARN\033[0m x"));
  EXPECT_THAT(ReportJson({Named(Ok("\xff"), "x")}), HasSubstr("\"verdict\": \"ok\""));
}

TEST(DoctorReportTest, Words) {
  EXPECT_EQ(ShellQuoted("/var/spool/ctacct"), "/var/spool/ctacct");
  EXPECT_EQ(ShellQuoted("it's $HOME"), "'it'\\''s $HOME'");
  EXPECT_EQ(ShellQuoted(""), "''");
  EXPECT_EQ(BytesText(128 << 20), "128 MiB");
  EXPECT_EQ(BytesText(8 << 20), "8 MiB");
  EXPECT_EQ(BytesText(1500), "1500 bytes");
  EXPECT_EQ(BytesText(uint64_t{3} << 30 | 1), "3 GiB");
}

TEST(DoctorRulesetTest, WhatTurnsConntrackOn) {
  for (const char* const rule : {"ct state new", "masquerade", "ip daddr 10.0.0.1 dnat to 10.0.0.2",
                                 "flow add @fast", "xt match \"conntrack\" accept"}) {
    RulesetFindings findings;
    ReadNftRuleset(
        std::string("table ip t { # handle 1\n\tchain c { # handle 2\n"
                    "\t\ttype filter hook forward priority filter; policy accept;\n\t\t") +
            rule + " # handle 3\n\t}\n}\n",
        &findings);
    EXPECT_EQ(findings.tracking, std::string("ip t c: ") + rule);
    EXPECT_THAT(findings.untracking, IsEmpty());
  }
  for (const char* const rule : {"accept", "log prefix \"ct state\"", "accept comment \"snat\""}) {
    RulesetFindings findings;
    ReadNftRuleset(std::string("table ip t { # handle 1\n\tchain c { # handle 2\n\t\t") + rule +
                       " # handle 3\n\t}\n}\n",
                   &findings);
    EXPECT_EQ(findings.tracking, "") << rule;
  }
}

TEST(DoctorRulesetTest, RulesThatKeepPacketsFromIt) {
  RulesetFindings findings;
  ReadNftRuleset(
      "table ip raw { # handle 4\n"
      "\tset s { # handle 9\n\t\ttype ipv4_addr\n\t\telements = { 10.0.0.1,\n\t\t\t10.0.0.2 "
      "}\n\t}\n"
      "\tchain pre { # handle 1\n"
      "\t\ttype filter hook prerouting priority raw; policy accept;\n"
      "\t\tlog prefix \"notrack \" # handle 2\n"
      "\t\tudp dport { 53,\n\t\t\t     123 } notrack comment \"{ x\" # handle 7\n"
      "\t}\n}\n"
      "table ip6 other { # handle 5\n\tchain c { # handle 1\n\t\txt target \"CT\" # handle 3\n"
      "\t\tudp dport 9 counter packets 0 bytes 0 notrack # handle 4\n"
      "\t\tudp dport 11 counter packets 0 bytes 0 xt target CT # handle 5\n\t}\n}\n",
      &findings);
  ASSERT_THAT(findings.untracking, SizeIs(2));
  EXPECT_EQ(findings.untracking[0].what,
            "ip raw pre: udp dport { 53, 123 } notrack comment \"{ x\"");
  EXPECT_EQ(findings.untracking[0].remedy, "nft delete rule ip raw pre handle 7");
  EXPECT_EQ(findings.untracking[1].remedy, "nft delete rule ip6 other c handle 4");
  // iptables-nft 1.8.9's --notrack is the line above; of --ctevents, zones and helpers nft 1.0.6
  // shows no more than this.
  ASSERT_THAT(findings.ct_targets, SizeIs(2));
  EXPECT_EQ(findings.ct_targets[0].remedy, "nft delete rule ip6 other c handle 3");
  EXPECT_EQ(findings.ct_targets[1].remedy, "nft delete rule ip6 other c handle 5");
  EXPECT_EQ(findings.tracking, "");
}

TEST(DoctorRulesetTest, RulesThatMaskTheBirthsOrEndsOfFlows) {
  RulesetFindings findings;
  ReadNftRuleset(
      "table ip t { # handle 1\n\tchain c { # handle 2\n"
      "\t\tct event set new # handle 3\n"
      "\t\tct event set new,destroy # handle 4\n"
      "\t\tct event set destroy # handle 6\n"
      "\t\tip protocol udp ct event set new,related comment \"destroy\" # handle 5\n\t}\n}\n",
      &findings);
  ReadIptablesSave(
      "*raw\n-A PREROUTING -p udp -j CT --ctevents new\n"
      "-A PREROUTING -p tcp -j CT --ctevents new,destroy --zone 1\nCOMMIT\n",
      "iptables-legacy-save", &findings);
  ASSERT_THAT(findings.hiding, SizeIs(1));
  EXPECT_EQ(findings.hiding[0].remedy, "nft delete rule ip t c handle 6");
  ASSERT_THAT(findings.masking, SizeIs(3));
  EXPECT_EQ(findings.masking[0].remedy, "nft delete rule ip t c handle 3");
  EXPECT_EQ(findings.masking[1].remedy, "nft delete rule ip t c handle 5");
  EXPECT_EQ(findings.masking[2].remedy,
            "iptables-legacy -t raw -D PREROUTING -p udp -j CT --ctevents new");
  EXPECT_THAT(findings.untracking, IsEmpty());
}

// As nft prints them; not every kernel has flowtables.
TEST(DoctorRulesetTest, FlowtablesWithoutCounter) {
  RulesetFindings findings;
  ReadNftRuleset(
      "table inet filter { # handle 1\n"
      "\tflowtable slow { # handle 5\n\t\thook ingress priority filter\n"
      "\t\tdevices = { \"eth0\", \"eth1\" }\n\t\tcounter\n\t}\n\n"
      "\tflowtable fast { # handle 6\n\t\thook ingress priority filter\n"
      "\t\tdevices = { eth0, eth1 }\n\t\tflags offload\n\t}\n\n"
      "\tchain forward { # handle 2\n"
      "\t\tip protocol tcp flow add @fast counter packets 0 bytes 0 # handle 3\n\t}\n}\n",
      &findings);
  EXPECT_EQ(findings.flowtables, 2u);
  ASSERT_THAT(findings.uncounted_offload, SizeIs(1));
  EXPECT_EQ(findings.uncounted_offload[0].what, "inet filter fast");
  EXPECT_EQ(findings.uncounted_offload[0].remedy,
            "nft 'add flowtable inet filter fast { hook ingress priority filter; "
            "devices = { eth0, eth1 }; flags offload; counter; }'");
  EXPECT_THAT(findings.tracking, HasSubstr("flow add @fast"));
}

TEST(DoctorRulesetTest, IptablesLegacy) {
  RulesetFindings findings;
  ReadIptablesSave(
      "*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -p udp -m udp --dport 53 -j CT --notrack\n"
      "-A OUTPUT -p udp -j NOTRACK\nCOMMIT\n*filter\n-A FORWARD -m conntrack --ctstate NEW -j "
      "ACCEPT\n"
      "COMMIT\n",
      "iptables-legacy-save", &findings);
  ASSERT_THAT(findings.untracking, SizeIs(2));
  EXPECT_EQ(findings.untracking[0].remedy,
            "iptables-legacy -t raw -D PREROUTING -p udp -m udp --dport 53 -j CT --notrack");
  EXPECT_THAT(findings.tracking, HasSubstr("-m conntrack --ctstate NEW"));
}

}  // namespace
}  // namespace ctacct
