#include "importer/tables/load_names.h"

#include <memory>
#include <optional>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "engine/rows/network.h"
#include "importer/tables/versions.h"
#include "xxhash.h"

namespace ctacct {
namespace {

constexpr char kInsertLedger[] =
    "INSERT INTO import_ledger (engine, sequence, checksum, row_count, gateway, source_file, "
    "names_time) VALUES ($1, $2, $3, 0, $4, $5, $6) ON CONFLICT DO NOTHING";
constexpr char kCopy[] =
    "COPY traffic_names_arriving (writer, sequence, network, name, source, began, ended) "
    "FROM STDIN";
constexpr size_t kCopyBufferBytes = 256 * 1024;

struct HashStateDeleter {
  void operator()(XXH3_state_t* state) const { XXH3_freeState(state); }
};

// In microseconds, as the database has them.
std::string TimeText(int64_t ns) {
  return absl::FormatTime("%Y-%m-%d %H:%M:%E6S+00", absl::FromUnixNanos(ns), absl::UTCTimeZone());
}

std::string NanosText(const std::optional<int64_t>& ns) {
  return ns.has_value() ? absl::StrCat(*ns) : "";
}

// Of all that the file says. A file encodes a snapshot in one way only.
int64_t ChecksumOf(const NamesSnapshot& snapshot) {
  const std::unique_ptr<XXH3_state_t, HashStateDeleter> hash(XXH3_createState());
  XXH3_64bits_reset(hash.get());
  std::string text = absl::StrCat(snapshot.gateway, "\t", snapshot.time_ns, "\n");
  XXH3_64bits_update(hash.get(), text.data(), text.size());
  for (const NamesEntry& entry : snapshot.entries) {
    text = absl::StrCat(NetworkText(entry.network), "\t", entry.name, "\t",
                        NameSourceText(entry.source), "\t", NanosText(entry.from_ns), "\t",
                        NanosText(entry.to_ns), "\n");
    XXH3_64bits_update(hash.get(), text.data(), text.size());
  }
  return static_cast<int64_t>(XXH3_64bits_digest(hash.get()));
}

absl::Status CopyEntries(PgConnection& connection, const NamesSnapshot& snapshot) {
  if (absl::Status status = connection.CopyBegin(kCopy); !status.ok()) return status;
  const std::string key = absl::StrCat(EngineIdText(snapshot.writer), "\t", snapshot.sequence);
  const auto time = [](const std::optional<int64_t>& ns) {
    return ns.has_value() ? TimeText(*ns) : "\\N";
  };
  std::string buffer;
  for (const NamesEntry& entry : snapshot.entries) {
    // A name has no controls, so a backslash is all that COPY would take for something else.
    absl::StrAppend(&buffer, key, "\t", NetworkText(entry.network), "\t",
                    absl::StrReplaceAll(entry.name, {{"\\", "\\\\"}}), "\t",
                    NameSourceText(entry.source), "\t");
    absl::StrAppend(&buffer, time(entry.from_ns), "\t", time(entry.to_ns), "\n");
    if (buffer.size() < kCopyBufferBytes) continue;
    if (absl::Status status = connection.CopyData(buffer); !status.ok()) return status;
    buffer.clear();
  }
  if (absl::Status status = connection.CopyData(buffer); !status.ok()) return status;
  const absl::StatusOr<uint64_t> taken = connection.CopyEnd();
  if (!taken.ok()) return taken.status();
  if (*taken == snapshot.entries.size()) return absl::OkStatus();
  return absl::FailedPreconditionError(
      "the database did not take all names (a trigger or rule on traffic_names_arriving?)");
}

}  // namespace

absl::StatusOr<NamesOutcome> LoadNames(PgConnection& connection, const NamesSnapshot& snapshot,
                                       const std::string& file_name) {
  const std::string writer = EngineIdText(snapshot.writer);
  const std::string sequence = absl::StrCat(snapshot.sequence);
  const std::string checksum = absl::StrCat(ChecksumOf(snapshot));
  if (absl::Status status = connection.Begin(); !status.ok()) return status;
  const absl::StatusOr<PgResult> inserted = connection.Query(
      kInsertLedger, {writer.c_str(), sequence.c_str(), checksum.c_str(), snapshot.gateway.c_str(),
                      absl::CHexEscape(file_name).c_str(), TimeText(snapshot.time_ns).c_str()});
  if (!inserted.ok()) return inserted.status();
  NamesOutcome outcome;
  if (absl::string_view(PQcmdTuples(inserted->get())) != "1") {
    const absl::StatusOr<PgResult> held = connection.Query(
        "SELECT checksum FROM import_ledger WHERE engine = $1 AND sequence = $2 AND names_time IS "
        "NOT NULL",
        {writer.c_str(), sequence.c_str()});
    if (!held.ok()) return held.status();
    if (absl::Status status = connection.Execute("ROLLBACK"); !status.ok()) return status;
    if (PQntuples(held->get()) == 1 && checksum == PQgetvalue(held->get(), 0, 0)) return outcome;
    return absl::AlreadyExistsError(
        absl::StrCat("ALARM: names of writer ", writer, " sequence ", sequence,
                     " are in the database already, with other contents; neither was changed"));
  }
  if (absl::Status status = CopyEntries(connection, snapshot); !status.ok()) return status;
  const absl::StatusOr<PgResult> loaded =
      connection.Query("SELECT changed, until IS NULL FROM traffic_load_names($1, $2)",
                       {writer.c_str(), sequence.c_str()});
  if (!loaded.ok()) return loaded.status();
  if (!absl::SimpleAtoi(PQgetvalue(loaded->get(), 0, 0), &outcome.changed)) {
    return absl::InternalError("the database does not say what the names changed");
  }
  outcome.newest = PQgetvalue(loaded->get(), 0, 1)[0] == 't';
  outcome.outcome = ImportOutcome::kImported;
  absl::Status status = CheckVersion(connection, OurSteps());
  if (status.ok()) status = connection.Commit();
  if (!status.ok()) return status;
  return outcome;
}

}  // namespace ctacct
