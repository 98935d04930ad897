// Every row against a model of the kernel that made the capture.
#include <algorithm>
#include <filesystem>
#include <iterator>
#include <map>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "tests/replay/model_kernel.h"
#include "tests/replay/replay_test_base.h"
#include "tests/support/conditions.h"

namespace ctacct {
namespace {

class OracleTest : public ReplayTest {
 protected:
  void Check(const ModelKernel::Options& options) {
    SCOPED_TRACE(absl::StrCat("seed ", options.seed, ", stamps ", static_cast<int>(options.stamps),
                              ", copies ", options.copies, ", new events ", options.new_events));
    ModelKernel kernel(options);
    kernel.Run();
    // Once: of a list that is new the engine waits for the rest.
    const std::string ports = std::filesystem::exists(Path("ports"))
                                  ? Path("ports")
                                  : WriteFile("ports", "tcp:443\ntcp:80\nudp:53\n");
    Lines flags(std::begin(ModelKernel::kEngineFlags), std::end(ModelKernel::kEngineFlags));
    flags.push_back("--ports=" + ports);
    const Lines lines = Replay(kernel.capture(), flags);
    std::map<ModelKernel::Key, std::array<uint64_t, 7>> rows;
    std::map<std::string, ModelKernel::Counters> sums;
    for (const std::string& line : lines) {
      Row row;
      ASSERT_TRUE(ParseRow(line, &row)) << line;
      for (size_t i = 0; i < 4; ++i) sums[row.key][i] += row.fields[i];
      rows[{row.time, row.key}] = row.fields;
    }
    // Conservation first: it is the most important.
    for (auto it = sums.begin(); it != sums.end();) {
      it = it->second == ModelKernel::Counters{} ? sums.erase(it) : std::next(it);
    }
    const auto growth = kernel.Growth();
    int wrong_sums = 0;
    for (const auto& [key, want] : growth) {
      const auto have = sums[key];
      if (have != want && ++wrong_sums <= 3) {
        ADD_FAILURE() << "sum of " << key << "\n  engine: " << absl::StrJoin(have, ",")
                      << "\n  kernel: " << absl::StrJoin(want, ",");
      }
    }
    EXPECT_EQ(wrong_sums, 0);
    EXPECT_EQ(sums.size(), growth.size());

    // Then every row, each in its interval.
    int differences = 0;
    auto expected = kernel.rows();
    const int64_t last = At(options.intervals * 5000);
    for (const auto& [key, fields] : rows) {
      // It is not defined whether an interval that began with the last packet is flushed.
      if (key.first > last && !expected.contains(key)) {
        EXPECT_THAT(std::vector<uint64_t>(fields.begin(), fields.begin() + 6), testing::Each(0u));
        continue;
      }
      expected.try_emplace(key);
    }
    for (const auto& [key, want] : expected) {
      const std::array<uint64_t, 7>& have = rows[key];
      bool same = true;
      for (const size_t i : {0, 1, 2, 3}) same = same && have[i] == want[i];
      // Without NEW events an engine cannot know what is open, nor of a close before the first dump
      // entry.
      if (options.new_events) same = same && have[4] == want[4] && have[6] == want[6];
      // Without stamps the durations of older flows are unknown.
      if (options.new_events && options.stamps != Stamps::kNone) {
        const uint64_t distance = have[5] > want[5] ? have[5] - want[5] : want[5] - have[5];
        same = same && distance <= want[4];
      }
      if (!same && ++differences <= 5) {
        ADD_FAILURE() << key.first << "," << key.second
                      << "\n  engine: " << absl::StrJoin(have, ",")
                      << "\n  kernel: " << absl::StrJoin(want, ",");
      }
    }
    EXPECT_EQ(differences, 0);
    EXPECT_GT(rows.size(), 100u);
  }

  // Another number of seeds for a long search: REPLAY_TEST_SEEDS=1000.
  static uint64_t Seeds() { return NumberFromEnvironment("REPLAY_TEST_SEEDS", 4); }
};

// The same capture gives the same rows, whatever the number of workers.
TEST_F(OracleTest, RowsDoNotDependOnTheNumberOfWorkers) {
  for (const Stamps stamps : kAllStamps) {
    for (uint64_t seed = 1; seed <= Seeds(); ++seed) {
      ModelKernel kernel({.seed = 6000 + seed, .stamps = stamps});
      kernel.Run();
      std::vector<Lines> rows;
      for (const char* workers : {"--workers=1", "--workers=2", "--workers=3", "--workers=8"}) {
        rows.push_back(Replay(kernel.capture(), {workers, "--track-open", "--include-icmp"}));
        std::sort(rows.back().begin(), rows.back().end());
        ASSERT_GT(rows.back().size(), 100u);
        EXPECT_EQ(rows.back(), rows.front()) << workers << ", seed " << seed;
      }
    }
  }
}
TEST_F(OracleTest, RecentKernel) {
  for (uint64_t seed = 1; seed <= Seeds(); ++seed) Check({.seed = seed});
}
TEST_F(OracleTest, RecentKernelEachEventTwice) {
  for (uint64_t seed = 1; seed <= Seeds(); ++seed) Check({.seed = 1000 + seed, .copies = 2});
}
TEST_F(OracleTest, OlderKernel) {
  for (uint64_t seed = 1; seed <= Seeds(); ++seed) {
    Check({.seed = 2000 + seed, .stamps = Stamps::kFlows});
  }
}
TEST_F(OracleTest, NoTimestamps) {
  for (uint64_t seed = 1; seed <= Seeds(); ++seed) {
    Check({.seed = 3000 + seed, .stamps = Stamps::kNone});
  }
}
TEST_F(OracleTest, NoTimestampsEachEventTwice) {
  for (uint64_t seed = 1; seed <= Seeds(); ++seed) {
    Check({.seed = 4000 + seed, .stamps = Stamps::kNone, .copies = 2});
  }
}
TEST_F(OracleTest, WithoutNewEvents) {
  for (uint64_t seed = 1; seed <= Seeds(); ++seed) {
    Check({.seed = 5000 + seed, .stamps = Stamps::kFlows, .new_events = false});
  }
}

}  // namespace
}  // namespace ctacct
