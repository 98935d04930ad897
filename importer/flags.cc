#include "importer/flags.h"

#include <string>
#include <utility>

#include "absl/flags/flag.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/rows/gateway_name.h"
#include "importer/postgres/connection_flags.h"

ABSL_FLAG(std::string, watch, "", "spool folder to load: the files in it, then each new file");
ABSL_FLAG(std::string, move, "",
          "folder for loaded files, created if it is missing (default: they are deleted)");
ABSL_FLAG(bool, once, false, "with -watch: load the files in the folder, then exit");
ABSL_FLAG(
    std::string, gateway, "",
    "gateway of CSV files, which do not contain one, and label of the metrics (default there: the "
    "host name). Without it, if two CSV files are equal, only the first is loaded and the second "
    "stays");
ABSL_FLAG(bool, check_flags, false, "check the flags, and exit");
ABSL_FLAG(bool, migrate, false, "create or upgrade the tables, then exit; loads no files");
ABSL_FLAG(std::string, adopt, "",
          "copy the rows of this table of the Go tool as rows of -gateway, then exit; a table "
          "vpn_traffic is renamed to vpn_traffic_reference");
ABSL_FLAG(std::string, metrics_file, "",
          "file for Prometheus metrics (text format), replaced every few seconds and at the end; "
          "readable by everybody. If it cannot be written, the importer logs that and continues");
ABSL_FLAG(int, retention_rows, 0,
          "days after which rows of vpn_traffic are dropped, in whole partitions; 0: never");
ABSL_FLAG(int, retention_fine, 0,
          "days after which rollups of intervals and minutes are dropped; 0: never");
ABSL_FLAG(int, retention_10m, 0, "days after which rollups of ten minutes are dropped; 0: never");
ABSL_FLAG(int, retention_1h, 0, "days after which rollups of hours are dropped; 0: never");
ABSL_FLAG(int, transaction_files, 240,
          "largest number of files of a backlog in one transaction, which also ends at about four "
          "million rows");

namespace ctacct {

const char kImporterUsage[] =
    "usage: importer [FLAGS] [FILE...]\n"
    "Loads spool and CSV files into PostgreSQL, each exactly once: the named files, then those in\n"
    "the -watch folder, then each new file there.\n"
    "Files are deleted when their rows are durable in the database, unless -move names a folder.\n"
    "Without -host, -db, -user, -pass and -conninfo, libpq's settings apply: PGHOST,\n"
    "PGDATABASE, PGSERVICE, ~/.pgpass.";
namespace {

// Each file of a transaction holds a descriptor. The default is an hour of files at the default
// interval.
constexpr int kTransactionFilesMax = 500;

// With -migrate nothing else has one, so that it can be added to a service's flag file.
constexpr FlagRule kFlagRules[] = {
    {"move", FlagRule::Kind::kRefuses, "adopt"},
    {"transaction-files retention-rows retention-fine retention-10m retention-1h",
     FlagRule::Kind::kNeeds, "watch"},
};

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
    if (tier.days < 0) return BadFlag(tier.flag, "must be a number of days, or 0");
    if (tier.days != 0) {
      if (&tier != finer && (finer->days == 0 || tier.days < finer->days)) {
        return BadFlag(tier.flag, absl::StrCat("must not be shorter than -", finer->flag));
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
  config.check_only = absl::GetFlag(FLAGS_check_flags);
  config.files = line.arguments;
  config.watch = absl::GetFlag(FLAGS_watch);
  config.move = absl::GetFlag(FLAGS_move);
  config.gateway = absl::GetFlag(FLAGS_gateway);
  config.once = absl::GetFlag(FLAGS_once);
  config.metrics_file = absl::GetFlag(FLAGS_metrics_file);
  config.adopt = absl::GetFlag(FLAGS_adopt);
  config.migrate = absl::GetFlag(FLAGS_migrate);
  const int transaction_files = absl::GetFlag(FLAGS_transaction_files);
  if (transaction_files < 1 || transaction_files > kTransactionFilesMax) {
    return BadFlag("transaction-files", absl::StrCat("must be 1 to ", kTransactionFilesMax));
  }
  config.transaction_files = static_cast<size_t>(transaction_files);
  if (absl::Status status = FillRetention(&config); !status.ok()) return status;
  if (absl::Status status = CheckFlagRules(kFlagRules); !status.ok()) return status;
  const bool imports = !config.watch.empty() || !config.files.empty();
  if (!config.adopt.empty() && imports) {
    return BadFlag("adopt", "cannot be combined with files or -watch");
  }
  if (config.migrate && (!config.files.empty() || !config.adopt.empty())) {
    return BadFlag("migrate", "cannot be combined with files or -adopt");
  }
  // Files may be named beside a flag file.
  if (config.adopt.empty() && !config.migrate && !config.check_only && !imports) {
    return absl::InvalidArgumentError(
        "nothing to load: give -watch=FOLDER or files; --help lists all flags");
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
