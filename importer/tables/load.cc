#include "importer/tables/load.h"

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/rows/gap.h"
#include "engine/rows/row_text.h"
#include "engine/system/check.h"
#include "importer/postgres/pg_binary.h"
#include "importer/tables/copy_encoder.h"
#include "importer/tables/partitions.h"
#include "importer/tables/rollup.h"
#include "importer/tables/row_order.h"
#include "importer/tables/schema_rights.h"

namespace ctacct {
namespace {

// The name of its index may be the same as that of ours.
constexpr char kRenameGoToolsTable[] =
    "ALTER INDEX IF EXISTS vpn_traffic_time RENAME TO vpn_traffic_time_reference; "
    "ALTER TABLE vpn_traffic RENAME TO vpn_traffic_reference";

constexpr char kInsertLedger[] =
    "INSERT INTO import_ledger (engine, sequence, checksum, row_count, interval_end, "
    "interval_length, completeness, events_dropped, flows_lost, gateway, source_file, covered_from, "
    "covered_to, ports_checksum, src_mask, dst_mask, src_mask6, dst_mask6, mode, source_identity) "
    "VALUES ($1, $2, $3, $4, timestamptz 'epoch' + $5::bigint * interval '1 microsecond', "
    "$6::bigint * interval '1 microsecond', $7, $8, $9, $10, $11, "
    "timestamptz 'epoch' + $12::bigint * interval '1 microsecond', "
    "timestamptz 'epoch' + $13::bigint * interval '1 microsecond', $14, $15, $16, $17, $18, $19, $20) "
    "ON CONFLICT DO NOTHING";

// All gaps of a file at once. Arrays of numbers and of our own words: nothing to escape.
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

constexpr char kAddCovered[] =
    "SELECT traffic_add_covered($1::timestamptz[], $2::text[], $3::bigint[])";

// Large enough for few system calls, small enough to stay in the cache on its way to the socket.
constexpr size_t kCopyBufferBytes = 512 * 1024;
// Rows that are sorted together: an interval of a provider, 24 MB. The more, the fewer pages of the
// table have rows of one source.
constexpr size_t kSortedRows = 200'000;
// Rows that are sent and then added to the rollup. Small enough to stay in the cache.
constexpr size_t kBatchRows = 2000;
constexpr int64_t kNanosPerMicro = 1000;
constexpr int64_t kHalfHourNs = 1'800'000'000'000;

// How the messages of these errors begin.
constexpr char kSqlstateCheckViolation[] = "SQLSTATE 23514";  // Also: no partition for the row.
constexpr char kSqlstateOutOfMemory[] = "SQLSTATE 53200";     // Also: no room for more locks.

// A value as text, or NULL.
using Parameter = std::optional<std::string>;

absl::StatusOr<PgResult> Query(PgConnection& connection, const char* sql,
                               const std::vector<Parameter>& parameters) {
  std::vector<const char*> values;
  values.reserve(parameters.size());
  for (const Parameter& each : parameters) {
    values.push_back(each.has_value() ? each->c_str() : nullptr);
  }
  return connection.Query(sql, values);
}

const std::string& GatewayOf(const FileToImport& file) {
  return file.summary->spool.has_value() ? file.summary->spool->gateway : file.file->csv_gateway();
}

std::string Mask6Text(const Mask6& mask) {
  char text[INET6_ADDRSTRLEN];
  return {text, PutAddress(text, AddressFamily::kIpv6, mask)};
}

// Identifies a CSV file of no named gateway, because the contents are not enough: another gateway
// may write an equal file. NULL for all others: engines number their files, and two equal files of
// a named gateway are copies.
Parameter IdentityText(const FileToImport& file) {
  if (file.summary->spool.has_value() || !file.file->csv_gateway().empty()) return Parameter();
  const FileIdentity& identity = file.file->identity();
  return absl::StrCat(identity.device, ":", identity.inode, ":", identity.modified_ns);
}

// True if the row was inserted, false if the key is taken.
absl::StatusOr<bool> InsertLedgerRow(PgConnection& connection, const FileToImport& file) {
  const FileSummary& summary = *file.summary;
  const SpoolHeader* const spool = summary.spool.has_value() ? &*summary.spool : nullptr;
  const uint64_t dropped = spool != nullptr ? spool->events_dropped : 0;
  uint64_t lost = 0;
  for (const Gap& gap : summary.gaps) lost += gap.flows_lost;
  std::vector<Parameter> of_spool(11);
  if (spool != nullptr) {
    of_spool = {absl::StrCat(spool->interval_end_ns / kNanosPerMicro),
                absl::StrCat(spool->interval_length_ns / kNanosPerMicro),
                CompletenessName(spool->completeness),
                absl::StrCat(spool->covered_from_ns / kNanosPerMicro),
                absl::StrCat(spool->covered_to_ns / kNanosPerMicro),
                spool->ports_checksum == 0
                    ? Parameter()
                    : absl::StrCat(static_cast<int64_t>(spool->ports_checksum)),
                absl::StrJoin(spool->src_mask, "."),
                absl::StrJoin(spool->dst_mask, "."),
                Mask6Text(spool->src_mask6),
                Mask6Text(spool->dst_mask6),
                spool->light ? "light" : "precise"};
  }
  const absl::StatusOr<PgResult> result =
      Query(connection, kInsertLedger,
            {EngineIdText(summary.engine_id),
             absl::StrCat(summary.sequence),
             absl::StrCat(static_cast<int64_t>(summary.checksum)),
             absl::StrCat(summary.row_count),
             of_spool[0],
             of_spool[1],
             of_spool[2],
             absl::StrCat(dropped),
             absl::StrCat(lost),
             GatewayOf(file),
             absl::CHexEscape(file.file->name()),
             of_spool[3],
             of_spool[4],
             of_spool[5],
             of_spool[6],
             of_spool[7],
             of_spool[8],
             of_spool[9],
             of_spool[10],
             IdentityText(file)});
  if (!result.ok()) return result.status();
  return absl::string_view(PQcmdTuples(result->get())) == "1";
}

// A gap is rounded to the microseconds that contain it.
int64_t FloorMicros(int64_t ns) { return ns / kNanosPerMicro - (ns % kNanosPerMicro < 0 ? 1 : 0); }
int64_t CeilMicros(int64_t ns) { return ns / kNanosPerMicro + (ns % kNanosPerMicro > 0 ? 1 : 0); }

absl::Status InsertGaps(PgConnection& connection, const FileSummary& summary) {
  if (summary.gaps.empty()) return absl::OkStatus();
  CTACCT_CHECK(summary.spool.has_value());  // CSV files have no gaps.
  const SpoolHeader& header = *summary.spool;
  const auto array = [&summary](const auto& value_of) {
    std::string text = "{";
    for (const Gap& gap : summary.gaps) {
      absl::StrAppend(&text, text.size() > 1 ? "," : "", value_of(gap));
    }
    text.push_back('}');
    return text;
  };
  const absl::StatusOr<PgResult> result =
      Query(connection, kInsertGaps,
            {header.gateway, EngineIdText(header.engine_id), absl::StrCat(header.sequence),
             absl::StrCat(header.interval_end_ns / kNanosPerMicro),
             array([](const Gap& gap) { return FloorMicros(gap.began_ns); }),
             array([](const Gap& gap) { return CeilMicros(gap.ended_ns); }),
             array([](const Gap& gap) { return GapCauseName(gap.cause); }),
             array([](const Gap& gap) { return CompletenessName(gap.completeness); }),
             array([](const Gap& gap) { return gap.events_dropped; }),
             array([](const Gap& gap) { return gap.flows_lost; })});
  if (!result.ok()) return result.status();
  if (absl::string_view(PQcmdTuples(result->get())) != absl::StrCat(summary.gaps.size())) {
    return absl::FailedPreconditionError(
        "the database did not take all gaps (a trigger or rule on traffic_gaps?)");
  }
  return absl::OkStatus();
}

// For a file whose key is in the ledger: whether it is the same file. AlreadyExists if its contents
// are not those of the ledger's file.
absl::StatusOr<ImportOutcome> CompareWithLedger(PgConnection& connection,
                                                const FileToImport& file) {
  const FileSummary& summary = *file.summary;
  const std::string engine = EngineIdText(summary.engine_id);
  const absl::StatusOr<PgResult> result =
      Query(connection,
            "SELECT checksum, source_identity IS NOT DISTINCT FROM $3 FROM import_ledger "
            "WHERE engine = $1 AND sequence = $2",
            {engine, absl::StrCat(summary.sequence), IdentityText(file)});
  if (!result.ok()) return result.status();
  if (PQntuples(result->get()) != 1) {
    return absl::UnavailableError("a ledger row has vanished while it was looked at");
  }
  if (absl::string_view(PQgetvalue(result->get(), 0, 0)) ==
      absl::StrCat(static_cast<int64_t>(summary.checksum))) {
    const bool same_file = PQgetvalue(result->get(), 0, 1)[0] == 't';
    return same_file ? ImportOutcome::kDoneBefore : ImportOutcome::kSameAsAnother;
  }
  if (absl::Status status = connection.Execute("ROLLBACK"); !status.ok()) return status;
  return absl::AlreadyExistsError(
      absl::StrCat("ALARM: engine ", engine, " sequence ", summary.sequence,
                   " is in the database already, with other contents; neither was changed"));
}

// What the files of a transaction add to traffic_covered: microseconds by the end of the half hour
// and the gateway. Sorted, so importers cannot deadlock.
class CoveredTimes {
 public:
  void Add(const SpoolHeader& header) {
    Microseconds& sum =
        sums_.try_emplace(KeyOf(header.interval_end_ns, header.gateway), 0).first->second;
    // Each moment is rounded as in the ledger, so that what follows each other adds up.
    if (sum.has_value()) {
      *sum += header.covered_to_ns / kNanosPerMicro - header.covered_from_ns / kNanosPerMicro;
    }
  }
  // Rows that do not say what was observed.
  void NoteUnknown(absl::Span<const TrafficRow> rows, const std::string& gateway) {
    int64_t last_ns = -1;
    for (const TrafficRow& row : rows) {
      if (std::exchange(last_ns, row.time_ns) == row.time_ns) continue;
      sums_[KeyOf(row.time_ns, gateway)] = std::nullopt;
    }
  }

  [[nodiscard]] absl::Status Flush(PgConnection& connection) {
    if (sums_.empty()) return absl::OkStatus();
    PgArray times(PgType::kTimestamptz, sums_.size());
    PgArray gateways(PgType::kText, sums_.size());
    PgArray sums(PgType::kInt8, sums_.size());
    for (const auto& [key, sum] : sums_) {
      times.AppendTime(key.first);
      gateways.AppendText(key.second);
      sums.AppendInt8(sum.value_or(kUnknown));
    }
    sums_.clear();
    return connection
        .QueryBinary(kAddCovered, {std::move(times).bytes(), std::move(gateways).bytes(),
                                   std::move(sums).bytes()})
        .status();
  }

 private:
  static constexpr int64_t kUnknown = -1;  // As traffic_add_covered takes it.
  using Key = std::pair<int64_t, std::string>;
  using Microseconds = std::optional<int64_t>;  // None: unknown.

  // Of a time that is the end of an interval, from 1970 on.
  static Key KeyOf(int64_t time_ns, const std::string& gateway) {
    return {(time_ns + kHalfHourNs - 1) / kHalfHourNs * kHalfHourNs, gateway};
  }

  std::map<Key, Microseconds> sums_;
};

// COPY of a file's rows into vpn_traffic. Begins with the first row that is added, and again with
// the next row after End: within a COPY the server takes no other statement.
class RowCopy {
 public:
  // `buffer` is reused from file to file.
  RowCopy(PgConnection& connection, const std::string& gateway, std::string* buffer)
      : connection_(connection), encoder_(gateway), buffer_(*buffer) {
    buffer_.clear();
  }

  [[nodiscard]] absl::Status Add(const TrafficRow& row) {
    if (!begun_) {
      static const auto* const copy = new std::string(
          absl::StrCat("COPY vpn_traffic (", kCopyColumns, ") FROM STDIN (FORMAT binary)"));
      if (absl::Status status = connection_.CopyBegin(copy->c_str()); !status.ok()) return status;
      begun_ = true;
      CopyEncoder::AppendHeader(&buffer_);
    }
    encoder_.Append(row, &buffer_);
    ++rows_;
    return buffer_.size() < kCopyBufferBytes ? absl::OkStatus() : Send();
  }

  [[nodiscard]] absl::Status End() {
    if (!std::exchange(begun_, false)) return absl::OkStatus();
    CopyEncoder::AppendTrailer(&buffer_);
    if (absl::Status status = Send(); !status.ok()) return status;
    const absl::StatusOr<uint64_t> taken = connection_.CopyEnd();
    if (!taken.ok()) return taken.status();
    const uint64_t sent = std::exchange(rows_, 0);
    if (*taken == sent) return absl::OkStatus();
    return absl::FailedPreconditionError(absl::StrCat("the database took ", *taken, " of ", sent,
                                                      " rows (a trigger or rule on vpn_traffic?)"));
  }

 private:
  [[nodiscard]] absl::Status Send() {
    absl::Status status = connection_.CopyData(buffer_);
    buffer_.clear();
    return status;
  }

  PgConnection& connection_;
  const CopyEncoder encoder_;
  std::string& buffer_;
  bool begun_ = false;
  uint64_t rows_ = 0;  // Since it was begun.
};

// What is reused from file to file.
struct CopyBuffers {
  std::string bytes;
  std::vector<TrafficRow> rows;
  RowOrder order;
};

absl::Status CopyRows(PgConnection& connection, const FileToImport& file, CopyBuffers* buffers,
                      Rollup* rollup, CoveredTimes* covered) {
  const FileSummary& summary = *file.summary;
  RowCopy copy(connection, GatewayOf(file), &buffers->bytes);
  std::vector<TrafficRow>& rows = buffers->rows;
  rows.clear();
  rows.reserve(std::min<uint64_t>(summary.row_count, kSortedRows));
  uint64_t row_number = 0;
  const auto copy_sorted = [&]() -> absl::Status {
    std::vector<TrafficRow> batch;
    const absl::Span<const uint32_t> order = buffers->order.Sort(rows);
    for (size_t begin = 0; begin < order.size(); begin += kBatchRows) {
      batch.clear();
      for (const uint32_t index : order.subspan(begin, kBatchRows)) {
        batch.push_back(rows[index]);
        if (absl::Status status = copy.Add(batch.back()); !status.ok()) return status;
      }
      // Meanwhile the server works on what it was sent.
      rollup->Add(batch, GatewayOf(file));
      if (!rollup->full()) continue;
      if (absl::Status status = copy.End(); !status.ok()) return status;
      if (absl::Status status = rollup->Flush(connection); !status.ok()) return status;
    }
    rows.clear();
    return absl::OkStatus();
  };
  const absl::StatusOr<FileSummary> second =
      file.file->Read([&](absl::Span<const TrafficRow> read) -> absl::Status {
        row_number += read.size();
        if (!summary.spool.has_value()) covered->NoteUnknown(read, GatewayOf(file));
        for (const TrafficRow& row : read) {
          // A CSV file has several intervals.
          if (rows.size() == kSortedRows || (!rows.empty() && rows.back().time_ns != row.time_ns)) {
            if (absl::Status status = copy_sorted(); !status.ok()) return status;
          }
          rows.push_back(row);
        }
        return absl::OkStatus();
      });
  if (!second.ok()) return second.status();
  if (*second != summary) return absl::AbortedError("changed while it was read");
  CTACCT_CHECK(row_number == summary.row_count);
  if (absl::Status status = copy_sorted(); !status.ok()) return status;
  return copy.End();
}

absl::StatusOr<std::vector<ImportOutcome>> ImportInTransaction(PgConnection& connection,
                                                               absl::Span<const FileToImport> files,
                                                               SchemaSteps steps) {
  if (absl::Status status = connection.Begin(); !status.ok()) return status;
  std::vector<ImportOutcome> outcomes;
  CopyBuffers buffers;
  buffers.bytes.reserve(kCopyBufferBytes + 2 * kCopyRowBytesMax);
  Rollup rollup;
  CoveredTimes covered;
  uint64_t ledger_rows = 0;  // The rows that the ledger says are in the database.
  for (const FileToImport& file : files) {
    const absl::StatusOr<bool> inserted = InsertLedgerRow(connection, file);
    if (!inserted.ok()) return inserted.status();
    if (!*inserted) {
      const absl::StatusOr<ImportOutcome> outcome = CompareWithLedger(connection, file);
      if (!outcome.ok()) return outcome.status();
      outcomes.push_back(*outcome);
      continue;
    }
    absl::Status status = InsertGaps(connection, *file.summary);
    if (status.ok()) status = CopyRows(connection, file, &buffers, &rollup, &covered);
    if (!status.ok()) return status;
    if (file.summary->spool.has_value()) covered.Add(*file.summary->spool);
    ledger_rows += file.summary->row_count;
    outcomes.push_back(ImportOutcome::kImported);
  }
  if (absl::Status status = rollup.Flush(connection); !status.ok()) return status;
  if (absl::Status status = covered.Flush(connection); !status.ok()) return status;
  CTACCT_CHECK(outcomes.size() == files.size());
  CTACCT_CHECK(rollup.flushed_rows() == ledger_rows);
  // If all files were done before, there is no COMMIT whose outcome could stay unknown.
  const bool imported = std::count(outcomes.begin(), outcomes.end(), ImportOutcome::kImported) > 0;
  absl::Status status = CheckVersion(connection, steps);
  if (status.ok()) status = imported ? connection.Commit() : connection.Execute("ROLLBACK");
  if (!status.ok()) return status;
  return outcomes;
}

}  // namespace

absl::StatusOr<std::vector<ImportOutcome>> ImportTogether(PgConnection& connection,
                                                          absl::Span<const FileToImport> files,
                                                          std::set<int32_t>* known_days,
                                                          SchemaSteps steps) {
  std::set<int32_t> days;
  for (const FileToImport& file : files) {
    days.insert(file.summary->days.begin(), file.summary->days.end());
  }
  const bool all_new = std::none_of(days.begin(), days.end(),
                                    [&](int32_t day) { return known_days->count(day) != 0; });
  // In their own transaction: other importers would wait for its lock until all rows are in.
  if (absl::Status status = MakePartitions(connection, days, known_days); !status.ok()) {
    return status;
  }
  CTACCT_CHECK(std::includes(known_days->begin(), known_days->end(), days.begin(), days.end()));
  absl::StatusOr<std::vector<ImportOutcome>> outcomes =
      ImportInTransaction(connection, files, steps);
  if (outcomes.ok()) return outcomes;
  // The retention of another importer may have dropped a partition since we saw it, or even since
  // we made it. Any other cause of these errors comes again at the next try, when no day is known.
  const absl::string_view error = outcomes.status().message();
  const bool check_violation = absl::StartsWith(error, kSqlstateCheckViolation);
  // (A server whose messages are in another language ends the second try as an error.)
  const bool no_partition = check_violation && absl::StrContains(error, "no partition of relation");
  if (!no_partition && (all_new || !check_violation)) return outcomes;
  known_days->clear();
  return absl::UnavailableError(error);
}

absl::StatusOr<uint64_t> AdoptTable(PgConnection& connection, const std::string& table,
                                    const std::string& gateway) {
  if (absl::Status status = CheckSchemaRights(connection); !status.ok()) return status;
  std::optional<uint64_t> rows;
  absl::Status status = InLongTransaction(connection, [&]() -> absl::Status {
    std::string source = table;
    if (table == "vpn_traffic") {
      // The first time this is the Go tool's table; after that it is ours.
      source = "vpn_traffic_reference";
      const absl::StatusOr<SchemaVersions> versions = ReadSchemaVersions(connection);
      if (!versions.ok()) return versions.status();
      if (versions->found == 0) {
        if (absl::Status renamed = connection.Execute(kRenameGoToolsTable); !renamed.ok()) {
          return renamed;
        }
      }
    }
    if (absl::Status applied = ApplySteps(connection); !applied.ok()) return applied;
    const absl::StatusOr<PgResult> result =
        Query(connection, "SELECT traffic_adopt($1::regclass, $2)", {source, gateway});
    if (!result.ok()) return result.status();
    if (PQgetisnull(result->get(), 0, 0) != 0) return absl::OkStatus();
    if (!absl::SimpleAtoi(PQgetvalue(result->get(), 0, 0), &rows.emplace())) {
      return absl::InternalError("the database does not say how many rows it took over");
    }
    return absl::OkStatus();
  });
  if (absl::StartsWith(status.message(), kSqlstateOutOfMemory)) {
    return absl::FailedPreconditionError(absl::StrCat(
        status.message(),
        " (rows of too many days in one transaction: raise the server's max_locks_per_transaction)"));
  }
  if (!status.ok()) return status;
  if (rows.has_value()) return *rows;
  return absl::AlreadyExistsError(absl::StrCat("table ", table, " was taken over before"));
}

}  // namespace ctacct
