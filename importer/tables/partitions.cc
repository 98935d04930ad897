#include "importer/tables/partitions.h"

#include <algorithm>
#include <iterator>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "importer/files/log.h"
#include "importer/postgres/pg_binary.h"
#include "importer/tables/versions.h"

namespace ctacct {
namespace {

constexpr int64_t kNanosPerDay = 86'400'000'000'000;
constexpr size_t kDaysPerStatement = 20;  // Each table takes a lock until the statement ends.

}  // namespace

absl::Status MakePartitions(PgConnection& connection, const std::set<int32_t>& days,
                            std::set<int32_t>* known_days) {
  std::vector<int32_t> missing;
  std::set_difference(days.begin(), days.end(), known_days->begin(), known_days->end(),
                      std::back_inserter(missing));
  for (size_t begin = 0; begin < missing.size(); begin += kDaysPerStatement) {
    const auto days_now = absl::MakeConstSpan(missing).subspan(begin, kDaysPerStatement);
    PgArray moments(PgType::kTimestamptz, 2 * days_now.size());
    for (const int32_t day : days_now) {
      // The first and the last microsecond: steps that begin on a day may end on the next.
      moments.AppendTime(int64_t{day} * kNanosPerDay);
      moments.AppendTime((int64_t{day} + 1) * kNanosPerDay - 1000);
    }
    const absl::Status made = InTransaction(connection, [&] {
      return connection
          .QueryBinary("SELECT traffic_make_partitions($1::timestamptz[])",
                       {std::move(moments).bytes()})
          .status();
    });
    if (!made.ok()) return made;
    known_days->insert(days_now.begin(), days_now.end());
  }
  return absl::OkStatus();
}

absl::Status SummarizePartitions(PgConnection& connection, const std::set<int32_t>& days) {
  PgArray moments(PgType::kTimestamptz, days.size());
  for (const int32_t day : days) moments.AppendTime(int64_t{day} * kNanosPerDay);
  // A transaction of its own, that needs none of our settings.
  return connection
      .QueryBinary("SELECT traffic_summarize($1::timestamptz[])", {std::move(moments).bytes()})
      .status();
}

absl::Status DropOldPartitions(PgConnection& connection, const std::string& tier, int days,
                               uint64_t* dropped_count) {
  const std::string days_text = absl::StrCat(days);
  std::string partition;  // The last one that was looked at.
  while (true) {
    bool found = false;
    bool dropped = false;
    absl::Status status = InLongTransaction(connection, [&]() -> absl::Status {
      const absl::StatusOr<PgResult> result = connection.Query(
          "SELECT partition, dropped FROM traffic_drop_partition($1, now() - make_interval(days => "
          "$2::integer), $3)",
          {tier.c_str(), days_text.c_str(), partition.c_str()});
      if (!result.ok()) return result.status();
      found = PQntuples(result->get()) == 1;
      if (!found) return absl::OkStatus();
      partition = PQgetvalue(result->get(), 0, 0);
      dropped = PQgetvalue(result->get(), 0, 1)[0] == 't';
      return absl::OkStatus();
    });
    if (!status.ok() || !found) return status;
    if (dropped) ++*dropped_count;
    LogLine(dropped ? absl::StrCat("retention: dropped ", partition, ", older than ", days, " days")
                    : absl::StrCat("retention: ", partition, " stays: its rows are not all in the ",
                                   "rollups (SELECT * FROM traffic_check(..) says which)"));
  }
}

}  // namespace ctacct
