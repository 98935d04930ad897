#include "importer/tables/load.h"

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "engine/rows/gap.h"
#include "importer/files/log.h"
#include "importer/postgres/pg_binary.h"
#include "importer/tables/copy_encoder.h"
#include "importer/tables/rollup.h"

namespace ctacct {
namespace {

constexpr char kSchema1[] =
#include "importer/tables/schema_001.inc"
    ;
constexpr char kSchema2[] =
#include "importer/tables/schema_002.inc"
    ;
constexpr char kSchema3[] =
#include "importer/tables/schema_003.inc"
    ;

// One entry a version; never changed once released, only added to.
constexpr const char* kSchemas[] = {kSchema1, kSchema2, kSchema3};
constexpr int kSchemaVersion = sizeof(kSchemas) / sizeof(kSchemas[0]);

// Of the contract; and where the reference's goes.
constexpr char kFactsTable[] = "vpn_traffic";
constexpr char kAdoptedTable[] = "vpn_traffic_reference";

// Its indexes' names may be ours, too.
constexpr char kRenameReference[] = R"sql(
DO $$
DECLARE
    index regclass;
BEGIN
    FOR index IN SELECT indexrelid FROM pg_index WHERE indrelid = 'vpn_traffic'::regclass LOOP
        EXECUTE format('ALTER INDEX %s RENAME TO %I', index,
                       (SELECT relname FROM pg_class WHERE oid = index) || '_reference');
    END LOOP;
    ALTER TABLE vpn_traffic RENAME TO vpn_traffic_reference;
END $$)sql";

// Two importers that start at once must not both create tables. The number is ours alone: "ctacct"
// in ASCII.
constexpr char kLockSchema[] = "SELECT pg_advisory_xact_lock(109351501259636)";

// Large enough that system calls vanish, small enough to stay in the cache on its way to the
// socket.
constexpr size_t kCopyBufferBytes = 512 * 1024;

// How the messages of such errors begin.
constexpr char kSqlstateDuplicateTable[] = "SQLSTATE 42P07";
constexpr char kSqlstateCheckViolation[] = "SQLSTATE 23514";  // Also: no partition for the row.
constexpr char kSqlstateOutOfMemory[] = "SQLSTATE 53200";     // Also: no room for more locks.
// Citus: whatever a worker has said to a COPY.
constexpr char kSqlstateInternalError[] = "SQLSTATE XX000";

// A new version, or retention, may have to read all rows of a season.
constexpr absl::Duration kLongTimeout = absl::Hours(24);

constexpr char kInsertLedger[] =
    "INSERT INTO import_ledger (engine, sequence, checksum, row_count, interval_end, "
    "interval_length, completeness, events_dropped, flows_lost, gateway, source_file, rolled_up) "
    "VALUES ($1, $2, $3, $4, timestamptz 'epoch' + $5::bigint * interval '1 microsecond', "
    "$6::bigint * interval '1 microsecond', $7, $8, $9, $10, $11, true) ON CONFLICT DO NOTHING";

// All of a file at once. Arrays of numbers and of our own words, so there is nothing to escape.
constexpr char kInsertGaps[] =
    "INSERT INTO traffic_gaps (gateway, engine, sequence, interval_end, number, began, ended, "
    "cause, completeness, events_dropped, flows_lost) "
    "SELECT $1, $2::uuid, $3::bigint, "
    "timestamptz 'epoch' + $4::bigint * interval '1 microsecond', number, "
    "timestamptz 'epoch' + began * interval '1 microsecond', "
    "timestamptz 'epoch' + ended * interval '1 microsecond', "
    "cause, completeness, events_dropped, flows_lost "
    "FROM unnest($5::bigint[], $6::bigint[], $7::text[], $8::text[], $9::bigint[], $10::bigint[]) "
    "WITH ORDINALITY AS gap "
    "(began, ended, cause, completeness, events_dropped, flows_lost, number)";

constexpr size_t kDaysPerStatement = 20;
constexpr uint64_t kBigintMax = std::numeric_limits<int64_t>::max();
constexpr int64_t kNanosPerMicro = 1000;
constexpr int64_t kNanosPerDay = 86'400'000'000'000;

// From table ctacct_schema, which must be there.
absl::StatusOr<int> SchemaVersion(PgConnection& connection) {
  absl::StatusOr<PgResult> version =
      connection.Query("SELECT coalesce(max(version), 0) FROM ctacct_schema", {});
  if (!version.ok()) return version.status();
  int number = 0;
  if (!absl::SimpleAtoi(PQgetvalue(version->get(), 0, 0), &number)) {
    return absl::FailedPreconditionError("table ctacct_schema holds no version");
  }
  return number;
}

absl::Status CheckNotNewer(int version) {
  if (version <= kSchemaVersion) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("the database's schema is of version ", version,
                                                    ", this importer knows versions up to ",
                                                    kSchemaVersion));
}

// Within a transaction.
absl::Status ApplySchemas(PgConnection& connection) {
  if (absl::Status status = connection.Execute(kLockSchema); !status.ok()) return status;
  // Another importer may have made the tables while we waited. Not to_regclass again: this
  // session's catalogue cache would still say that there is no such table; creating one looks
  // afresh.
  absl::Status status = connection.Execute(
      "CREATE TABLE IF NOT EXISTS ctacct_schema "
      "(version integer PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())");
  if (!status.ok()) return status;
  const absl::StatusOr<int> version = SchemaVersion(connection);
  if (!version.ok()) return version.status();
  if (status = CheckNotNewer(*version); !status.ok()) return status;
  for (int next = *version + 1; next <= kSchemaVersion; ++next) {
    status = connection.Execute(kSchemas[next - 1]);
    if (status.ok()) {
      status = connection
                   .Query("INSERT INTO ctacct_schema (version) VALUES ($1)",
                          {std::to_string(next).c_str()})
                   .status();
    }
    if (!status.ok()) {
      return absl::Status(
          status.code(),
          absl::StrCat("schema version ", next, ": ", status.message(),
                       absl::StartsWith(status.message(), kSqlstateDuplicateTable)
                           ? " (not made by ctacct: rename it, ctacct makes its own; "
                             "-adopt takes over the reference's)"
                           : ""));
    }
  }
  return absl::OkStatus();
}

// Runs `work` in a transaction in which no statement takes too long.
absl::Status InLongTransaction(PgConnection& connection, absl::FunctionRef<absl::Status()> work) {
  connection.set_answer_timeout(kLongTimeout);
  absl::Status status = connection.Execute(
      "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL statement_timeout = 0; "
      "SET LOCAL synchronous_commit = on");
  if (status.ok()) status = work();
  if (status.ok()) status = connection.Commit();
  connection.set_answer_timeout(kAnswerTimeoutDefault);
  return status;
}

// True if the row was inserted, false if the key is taken.
absl::StatusOr<bool> InsertLedgerRow(PgConnection& connection, const FileSummary& summary,
                                     const std::string& gateway, const std::string& file_name) {
  const bool spool = summary.spool.has_value();
  const uint64_t dropped = spool ? summary.spool->events_dropped : 0;
  uint64_t lost = 0;
  for (const Gap& gap : summary.gaps) {
    if (gap.events_dropped > kBigintMax || gap.flows_lost > kBigintMax - lost) {
      return absl::InvalidArgumentError("a gap's count of events or flows is too large");
    }
    lost += gap.flows_lost;
  }
  if (summary.sequence > kBigintMax || dropped > kBigintMax) {
    return absl::InvalidArgumentError("the sequence or the count of dropped events is too large");
  }
  const std::string engine = EngineIdText(summary.engine_id);
  const std::string sequence = absl::StrCat(summary.sequence);
  const std::string checksum = absl::StrCat(static_cast<int64_t>(summary.checksum));
  const std::string row_count = absl::StrCat(summary.row_count);
  const std::string end_us = absl::StrCat(spool ? summary.spool->interval_end_ns / 1000 : 0);
  const std::string length_us = absl::StrCat(spool ? summary.spool->interval_length_ns / 1000 : 0);
  const std::string events_dropped = absl::StrCat(dropped);
  const std::string flows_lost = absl::StrCat(lost);
  absl::StatusOr<PgResult> result = connection.Query(
      kInsertLedger,
      {engine.c_str(), sequence.c_str(), checksum.c_str(), row_count.c_str(),
       spool ? end_us.c_str() : nullptr, spool ? length_us.c_str() : nullptr,
       spool ? CompletenessName(summary.spool->completeness) : nullptr, events_dropped.c_str(),
       flows_lost.c_str(), gateway.c_str(), file_name.c_str()});
  if (!result.ok()) return result.status();
  return absl::string_view(PQcmdTuples(result->get())) == "1";
}

// Of a gap nothing is lost by rounding: downwards where it begins, upwards where it ends.
int64_t FloorMicros(int64_t ns) { return ns / kNanosPerMicro - (ns % kNanosPerMicro < 0 ? 1 : 0); }
int64_t CeilMicros(int64_t ns) { return ns / kNanosPerMicro + (ns % kNanosPerMicro > 0 ? 1 : 0); }

// Behind its ledger row, in the same transaction.
absl::Status InsertGaps(PgConnection& connection, const FileSummary& summary) {
  if (summary.gaps.empty()) return absl::OkStatus();
  const SpoolHeader& header = *summary.spool;  // CSV files have no gaps.
  const std::string engine = EngineIdText(header.engine_id);
  const std::string sequence = absl::StrCat(header.sequence);
  const std::string end_us = absl::StrCat(header.interval_end_ns / kNanosPerMicro);
  const auto array = [&summary](const auto& value_of) {
    std::string text = "{";
    for (const Gap& gap : summary.gaps) {
      absl::StrAppend(&text, text.size() > 1 ? "," : "", value_of(gap));
    }
    text.push_back('}');
    return text;
  };
  const std::string began = array([](const Gap& gap) { return FloorMicros(gap.began_ns); });
  const std::string ended = array([](const Gap& gap) { return CeilMicros(gap.ended_ns); });
  const std::string cause = array([](const Gap& gap) { return GapCauseName(gap.cause); });
  const std::string completeness =
      array([](const Gap& gap) { return CompletenessName(gap.completeness); });
  const std::string dropped = array([](const Gap& gap) { return gap.events_dropped; });
  const std::string lost = array([](const Gap& gap) { return gap.flows_lost; });
  const absl::StatusOr<PgResult> result =
      connection.Query(kInsertGaps, {header.gateway.c_str(), engine.c_str(), sequence.c_str(),
                                     end_us.c_str(), began.c_str(), ended.c_str(), cause.c_str(),
                                     completeness.c_str(), dropped.c_str(), lost.c_str()});
  if (!result.ok()) return result.status();
  if (absl::string_view(PQcmdTuples(result->get())) != absl::StrCat(summary.gaps.size())) {
    return absl::FailedPreconditionError(
        "the database did not take all gaps (a trigger or rule on traffic_gaps?)");
  }
  return absl::OkStatus();
}

absl::StatusOr<ImportOutcome> CompareWithLedger(PgConnection& connection,
                                                const FileSummary& summary) {
  const std::string engine = EngineIdText(summary.engine_id);
  const std::string sequence = absl::StrCat(summary.sequence);
  const absl::StatusOr<PgResult> result =
      connection.Query("SELECT checksum FROM import_ledger WHERE engine = $1 AND sequence = $2",
                       {engine.c_str(), sequence.c_str()});
  if (!result.ok()) return result.status();
  if (PQntuples(result->get()) != 1) {
    return absl::UnavailableError("a ledger row has vanished while it was looked at");
  }
  if (absl::string_view(PQgetvalue(result->get(), 0, 0)) ==
      absl::StrCat(static_cast<int64_t>(summary.checksum))) {
    return ImportOutcome::kDoneBefore;
  }
  if (absl::Status status = connection.Execute("ROLLBACK"); !status.ok()) return status;
  return absl::AlreadyExistsError(
      absl::StrCat("ALARM: engine ", engine, " sequence ", sequence,
                   " is in the database already, with other contents; neither was changed"));
}

// One file's part of a transaction. Whether it was done before shows in its ledger row.
absl::StatusOr<ImportOutcome> ImportOne(PgConnection& connection, const FileToImport& to_import,
                                        std::string* buffer, Rollup* rollup) {
  const TrafficFile& file = *to_import.file;
  const FileSummary& summary = *to_import.summary;
  const std::string& gateway =
      summary.spool.has_value() ? summary.spool->gateway : file.csv_gateway();
  const absl::StatusOr<bool> inserted =
      InsertLedgerRow(connection, summary, gateway, absl::CHexEscape(file.name()));
  if (!inserted.ok()) return inserted.status();
  if (!*inserted) return CompareWithLedger(connection, summary);
  if (absl::Status status = InsertGaps(connection, summary); !status.ok()) return status;

  static const auto* const copy = new std::string(
      absl::StrCat("COPY vpn_traffic (", kCopyColumns, ") FROM STDIN (FORMAT binary)"));
  if (absl::Status status = connection.CopyBegin(copy->c_str()); !status.ok()) return status;
  const CopyEncoder encoder(gateway);
  buffer->clear();
  CopyEncoder::AppendHeader(buffer);
  uint64_t row_number = 0;
  const absl::StatusOr<FileSummary> second =
      file.Read([&](absl::Span<const TrafficRow> rows) -> absl::Status {
        for (const TrafficRow& row : rows) {
          ++row_number;
          if (absl::Status status = encoder.Append(row, buffer); !status.ok()) {
            return absl::Status(status.code(),
                                absl::StrCat(summary.spool.has_value() ? "row " : "line ",
                                             row_number, ": ", status.message()));
          }
          if (buffer->size() < kCopyBufferBytes) continue;
          if (absl::Status status = connection.CopyData(*buffer); !status.ok()) return status;
          buffer->clear();
        }
        return rollup->Add(rows, gateway);
      });
  if (!second.ok()) return second.status();
  if (*second != summary) return absl::AbortedError("changed while it was read");
  CopyEncoder::AppendTrailer(buffer);
  if (absl::Status status = connection.CopyData(*buffer); !status.ok()) return status;
  const absl::StatusOr<uint64_t> taken = connection.CopyEnd();
  if (!taken.ok()) return taken.status();
  if (*taken != summary.row_count) {
    return absl::FailedPreconditionError(absl::StrCat("the database took ", *taken, " of ",
                                                      summary.row_count,
                                                      " rows (a trigger or rule on vpn_traffic?)"));
  }
  // A file of very many keys is larger than that by what it brings; no more is held than its own.
  if (rollup->full()) {
    if (absl::Status status = rollup->Flush(connection); !status.ok()) return status;
  }
  return ImportOutcome::kImported;
}

}  // namespace

absl::StatusOr<SchemaVersions> ReadSchemaVersions(PgConnection& connection) {
  SchemaVersions versions;
  versions.newest = kSchemaVersion;
  const absl::StatusOr<PgResult> table =
      connection.Query("SELECT to_regclass('ctacct_schema')", {});
  if (!table.ok()) return table.status();
  if (PQgetisnull(table->get(), 0, 0) != 0) return versions;
  const absl::StatusOr<int> found = SchemaVersion(connection);
  if (!found.ok()) return found.status();
  versions.found = *found;
  return versions;
}

absl::Status EnsureSchema(PgConnection& connection) {
  // Reading needs no lock and no right to create anything: an importer may run without.
  const absl::StatusOr<SchemaVersions> versions = ReadSchemaVersions(connection);
  if (!versions.ok()) return versions.status();
  if (versions->found == versions->newest) return absl::OkStatus();
  if (absl::Status status = CheckNotNewer(versions->found); !status.ok()) return status;
  return InLongTransaction(connection, [&connection] { return ApplySchemas(connection); });
}

absl::Status MakePartitions(PgConnection& connection, const std::set<int32_t>& days,
                            std::set<int32_t>* known_days) {
  std::vector<int32_t> missing;
  std::set_difference(days.begin(), days.end(), known_days->begin(), known_days->end(),
                      std::back_inserter(missing));
  if (missing.empty()) return absl::OkStatus();
  // A transaction each few: every table locks.
  for (size_t begin = 0; begin < missing.size(); begin += kDaysPerStatement) {
    const auto days_now = absl::MakeConstSpan(missing).subspan(begin, kDaysPerStatement);
    PgArray moments(PgType::kTimestamptz, 2 * days_now.size());
    for (const int32_t day : days_now) {
      // Steps that begin on a day may end on the next.
      moments.AppendTime(int64_t{day} * kNanosPerDay);
      moments.AppendTime((int64_t{day} + 1) * kNanosPerDay - kNanosPerMicro);
    }
    const absl::Status status =
        connection
            .QueryBinary("SELECT traffic_make_partitions($1::timestamptz[])",
                         {std::move(moments).bytes()})
            .status();
    if (!status.ok()) return status;
    known_days->insert(days_now.begin(), days_now.end());
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<ImportOutcome>> ImportTogether(PgConnection& connection,
                                                          absl::Span<const FileToImport> files,
                                                          std::set<int32_t>* known_days) {
  std::set<int32_t> days;
  for (const FileToImport& file : files) {
    days.insert(file.summary->days.begin(), file.summary->days.end());
  }
  const bool all_new = std::none_of(days.begin(), days.end(),
                                    [&](int32_t day) { return known_days->count(day) != 0; });
  // By itself: nobody waits for this transaction's lock until all the rows are in.
  if (absl::Status status = MakePartitions(connection, days, known_days); !status.ok()) {
    return status;
  }
  // READ COMMITTED, whatever the role's default is: a key that is taken must be seen, not raise an
  // error.
  if (absl::Status status = connection.Execute(
          "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL synchronous_commit = on");
      !status.ok()) {
    return status;
  }
  // Another importer's retention may have dropped what we have seen. Whatever else it was comes
  // again the next time, when no day is known.
  const auto partition_dropped = [&](const absl::Status& status) {
    // It may drop it again while we make it. (Of a server that speaks another language the second
    // time ends the run.)
    const bool no_partition = absl::StartsWith(status.message(), kSqlstateCheckViolation) &&
                              absl::StrContains(status.message(), "no partition of relation");
    if (!no_partition &&
        (all_new || !(absl::StartsWith(status.message(), kSqlstateCheckViolation) ||
                      absl::StartsWith(status.message(), kSqlstateInternalError)))) {
      return status;
    }
    known_days->clear();
    return absl::UnavailableError(status.message());
  };
  std::vector<ImportOutcome> outcomes;
  std::string buffer;
  buffer.reserve(kCopyBufferBytes + 2 * kCopyRowBytesMax);
  Rollup rollup;
  for (const FileToImport& file : files) {
    const absl::StatusOr<ImportOutcome> outcome = ImportOne(connection, file, &buffer, &rollup);
    if (!outcome.ok()) return partition_dropped(outcome.status());
    outcomes.push_back(*outcome);
  }
  if (absl::Status status = rollup.Flush(connection); !status.ok()) {
    return partition_dropped(status);
  }
  // What was done before leaves nothing to commit, so nothing whose end could stay unknown.
  const bool imported = std::any_of(outcomes.begin(), outcomes.end(), [](ImportOutcome outcome) {
    return outcome == ImportOutcome::kImported;
  });
  const absl::Status ended = imported ? connection.Commit() : connection.Execute("ROLLBACK");
  if (!ended.ok()) return ended;
  return outcomes;
}

absl::Status DropOldPartitions(PgConnection& connection, const std::string& tier, int days,
                               uint64_t* dropped_count) {
  const std::string days_text = absl::StrCat(days);
  std::string after;
  while (true) {
    std::string partition;
    bool dropped = false;
    absl::Status status = InLongTransaction(connection, [&]() -> absl::Status {
      const absl::StatusOr<PgResult> result = connection.Query(
          "SELECT partition, dropped FROM traffic_drop_partition($1, now() - make_interval(days => "
          "$2::integer), $3)",
          {tier.c_str(), days_text.c_str(), after.c_str()});
      if (!result.ok()) return result.status();
      if (PQntuples(result->get()) == 1) {
        partition = PQgetvalue(result->get(), 0, 0);
        dropped = PQgetvalue(result->get(), 0, 1)[0] == 't';
      }
      return absl::OkStatus();
    });
    if (!status.ok() || partition.empty()) return status;
    after = partition;
    if (dropped) ++*dropped_count;
    LogLine(dropped ? absl::StrCat("retention: dropped ", partition, ", older than ", days, " days")
                    : absl::StrCat("retention: ", partition, " stays: its rows are not all in the ",
                                   "rollups (SELECT * FROM traffic_check(..) says which)"));
  }
}

absl::StatusOr<uint64_t> AdoptTable(PgConnection& connection, const std::string& table,
                                    const std::string& gateway) {
  uint64_t rows = 0;
  bool before = false;
  absl::Status status = InLongTransaction(connection, [&]() -> absl::Status {
    std::string source = table;
    if (table == kFactsTable) {
      const absl::StatusOr<PgResult> ours =
          connection.Query("SELECT to_regclass('ctacct_schema')", {});
      if (!ours.ok()) return ours.status();
      // After the first time both have their new names.
      source = kAdoptedTable;
      if (PQgetisnull(ours->get(), 0, 0) != 0) {
        if (absl::Status renamed = connection.Execute(kRenameReference); !renamed.ok()) {
          return renamed;
        }
      }
    }
    if (absl::Status applied = ApplySchemas(connection); !applied.ok()) return applied;
    const absl::StatusOr<PgResult> result = connection.Query(
        "SELECT traffic_adopt($1::regclass, $2)", {source.c_str(), gateway.c_str()});
    if (!result.ok()) return result.status();
    before = PQgetisnull(result->get(), 0, 0) != 0;
    if (!before && !absl::SimpleAtoi(PQgetvalue(result->get(), 0, 0), &rows)) {
      return absl::InternalError("the database does not say how many rows it took over");
    }
    return absl::OkStatus();
  });
  if (absl::StartsWith(status.message(), kSqlstateOutOfMemory)) {
    return absl::FailedPreconditionError(absl::StrCat(
        status.message(), " (so many days at once: raise the server's max_locks_per_transaction)"));
  }
  if (!status.ok()) return status;
  if (before)
    return absl::AlreadyExistsError(absl::StrCat("table ", table, " was taken over before"));
  return rows;
}

}  // namespace ctacct
