// Flags and flag files, right and wrong.
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_join.h"
#include "tests/replay/replay_test_base.h"

namespace ctacct {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST_F(ReplayTest, EverySpellingOfAFlag) {
  const Script script = Mixture();
  const std::string capture = WriteFile("capture.pcap", script.bytes());
  const Lines expected = Replay(script, {"--src-group-mask=255.255.0.0", "--track-open"});
  ASSERT_THAT(expected, testing::Not(IsEmpty()));
  const std::vector<Lines> spellings = {
      {"-src-group-mask=255.255.0.0", "-track-open"},
      {"--src_group_mask=255.255.0.0", "--track_open"},
      {"-src_group_mask", "255.255.0.0", "-track_open=true"},
      {"--src-group-mask", "255.255.0.0", "--track-open=1"},
      {"--src_group-mask=/16", "--track-open=true"},
  };
  for (const Lines& flags : spellings) {
    SCOPED_TRACE(absl::StrJoin(flags, " "));
    const Finished finished = Engine(Joined({flags, {"-interval", "5", "-replay", capture}}));
    EXPECT_EQ(finished.exit.ToString(), "exit status 0") << finished.err;
    EXPECT_EQ(Sorted(SplitLines(finished.out)), expected);
  }
  EXPECT_EQ(Replay(script, {"--track-open=false"}), Replay(script));
}

TEST_F(ReplayTest, Flagfile) {
  const Script script = Mixture();
  const Lines expected = Replay(script, {"--src-group-mask=/16", "--track-open"});
  const std::string flags = WriteFile("flags",
                                      "# For the gateway.\n"
                                      "\n"
                                      "--src_group_mask=255.255.0.0\n"
                                      "  # an indented comment\n"
                                      "-track-open\n");
  EXPECT_EQ(Replay(script, {"--flagfile=" + flags}), expected);
  EXPECT_EQ(Replay(script, {"-flagfile", flags}), expected);
  for (const std::string bad : {"--bogus=1", "--interval=x", "--src=10.0.0.0/99", "interval"}) {
    SCOPED_TRACE(bad);
    WriteFile("bad_flags", "# one\n--track-open\n\n" + bad + "\n--dst=10.0.0.0/8\n");
    ExpectError(Engine({"--flagfile=" + Path("bad_flags")}), 2, Path("bad_flags") + ":4");
  }
  const Finished absent = Engine({"--flagfile=" + Path("absent")});
  ExpectError(absent, absent.exit.code == 1 ? 1 : 2, Path("absent"));
}

TEST_F(ReplayTest, WrongUsage) {
  const std::string capture = WriteFile("capture.pcap", Mixture().bytes());
  const std::string output = MakeFolder("out");
  const std::vector<std::pair<Lines, std::string>> cases = {
      {{"--bogus"}, "bogus"},
      {{"--bogus=1"}, "bogus"},
      {{"-srcc=10.0.0.0/8"}, "srcc"},
      {{"--src=10.0.0.0/33"}, "src"},
      {{"--src=10.0.0.0/-1"}, "src"},
      {{"--src=10.0.0.0/"}, "src"},
      {{"--src=banana"}, "src"},
      {{"--src=10.0.0.256/8"}, "src"},
      {{"--src=10.0.0.0/8 "}, "src"},
      {{"--src=10.0.0.0/8x"}, "src"},
      {{"--src=10.33.0.1/11"}, "the network is 10.32.0.0/11"},
      {{"--src=10.0.0.0/8,2001:db8::1/32"}, "the network is 2001:db8::/32"},
      {{"--src=10.0.0.0/8,"}, "src"},
      {{"--src=1.0.0.0,2.0.0.0,3.0.0.0,4.0.0.0,5.0.0.0,6.0.0.0,7.0.0.0,8.0.0.0,9.0.0.0,10.0.0.0,"
        "11.0.0.0,12.0.0.0,13.0.0.0,14.0.0.0,15.0.0.0,16.0.0.0,17.0.0.0"},
       "more than 16"},
      {{"--dst=2001:db8::/129"}, "dst"},
      {{"--dst=10.0.0/8"}, "dst"},
      {{"--src-group-mask=255.255.255"}, "src-group-mask"},
      {{"--src-group-mask=/33"}, "src-group-mask"},
      {{"--src-group-mask=/"}, "src-group-mask"},
      {{"--dst-group-mask=255.255.255.256"}, "dst-group-mask"},
      {{"--dst_group_mask=x"}, "dst-group-mask"},
      {{"--src-group-mask6=/129"}, "src-group-mask6"},
      {{"--dst-group-mask6=255.255.255.0"}, "dst-group-mask6"},
      {{"--exclude-ip=10.0.0"}, "exclude-ip"},
      {{"--exclude-ip=10.0.0.1;fd00::1"}, "exclude-ip"},
      {{"--exclude-ip=10.0.0.0/8"}, "exclude-ip"},
      {{"--interval=0"}, "interval"},
      {{"--interval=-5"}, "interval"},
      {{"--interval=5s"}, "interval"},
      {{"--interval="}, "interval"},
      {{"--interval=1.5"}, "interval"},
      {{"--interval=99999999999999999999"}, "interval"},
      {{"--interval=9223372036854775807"}, "interval"},
      {{"--include-icmp=maybe"}, "include-icmp"},
      {{"--track-open=2"}, "track-open"},
      {{"--output-format=xml"}, "output-format"},
      {{"--output-format=CSV "}, "output-format"},
      {{"--pipe-format=line"}, "pipe-format"},
      {{"--pipe-format="}, "pipe-format"},
      {{"--max-rows=0"}, "max-rows"},
      {{"--max-rows=10000001"}, "max-rows"},
      {{"--workers=0"}, "workers"},
      {{"--workers=9"}, "workers"},
      {{"--workers=two"}, "workers"},
      {{"--mode=heavy"}, "mode"},
      {{"--local=no"}, "local"},
      {{"--mode="}, "mode"},
      {{"positional"}, "positional"},
      {{"--", "positional"}, "positional"},
      {{"---src=10.0.0.0/8"}, "src"},
      {{"--src"}, "src"},
      {{"--interval"}, "interval"},
      // Hostile: they stay one line.
      {{"--src=10.0.0.0/8\n10.0.0.0/8"}, "src"},
      {{"--bogus\nflag"}, "bogus"},
      {{"--src=\x1b[31mred"}, "src"},
      {{"--src=" + std::string(100'000, '9')}, "src"},
      {{"--dst=$(reboot)';--"}, "dst"},
      // Given twice.
      {{"--exclude-ip=10.0.0.1", "-exclude_ip", "10.0.0.2"}, "exclude-ip"},
      {{"--track-open", "--track-open"}, "track-open"},
  };
  for (const auto& [flags, name] : cases) {
    SCOPED_TRACE(absl::StrJoin(flags, " ").substr(0, 100));
    // The wrong flag comes last: the flags before it are right, and must not have had an effect.
    const Finished finished =
        Engine(Joined({{"--replay=" + capture, "--pipe=" + Path("fifo"), "--output=" + output,
                        "--record=" + Path("record.pcap")},
                       flags}));
    ExpectError(finished, 2, name);
    EXPECT_EQ(finished.out, "");
    EXPECT_LT(finished.err.size(), 1000u);
    EXPECT_THAT(NamesIn(output), IsEmpty());
    EXPECT_THAT(NamesIn(folder_), ElementsAre("capture.pcap", "out"));
  }
}

// Its lines would be taken for those of another gateway, differently by each database.
TEST_F(ReplayTest, AGatewayNameThatInfluxLinesCannotHold) {
  const std::string capture = WriteFile("capture.pcap", Mixture().bytes());
  const Lines flags = {"--replay=" + capture, "--pipe=" + Path("fifo"), "--gateway=a\\"};
  ExpectError(Engine(Joined({flags, {"--pipe-format=influx"}})), 2, "gateway");
  EXPECT_THAT(NamesIn(folder_), ElementsAre("capture.pcap"));
  EXPECT_EQ(Engine(flags).exit.ToString(), "exit status 0");
}

TEST_F(ReplayTest, ACaptureDoesNotSayWhatIsLocal) {
  const std::string capture = WriteFile("capture.pcap", Mixture().bytes());
  ExpectError(Engine({"--replay=" + capture, "--local=skip"}), 2, "-local=skip: a capture");
  EXPECT_EQ(Engine({"--replay=" + capture, "--local=count"}).exit.ToString(), "exit status 0");
}

TEST_F(ReplayTest, ErrorsDoNotEchoControlCharacters) {
  ExpectError(Engine({"--replay=" + Path("a\nb")}), 1, "a");
  ExpectError(Engine({"--replay=" + Path("a\x1b[31mb")}), 1, "a");
  ExpectError(Spooldump({Path("a\nb")}), 1, "a");
  // C1 controls, which terminals also obey; a bidirectional control; and invalid UTF-8.
  const std::pair<std::string, std::string> others[] = {
      {"a\u009b2Jb", "a\\xc2\\x9b2Jb"},
      {"a\u0085b", "a\\xc2\\x85b"},
      {"a\u202eb", "a\\xe2\\x80\\xaeb"},
      {"a\x9b"
       "b",
       "a\\x9bb"},
  };
  for (const auto& [name, escaped] : others) {
    ExpectError(Engine({"--replay=" + Path(name)}), 1, escaped);
    ExpectError(Spooldump({Path(name)}), 1, escaped);
  }
}

// Before anything is touched: no file with such a name would ever be read.
TEST_F(ReplayTest, AGatewayThatFilesCannotName) {
  const std::string capture = WriteFile("capture.pcap", Mixture().bytes());
  const std::string output = MakeFolder("out");
  for (const std::string& name :
       {std::string("gw\u009b"), std::string("gw\u0085"), std::string("gw\x7f"),
        std::string("gw\u202e"), std::string("gw\u2028"), std::string("gw\xfc"),
        std::string(256, 'g')}) {
    ExpectError(Engine({"--replay=" + capture, "--output=" + output, "--gateway=" + name}), 2,
                "gateway");
    EXPECT_THAT(NamesIn(output), IsEmpty());
  }
}

}  // namespace
}  // namespace ctacct
