#include "engine/top/screen.h"

#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "engine/top/format.h"
#include "engine/top/keys.h"
#include "engine/top/plain_text.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace ctacct {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;

constexpr int64_t kSecond = 1'000'000'000;
constexpr int64_t kEnd = 1'600'000'005 * kSecond;  // 12:26:45 UTC.

TEST(TopFormatTest, NumbersHaveAtMostFiveCharacters) {
  EXPECT_EQ(ShortRate(0), "0");
  EXPECT_EQ(ShortRate(0.0001), "0.01");
  EXPECT_EQ(ShortRate(7.249), "7.25");
  EXPECT_EQ(ShortRate(9.996), "10.0");
  EXPECT_EQ(ShortRate(26), "26.0");
  EXPECT_EQ(ShortRate(999.4), "999");
  EXPECT_EQ(ShortRate(999.6), "1.00k");
  EXPECT_EQ(ShortRate(123'456'789), "123M");
  EXPECT_EQ(ShortRate(1e19), "10.0E");
  EXPECT_EQ(ShortCount(999), "999");
  EXPECT_EQ(ShortCount(1'000), "1.00k");
  EXPECT_EQ(ShortSeconds(0), "0");
  EXPECT_EQ(ShortSeconds(0.0001), "1ms");
  EXPECT_EQ(ShortSeconds(0.25), "250ms");
  EXPECT_EQ(ShortSeconds(1.25), "1.25s");
  EXPECT_EQ(ShortSeconds(750), "12.5m");
  EXPECT_EQ(ShortSeconds(11'520), "3.20h");
  EXPECT_EQ(ShortSeconds(140.0 * 86'400), "140d");
  for (double value = 0.001; value < 1e25; value *= 1.07) {
    EXPECT_LE(ShortRate(value).size(), 5u) << value;
    if (value < 1e15) {
      EXPECT_LE(ShortSeconds(value).size(), 6u) << value;
    }
  }
  EXPECT_EQ(Duration(-kSecond), "0 s");
  EXPECT_EQ(Duration(90 * kSecond), "90 s");
  EXPECT_EQ(Duration(600 * kSecond), "10 min");
  EXPECT_EQ(Printable("g\xc3\xbcn\x1b[1m"), "g?n?[1m");
  EXPECT_EQ(Left("abcdef", 4), "abc~");
  EXPECT_EQ(Left("ab", 4), "ab  ");
  EXPECT_EQ(Right("ab", 4), "  ab");
}

class TopScreenTest : public ::testing::Test {
 protected:
  TopScreenTest() {
    interval_.gateway = "gw1";
    interval_.end_ns = kEnd;
    interval_.length_ns = 15 * kSecond;
    interval_.completeness = Completeness::kComplete;
    for (uint8_t i = 0; i < 100; ++i) {
      TrafficRow row;
      row.protocol = 6;
      row.port = i;
      row.src = {10, 0, 0, i};
      row.dst = {10, 9, 0, 1};
      row.bytes_src = 15'000 * (100u - i);
      row.bytes_dst = 30'000;
      row.packets_src = 150;
      row.connection_count = i;
      row.connection_time_ms = 2'500 * i;
      row.open_connections = 3;
      interval_.rows.push_back(row);
    }
    screen_.state.intervals = {&interval_};
    screen_.state.now_ns = kEnd + 3 * kSecond;
    screen_.state.interval_ns = 15 * kSecond;
    screen_.state.folder = "/var/spool/ctacct";
    screen_.time_zone = absl::UTCTimeZone();
  }

  std::vector<std::string> Render(size_t width, size_t height) {
    UpdateTable(&screen_);
    std::vector<std::string> lines;
    for (const ScreenLine& line : RenderTop(&screen_, width, height)) {
      std::string text;
      for (const Span& span : line) text += span.text;
      lines.push_back(text);
    }
    return lines;
  }

  std::vector<std::string> Problems() { return TopProblems(screen_.state, absl::UTCTimeZone()); }

  TopInterval interval_;
  TopScreen screen_;
};

TEST_F(TopScreenTest, TheSmallScreen) {
  interval_.track_open = true;
  const std::vector<std::string> lines = Render(80, 24);
  ASSERT_EQ(lines.size(), 24u);
  EXPECT_EQ(lines[0],
            "ctacct-top  gw1  15 s until 12:26:45  complete            next in 12 s  12:26:48");
  EXPECT_EQ(lines[1],
            "bit/s 40.4M > 1.60M <   pkt/s 1.00k > 0 <   conns 4,950, mean 2.50s   open 300");
  EXPECT_THAT(lines[2], StartsWith("engine's health: with -metrics-file"));
  EXPECT_EQ(lines[4],
            " 1 Pairs 2 Origins 3 Destinations 4 Ports 5 Services 6 Engine        1-17 of 100");
  EXPECT_EQ(lines[5],
            "ORIGIN          DESTINATION     bit/s > bit/s < pkt/s conns   mean  open    %");
  EXPECT_EQ(lines[7],
            "10.0.0.1        10.9.0.1           792k   16.0k  10.0     1  2.50s     3  1.9");
  EXPECT_THAT(lines[22], StartsWith("10.0.0.16 "));
  EXPECT_THAT(lines[23], HasSubstr("q quit"));
}

TEST_F(TopScreenTest, NoLineIsTooLongAndNoneMissingOnAnyScreen) {
  interval_.completeness = Completeness::kPartial;
  interval_.rows[0].family = AddressFamily::kIpv6;
  interval_.rows[0].src.fill(0xab);
  interval_.rows[0].dst.fill(0xcd);
  EngineHealth health;
  health.samples = {{"ctacct_flows", "12", 12, std::string(300, 'x')}};
  screen_.state.health = health;
  screen_.state.folder_problems = {std::string(300, 'y')};
  for (int tab = 0; tab < 8; ++tab) {
    screen_.view = static_cast<TopView>(tab % kTopViews);
    screen_.show_health = tab == 5;
    screen_.help = tab == 6;
    screen_.prompt = std::nullopt;
    if (tab == 7) screen_.prompt = "10.0.0.";
    for (const size_t width : {1, 2, 20, 40, 79, 80, 81, 100, 120, 160, 200, 500}) {
      for (const size_t height : {1, 2, 5, 10, 24, 50}) {
        const std::vector<std::string> lines = Render(width, height);
        ASSERT_EQ(lines.size(), height);
        for (const std::string& line : lines) {
          ASSERT_LE(line.size(), width) << tab << ": " << line;
        }
      }
    }
  }
}

TEST_F(TopScreenTest, AWideScreenHasMoreFigures) {
  const std::vector<std::string> lines = Render(200, 50);
  EXPECT_THAT(lines[5], HasSubstr("pkt/s >"));
  EXPECT_THAT(lines[5], HasSubstr("bytes >"));
  EXPECT_THAT(lines[5], Not(HasSubstr("open")));  // Not tracked.
  EXPECT_THAT(lines[6], HasSubstr("1,500,000"));
  EXPECT_THAT(lines[6], ::testing::EndsWith("===="));
}

TEST_F(TopScreenTest, ScrollingEndsAtTheLastRow) {
  screen_.scroll = 1'000'000;
  const std::vector<std::string> lines = Render(80, 24);
  EXPECT_THAT(lines[4], HasSubstr("84-100 of 100"));
  EXPECT_THAT(lines[22], StartsWith("10.0.0.99 "));
}

TEST_F(TopScreenTest, KeysMoveWithinTheTable) {
  const auto first_row = [this](std::vector<int> keys) {
    for (const int key : keys) EXPECT_TRUE(OnKey(key, &screen_));
    return Render(80, 24)[6].substr(0, 10);
  };
  EXPECT_EQ(first_row({}), "10.0.0.0  ");
  EXPECT_EQ(first_row({kKeyUp}), "10.0.0.0  ");
  EXPECT_EQ(first_row({kKeyDown, kKeyDown}), "10.0.0.2  ");
  EXPECT_EQ(first_row({kKeyPageDown}), "10.0.0.19 ");
  EXPECT_EQ(first_row({kKeyPageUp, kKeyUp}), "10.0.0.1  ");
  EXPECT_EQ(first_row({kKeyEnd}), "10.0.0.83 ");
  EXPECT_EQ(first_row({kKeyUp}), "10.0.0.82 ");
  EXPECT_EQ(first_row({kKeyHome}), "10.0.0.0  ");
  EXPECT_EQ(first_row({'r'}), "10.0.0.99 ");
}

TEST_F(TopScreenTest, KeysChooseWhatIsShown) {
  const auto type = [this](std::vector<int> keys) {
    for (const int key : keys) EXPECT_TRUE(OnKey(key, &screen_));
  };
  UpdateTable(&screen_);
  type({'\t', kKeyRight, kKeyRight});
  EXPECT_EQ(screen_.view, TopView::kPorts);
  type({'\t'});
  EXPECT_EQ(screen_.view, TopView::kServices);
  type({'\t'});
  EXPECT_TRUE(screen_.show_health);
  type({kKeyRight});
  EXPECT_FALSE(screen_.show_health);
  EXPECT_EQ(screen_.view, TopView::kPairs);
  type({kKeyLeft});
  EXPECT_TRUE(screen_.show_health);
  type({'2'});
  EXPECT_EQ(screen_.view, TopView::kOrigins);
  type({'u'});
  EXPECT_EQ(screen_.sort, TopSort::kUnanswered);
  type({'u'});
  EXPECT_EQ(screen_.sort, TopSort::kBytes);
  type({'S'});
  EXPECT_EQ(screen_.sort, TopSort::kName);
  type({'S'});
  EXPECT_EQ(screen_.sort, TopSort::kUnanswered);
  type({'S'});  // Not by open connections: they are not tracked.
  EXPECT_EQ(screen_.sort, TopSort::kTime);
  type({'/', '1', 'x', kKeyBackspace, '0', kKeyEnter});
  EXPECT_EQ(screen_.filter.text(), "10");
  type({'/', '/', kKeyEnter});
  EXPECT_FALSE(screen_.prompt_error.empty());
  type({kKeyEscape});
  EXPECT_EQ(screen_.prompt, std::nullopt);
  EXPECT_EQ(screen_.filter.text(), "10");
  type({'p', '?'});
  EXPECT_TRUE(screen_.paused && screen_.help);
  type({'q', 'g'});  // The first key only leaves the help.
  EXPECT_EQ(screen_.state.gateway, "gw1");
  type({'g'});
  EXPECT_EQ(screen_.state.gateway, "");
  EXPECT_FALSE(OnKey('q', &screen_));
}

TEST_F(TopScreenTest, WhatIsLeftOutIsSaid) {
  screen_.filter = *AddressFilter::Parse("10.0.0.9");
  EXPECT_EQ(Render(80, 24)[3], "only addresses that begin with 10.0.0.9");
  screen_.filter = *AddressFilter::Parse("10.0.0.64/26");
  screen_.reverse = true;
  const std::vector<std::string> lines = Render(80, 24);
  EXPECT_EQ(lines[3], "only addresses that are in 10.0.0.64/26, in reverse order");
  EXPECT_THAT(lines[4], HasSubstr("1-17 of 36"));
  EXPECT_THAT(lines[6], StartsWith("10.0.0.99 "));
}

TEST_F(TopScreenTest, PortsAreNamed) {
  screen_.view = TopView::kPorts;
  screen_.sort = TopSort::kName;
  interval_.rows.resize(3);
  interval_.rows[0].port = -1;
  interval_.rows[1].protocol = 1;
  interval_.rows[1].port = 0;
  interval_.rows[2].protocol = kOtherRowProtocol;
  interval_.rows[2].port = -1;
  interval_.rows[2].connection_count = 0;
  const std::vector<std::string> lines = Render(80, 24);
  EXPECT_THAT(lines[6], StartsWith("(other) "));
  EXPECT_THAT(lines[6], HasSubstr("     0      - "));
  EXPECT_THAT(lines[7], StartsWith("icmp "));
  EXPECT_THAT(lines[8], StartsWith("tcp/* "));
}

TEST_F(TopScreenTest, ServicesArePortsOfDestinations) {
  screen_.view = TopView::kServices;
  screen_.sort = TopSort::kUnanswered;
  interval_.masks = GroupMasks();
  interval_.masks->dst = {255, 255, 255, 0};
  interval_.rows.resize(2);
  interval_.rows[0].port = interval_.rows[1].port = 443;
  interval_.rows[0].dst = interval_.rows[1].dst = {10, 33, 5, 0};
  interval_.rows[0].flow_count = interval_.rows[1].flow_count = 3;
  interval_.rows[1].unanswered_count = 2;
  const std::vector<std::string> lines = Render(80, 24);
  EXPECT_THAT(lines[5], StartsWith("DESTINATION     PORT "));
  EXPECT_THAT(lines[6], StartsWith("10.33.5.0/24    tcp/443 "));
  EXPECT_THAT(lines[6], HasSubstr(" 6     2 "));
}

// Beside the addresses, and on the plain page as the last fields.
TEST_F(TopScreenTest, HoldersAreNamed) {
  NamesSnapshot snapshot;
  snapshot.gateway = interval_.gateway;
  snapshot.entries = {{*ParseNetwork("10.0.0.0/8"), "provider", NameSource::kFile, {}, {}},
                      {*ParseNetwork("10.0.0.1"), "J\xc3\xb6rg", NameSource::kFile, {}, {}},
                      {*ParseNetwork("10.0.0.2"), "past", NameSource::kFile, 1, kEnd}};
  const TopNames names(snapshot, kEnd);
  screen_.state.names = &names;
  screen_.view = TopView::kOrigins;
  screen_.sort = TopSort::kName;
  std::vector<std::string> lines = Render(80, 24);
  EXPECT_THAT(lines[5], StartsWith("ORIGIN          NAME     "));
  EXPECT_THAT(lines[6], StartsWith("10.0.0.0        provider "));
  EXPECT_THAT(lines[7], StartsWith("10.0.0.1        J?rg     "));
  EXPECT_THAT(lines[8], StartsWith("10.0.0.2        provider "));
  const std::string text =
      OnceText(screen_.state, {TopView::kOrigins, TopView::kPorts}, TopSort::kName, {}, 2);
  EXPECT_THAT(text, HasSubstr("\tunanswered\tsrc_name\n"));
  EXPECT_THAT(text, HasSubstr("\tJ\xc3\xb6rg\n"));
  EXPECT_THAT(text, HasSubstr("#port\tproto\tport\tbytes_src"));
  // A name of a part of the network is not guessed at.
  interval_.masks = GroupMasks();
  interval_.masks->src = {255, 255, 255, 254};
  EXPECT_THAT(Render(80, 24)[7], HasSubstr("provider "));
  // Nor one of another gateway.
  interval_.gateway += "2";
  EXPECT_THAT(Render(80, 24)[5], Not(HasSubstr("NAME")));
}

// The port's column takes no room that an address needs.
TEST_F(TopScreenTest, AServicesNetworkIsNotCutForItsPort) {
  screen_.view = TopView::kServices;
  screen_.sort = TopSort::kUnanswered;
  interval_.masks = GroupMasks();
  interval_.masks->dst = {255, 239, 255, 0};
  interval_.rows.resize(1);
  interval_.rows[0].dst = {10, 33, 5, 0};
  EXPECT_THAT(Render(80, 24)[6], StartsWith("10.33.5.0/255.239.255.0 tcp "));
}

TEST_F(TopScreenTest, AChangeOfGroupMasksIsSaid) {
  EXPECT_THAT(TopProblems(screen_.state, screen_.time_zone), ::testing::IsEmpty());
  interval_.masks_changed = true;
  EXPECT_THAT(TopProblems(screen_.state, screen_.time_zone),
              ::testing::ElementsAre(HasSubstr("group masks were changed")));
}

// Who scans: sorted by what nobody answered, also where the screen is narrow.
TEST_F(TopScreenTest, UnansweredFlowsAreShownWhereTheyAreSortedBy) {
  screen_.view = TopView::kOrigins;
  screen_.sort = TopSort::kUnanswered;
  interval_.rows[50].flow_count = 2000;
  interval_.rows[50].unanswered_count = 1234;
  const std::vector<std::string> lines = Render(80, 24);
  EXPECT_THAT(lines[5], HasSubstr("flows unans"));
  EXPECT_THAT(lines[6], StartsWith("10.0.0.50 "));
  EXPECT_THAT(lines[6], HasSubstr(" 2.00k 1.23k "));
}

TEST_F(TopScreenTest, WaitingSaysHowLong) {
  screen_.state.intervals.clear();
  screen_.state.now_ns = kEnd + 500'000'000;
  const std::string text = absl::StrJoin(Render(80, 24), "\n");
  EXPECT_THAT(text, HasSubstr("No interval has ended yet"));
  // 15 s intervals end at multiples of 15 s since the epoch.
  EXPECT_THAT(text, HasSubstr("An engine with -interval=15 ends one at 12:27:00, in 15 s."));
  EXPECT_THAT(text, HasSubstr("Looking at /var/spool/ctacct"));
}

TEST_F(TopScreenTest, IncompleteIntervalsAreSaid) {
  EXPECT_THAT(Problems(), IsEmpty());
  interval_.completeness = Completeness::kResynced;
  interval_.events_dropped = 4'200;
  EXPECT_THAT(Problems(), ElementsAre("resynced, 4,200 events dropped"));
  EXPECT_THAT(Render(80, 24)[0], HasSubstr("  RESYNCED  "));
  interval_.gaps = {
      {kEnd - 2 * kSecond, kEnd - kSecond, GapCause::kOverrun, Completeness::kResynced, 4'200, 0}};
  EXPECT_THAT(Problems(),
              ElementsAre("gap 12:26:43-12:26:44, overrun, resynced, 4,200 events dropped"));
  interval_.gaps.push_back(
      {kEnd - 86'400 * kSecond, kEnd, GapCause::kRestart, Completeness::kPartial, 0, 17});
  interval_.completeness = Completeness::kPartial;
  EXPECT_THAT(Problems(), ElementsAre("2 gaps 2020-09-12 12:26:45-12:26:45, overrun+restart, "
                                      "partial, 4,200 events dropped, at least 17 flows lost"));
  const std::vector<std::string> lines = Render(80, 24);
  EXPECT_THAT(lines[0], HasSubstr("  PARTIAL  "));
  EXPECT_THAT(lines[3], StartsWith("! 2 gaps 2020-09-12"));
  EXPECT_EQ(RenderTop(&screen_, 80, 24)[3][0].style, TextStyle::kAlarm);
}

TEST_F(TopScreenTest, SilenceIsSaid) {
  screen_.state.now_ns = kEnd + 300 * kSecond;
  EXPECT_THAT(Problems(),
              ElementsAre("gw1: nothing since 12:26:45, 5 min ago: does the engine run?"));
  // The engine's metrics file says that it runs.
  screen_.state.health = EngineHealth();
  EXPECT_THAT(Problems(), ElementsAre("gw1: nothing since 12:26:45, 5 min ago: the engine runs, "
                                      "and leaves no file here"));
  // CSV: an interval without traffic has no file.
  interval_.completeness.reset();
  EXPECT_THAT(Problems(), ElementsAre("gw1: nothing since 12:26:45, 5 min ago: no traffic"));
  screen_.state.health.reset();
  EXPECT_THAT(Problems(),
              ElementsAre("gw1: nothing since 12:26:45, 5 min ago: no traffic, or no engine"));
}

TEST_F(TopScreenTest, TheTitleSaysHowMuchWasCovered) {
  interval_.covered_ns = 14'999'000'000;
  EXPECT_THAT(Render(80, 24)[0], StartsWith("ctacct-top  gw1  15 s until"));
  interval_.covered_ns = 5 * kSecond;
  EXPECT_THAT(Render(80, 24)[0], StartsWith("ctacct-top  gw1  5.0 of 15 s until"));
}

TEST_F(TopScreenTest, GatewaysTogetherAndAlone) {
  TopInterval other = interval_;
  other.gateway = "gw2";
  TopInterval silent = interval_;
  silent.gateway = "gw3";
  silent.end_ns -= 600 * kSecond;
  screen_.state.intervals = {&interval_, &other, &silent};
  std::vector<std::string> lines = Render(80, 24);
  EXPECT_THAT(lines[0], StartsWith("ctacct-top  2 gateways  15 s until"));
  EXPECT_THAT(lines[1], HasSubstr("conns 9,900,"));
  EXPECT_THAT(Problems(), ElementsAre("gw3: nothing since 12:16:45, 10 min ago: does the engine "
                                      "run?; not in the sums"));
  screen_.state.intervals = {&interval_, &silent};
  EXPECT_THAT(Render(80, 24)[0], StartsWith("ctacct-top  gw1  "));
  screen_.state.intervals = {&interval_, &other, &silent};
  screen_.state.gateway = "gw2";
  lines = Render(80, 24);
  EXPECT_THAT(lines[0], StartsWith("ctacct-top  gw2  "));
  EXPECT_THAT(lines[1], HasSubstr("conns 4,950,"));
  screen_.state.gateway = "none";
  EXPECT_THAT(absl::StrJoin(Render(80, 24), "\n"),
              HasSubstr("No interval of the gateway none has been seen yet."));
}

TEST_F(TopScreenTest, TheEnginesMetricsAreShownAsPeopleReadThem) {
  screen_.show_health = true;
  screen_.state.health = *ParseMetrics(
      "# HELP ctacct_flows Flows known.\n"
      "# TYPE ctacct_flows gauge\n"
      "ctacct_flows 1234567\n"
      "ctacct_last_write_timestamp_seconds 1600000005.250000000\n"
      "ctacct_something_new{kind=\"a b\"} 0.25\n");
  const std::vector<std::string> lines = Render(80, 24);
  EXPECT_EQ(lines[5], "flows                        1,234,567  Flows known.");
  EXPECT_EQ(lines[6], "last_write_timestamp_seconds  12:26:45  ");
  EXPECT_EQ(lines[7], "something_new{kind=\"a b\"}        0.250  ");
}

TEST_F(TopScreenTest, OnceIsOneKindALine) {
  interval_.rows.resize(2);
  interval_.gaps = {
      {kEnd - 2 * kSecond, kEnd - kSecond, GapCause::kOverrun, Completeness::kResynced, 42, 0}};
  interval_.completeness = Completeness::kResynced;
  interval_.events_dropped = 42;
  screen_.state.health = *ParseMetrics("ctacct_flows 7\n");
  const std::string text =
      OnceText(screen_.state, {TopView::kPairs, TopView::kPorts}, TopSort::kBytes, {}, 1);
  const std::string sums =
      "bytes_src\tbytes_dst\tpackets_src\tpackets_dst\tconnections\tmean_seconds\topen\t"
      "bits_src_per_s\tbits_dst_per_s\tpackets_src_per_s\tpackets_dst_per_s\tconnections_per_s\t"
      "flows\tunanswered\n";
  EXPECT_EQ(text,
            "#interval\tgateway\tend\tseconds\tcovered_seconds\tage_seconds\tcompleteness\t"
            "events_dropped\trows\tin_sums\n"
            "interval\tgw1\t2020-09-13T12:26:45Z\t15\t-\t3.000\tresynced\t42\t2\tyes\n"
            "#gap\tgateway\tbegan\tended\tcause\tcompleteness\tevents_dropped\tflows_lost\n"
            "gap\tgw1\t2020-09-13T12:26:43Z\t2020-09-13T12:26:44Z\toverrun\tresynced\t42\t0\n"
            "#total\t" +
                sums +
                "total\t2985000\t60000\t300\t0\t1\t2.500\t-\t1592000.000\t32000.000\t20.000\t"
                "0.000\t0.067\t0\t0\n"
                "#pair\tsrc\tdst\t" +
                sums +
                "pair\t10.0.0.0\t10.9.0.1\t1500000\t30000\t150\t0\t0\t-\t-\t800000.000\t16000.000\t"
                "10.000\t0.000\t0.000\t0\t0\n"
                "#port\tproto\tport\t" +
                sums +
                "port\ttcp\t0\t1500000\t30000\t150\t0\t0\t-\t-\t800000.000\t16000.000\t10.000\t"
                "0.000\t0.000\t0\t0\n"
                "#health\tmetric\tvalue\n"
                "health\tctacct_flows\t7\n"
                "#problem\ttext\n"
                "problem\tgap 12:26:43-12:26:44, overrun, resynced, 42 events dropped\n");
}

TEST_F(TopScreenTest, EveryLineOfOnceHasTheFieldsOfItsKind) {
  TopInterval csv = interval_;
  csv.gateway = "";
  csv.completeness.reset();
  csv.rows.back().port = -1;
  csv.rows.back().protocol = kOtherRowProtocol;
  screen_.state.intervals = {&csv, &interval_};
  screen_.state.health = *ParseMetrics("ctacct_a{kind=\"x\ty\"} 1\nctacct_b 2\n");
  screen_.state.folder_problems = {"a\tfile\n"};
  const std::string text = OnceText(screen_.state,
                                    {TopView::kPairs, TopView::kOrigins, TopView::kDestinations,
                                     TopView::kPorts, TopView::kServices},
                                    TopSort::kBytes, {}, 0);
  std::map<std::string, size_t> fields;
  size_t lines = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    const std::vector<std::string> parts = absl::StrSplit(line, '\t');
    if (parts[0][0] == '#') {
      fields[parts[0].substr(1)] = parts.size();
      continue;
    }
    EXPECT_EQ(parts.size(), fields.at(parts[0])) << line;
    for (const std::string& part : parts) EXPECT_NE(part, "") << line;
    ++lines;
  }
  EXPECT_EQ(lines, 2u + 1 + 101 + 100 + 2 + 101 + 101 + 2 + 1) << text;
}

}  // namespace
}  // namespace ctacct
