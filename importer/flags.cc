#include "importer/flags.h"

#include <string>
#include <utility>

#include "absl/flags/flag.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/rows/gateway_name.h"
#include "importer/postgres/connection_flags.h"

ABSL_FLAG(std::string, watch, "", "spool folder to import: the files in it, then each new one");
ABSL_FLAG(std::string, move, "", "folder for imported files; without it they are deleted");
ABSL_FLAG(bool, once, false, "with -watch: import what is there, then exit");
ABSL_FLAG(
    std::string, gateway, "",
    "gateway of the rows of CSV files, which do not name one (without it, of two equal CSV files "
    "only the first is loaded, and the second stays), and label of the metrics (there the host name "
    "by default)");
ABSL_FLAG(std::string, adopt, "",
          "take over the rows of a table that the Go tool's importer made, as rows of -gateway, "
          "then exit; vpn_traffic itself is renamed to vpn_traffic_reference");
ABSL_FLAG(std::string, metrics_file, "",
          "file for Prometheus metrics (text format), replaced every few seconds and at the end; "
          "everybody may read it. If it cannot be written, that is logged, and importing goes on");
ABSL_FLAG(int, retention_rows, 0,
          "days after which rows of vpn_traffic are dropped, a partition at a time; 0: never");
ABSL_FLAG(int, retention_fine, 0,
          "days after which rollups of intervals and minutes are dropped; 0: never");
ABSL_FLAG(int, retention_10m, 0, "days after which rollups of ten minutes are dropped; 0: never");
ABSL_FLAG(int, retention_1h, 0, "days after which rollups of hours are dropped; 0: never");
ABSL_FLAG(int, transaction_files, 240,
          "most files of a backlog in one transaction (it ends at about four million rows anyway)");

namespace ctacct {

const char kImporterUsage[] =
    "usage: importer [FLAGS] [FILE...]\n"
    "Loads spool and CSV files into PostgreSQL, each exactly once: the files named, then those in\n"
    "the -watch folder, then each new file there.\n"
    "Files are deleted once their rows are durable in the database, unless -move names a folder.\n"
    "Without -host, -db, -user, -pass and -conninfo libpq's own settings apply: PGHOST,\n"
    "PGDATABASE, PGSERVICE, ~/.pgpass.";
namespace {

// Each file of a transaction holds a descriptor. The default is an hour of files at the default
// interval.
constexpr int kTransactionFilesMax = 500;

absl::Status BadFlag(absl::string_view flag, absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat("flag -", flag, ": ", why));
}

absl::Status FillRetention(ImporterConfig* config) {
  // From fine to coarse: rows are needed to check the rollups made of them, and finer rollups to
  // answer what coarser ones cannot.
  const struct {
    const char* tier;
    const char* flag;
    int days;
  } tiers[] = {{"rows", "retention-rows", absl::GetFlag(FLAGS_retention_rows)},
               {"fine", "retention-fine", absl::GetFlag(FLAGS_retention_fine)},
               {"10m", "retention-10m", absl::GetFlag(FLAGS_retention_10m)},
               {"1h", "retention-1h", absl::GetFlag(FLAGS_retention_1h)}};
  const auto* finer = &tiers[0];
  for (const auto& tier : tiers) {
    if (tier.days < 0) return BadFlag(tier.flag, "days, or 0");
    if (tier.days != 0) {
      if (&tier != finer && (finer->days == 0 || tier.days < finer->days)) {
        return BadFlag(tier.flag, absl::StrCat("not shorter than -", finer->flag));
      }
      config->retention.emplace_back(tier.tier, tier.days);
    }
    finer = &tier;
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ImporterConfig> ImporterConfigFromFlags(const CommandLine& line) {
  if (absl::Status status = CheckArguments(line.arguments); !status.ok()) return status;
  ImporterConfig config;
  config.files = line.arguments;
  config.watch = absl::GetFlag(FLAGS_watch);
  config.move = absl::GetFlag(FLAGS_move);
  config.gateway = absl::GetFlag(FLAGS_gateway);
  config.once = absl::GetFlag(FLAGS_once);
  config.metrics_file = absl::GetFlag(FLAGS_metrics_file);
  config.adopt = absl::GetFlag(FLAGS_adopt);
  const int transaction_files = absl::GetFlag(FLAGS_transaction_files);
  if (transaction_files < 1 || transaction_files > kTransactionFilesMax) {
    return BadFlag("transaction-files", absl::StrCat("from 1 to ", kTransactionFilesMax));
  }
  config.transaction_files = static_cast<size_t>(transaction_files);
  if (absl::Status status = FillRetention(&config); !status.ok()) return status;
  const bool imports = !config.watch.empty() || !config.files.empty();
  if (!config.adopt.empty() && imports) {
    return BadFlag("adopt", "by itself, without files or -watch");
  }
  if (config.adopt.empty() && !imports) {
    return absl::InvalidArgumentError(
        "nothing to import: give -watch=FOLDER or files; --help says more");
  }
  absl::StatusOr<PgOptions> database = ConnectionOptionsFromFlags();
  if (!database.ok()) return database.status();
  config.database = *std::move(database);
  if (absl::Status status = CheckGatewayName(config.gateway); !status.ok()) {
    return BadFlag("gateway", status.message());
  }
  return config;
}

}  // namespace ctacct
