#include "importer/doctor/flags.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <utility>

#include "absl/flags/flag.h"
#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "importer/postgres/connection_flags.h"

ABSL_FLAG(std::string, engine_flags, "/etc/ctacct/engine.flags",
          "the engine's flag file; empty: none; the default file may be missing");
ABSL_FLAG(std::string, importer_flags, "/etc/ctacct/importer.flags",
          "the importer's flag file; empty: none; the default file may be missing");
ABSL_FLAG(std::string, engine, "",
          "the engine's program (default: ctacct-engine or engine beside this one)");
ABSL_FLAG(std::string, engine_user, "",
          "user that the engine runs as (default: from its flag file, otherwise from its service, "
          "otherwise ctacct or nobody for root and the current user for others)");
ABSL_FLAG(std::string, output, "", "spool folder; overrides the engine's flag file");
ABSL_FLAG(std::string, mode, "", "precise or light; overrides the engine's flag file");
ABSL_FLAG(int, workers, 0, "number of workers; overrides the engine's flag file");
ABSL_FLAG(int, receive_buffer, 0, "receive buffer in bytes; overrides the engine's flag file");
ABSL_FLAG(
    bool, probe, true,
    "send a connection and a UDP flow over the loopback of a new network namespace and follow "
    "them through an engine into a spool file (needs root)");
ABSL_FLAG(bool, json, false, "print findings as JSON");

namespace ctacct {

const char kDoctorUsage[] =
    "usage: doctor [FLAGS]\n"
    "Checks whether this machine counts correctly, and prints a remedy for each problem.\n"
    "Changes nothing. Exit status 0: it does, perhaps with warnings; 1: it does not; 2: invalid\n"
    "flags.\n"
    "Each of -conninfo, -host, -db, -user and -pass overrides the importer's flag file.\n"
    "Without root it names the checks that it cannot do.";

namespace {

// The engine's defaults.
constexpr size_t kReceiveBufferBytesDefault = size_t{128} << 20;
constexpr size_t kIntervalSecondsDefault = 15;
// The engine's, of engine/accounting/worker.h.
constexpr int kWorkersMax = 8;
constexpr char kServicePassword[] = "/etc/ctacct/pgpass";

using FlagValues = std::map<std::string, std::string>;

std::string ValueOr(const FlagValues& values, const char* name, const std::string& otherwise) {
  const auto found = values.find(name);
  return found == values.end() ? otherwise : found->second;
}

// `given` unless it is 0, else the file's value. The engine itself is asked what is wrong in its
// flag file (CheckFlagFiles): here a bad value is none.
size_t NumberOr(int given, const FlagValues& values, const char* name, size_t otherwise) {
  int number = given;
  if (number == 0 && !absl::SimpleAtoi(ValueOr(values, name, ""), &number)) return otherwise;
  return number > 0 ? static_cast<size_t>(number) : otherwise;
}

// If the default file is missing or may not be read: no values, and *path is emptied. *unread gets
// the reason if it is there.
absl::StatusOr<FlagValues> ReadFlags(bool given, std::string* path, std::string* unread) {
  if (path->empty()) return FlagValues();
  if (!given && access(path->c_str(), R_OK) != 0) {
    if (errno != ENOENT && errno != ENOTDIR) {
      absl::StrAppend(unread, unread->empty() ? "" : "; ", *path, ": ", std::strerror(errno));
    }
    path->clear();
    return FlagValues();
  }
  return ReadFlagValues(*path);
}

// A program of ours: by its installed name beside this one, by its own beside it, or in Bazel's
// output.
std::string FindProgram(const std::string& folder, const std::string& name) {
  for (const std::string& path :
       {absl::StrCat(folder, "/ctacct-", name), absl::StrCat(folder, "/../../", name, "/", name),
        absl::StrCat(folder, "/", name)}) {
    std::error_code ignored;
    if (std::filesystem::is_regular_file(path, ignored) && access(path.c_str(), X_OK) == 0) {
      return std::filesystem::weakly_canonical(path, ignored);
    }
  }
  return "";
}

// The user of the installed service; empty: there is none.
std::string ServiceUser() {
  for (const char* const folder :
       {"/etc/systemd/system/", "/usr/lib/systemd/system/", "/lib/systemd/system/"}) {
    std::ifstream unit(absl::StrCat(folder, "ctacct-engine.service"));
    for (std::string line; std::getline(unit, line);) {
      absl::string_view user = line;
      if (absl::ConsumePrefix(&user, "User=")) return std::string(absl::StripAsciiWhitespace(user));
    }
  }
  return "";
}

absl::Status BadFlag(absl::string_view flag, absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat("flag -", flag, ": ", why));
}

absl::Status FillEngine(const FlagValues& values, DoctorOptions* options) {
  options->output = absl::GetFlag(FLAGS_output);
  if (options->output.empty()) options->output = ValueOr(values, "output", "");
  options->state = ValueOr(values, "state", "");
  options->engine_metrics = ValueOr(values, "metrics_file", "");
  std::string mode = absl::GetFlag(FLAGS_mode);
  if (mode.empty()) mode = ValueOr(values, "mode", "precise");
  if (mode != "precise" && mode != "light") return BadFlag("mode", "must be precise or light");
  options->light = mode == "light";
  options->skips_local =
      ValueOr(values, "local", "count") == "skip" || !ValueOr(values, "src", "").empty();
  options->workers = NumberOr(absl::GetFlag(FLAGS_workers), values, "workers", 0);
  options->receive_buffer_bytes = NumberOr(absl::GetFlag(FLAGS_receive_buffer), values,
                                           "receive_buffer", kReceiveBufferBytesDefault);
  options->interval_seconds = NumberOr(0, values, "interval", kIntervalSecondsDefault);

  std::string user = absl::GetFlag(FLAGS_engine_user);
  const bool given = !user.empty();
  if (user.empty()) user = ValueOr(values, "user", "");
  // The service's user belongs to the service's settings.
  if (user.empty() && !options->engine_flags.empty()) user = ServiceUser();
  if (user.empty() && geteuid() != 0) return absl::OkStatus();
  const absl::StatusOr<UserAccount> account =
      user.empty() ? UnprivilegedUser() : FindUserAccount(user);
  if (account.ok()) {
    options->engine_user = *account;
  } else if (given) {
    return BadFlag("engine-user", account.status().message());
  }
  return absl::OkStatus();
}

absl::Status FillDatabase(const FlagValues& values, DoctorOptions* options) {
  absl::StatusOr<PgOptions> of_command_line = ConnectionOptionsFromFlags();
  if (!of_command_line.ok()) return of_command_line.status();
  PgOptions& database = options->database;
  database = *std::move(of_command_line);
  const auto fill = [&values](const char* name, std::string* to) {
    if (to->empty()) *to = ValueOr(values, name, "");
  };
  fill("conninfo", &database.conninfo);
  fill("host", &database.host);
  fill("db", &database.database);
  fill("user", &database.user);
  fill("pass", &database.password);
  if (options->output.empty()) options->output = ValueOr(values, "watch", "");
  options->importer_metrics = ValueOr(values, "metrics_file", "");
  for (const char* const tier : {"rows", "fine", "10m", "1h"}) {
    const size_t days = NumberOr(0, values, absl::StrCat("retention_", tier).c_str(), 0);
    if (days != 0) options->retention_days[tier] = static_cast<int>(days);
  }
  options->has_database = !options->importer_flags.empty() || !database.conninfo.empty() ||
                          !database.host.empty() || !database.database.empty();
  for (const char* const name : {"PGHOST", "PGDATABASE", "PGSERVICE"}) {
    if (std::getenv(name) != nullptr) options->has_database = true;
  }
  if (absl::Status status = CheckConnection(database); !status.ok()) return status;
  // The service's importer gets its password from there.
  struct stat info {};
  if (!options->importer_flags.empty() && access(kServicePassword, R_OK) == 0 &&
      stat(kServicePassword, &info) == 0 && info.st_size > 0) {
    setenv("PGPASSFILE", kServicePassword, /*overwrite=*/0);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<DoctorOptions> DoctorOptionsFromFlags(const CommandLine& line) {
  if (absl::Status status = CheckArguments(line.arguments); !status.ok()) return status;
  if (!line.arguments.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("unexpected argument ", QuotedForLog(line.arguments[0])));
  }
  if (absl::GetFlag(FLAGS_workers) < 0 || absl::GetFlag(FLAGS_workers) > kWorkersMax) {
    return BadFlag("workers", absl::StrCat("must be at most ", kWorkersMax));
  }
  if (absl::GetFlag(FLAGS_receive_buffer) < 0) {
    return BadFlag("receive-buffer", "must not be negative");
  }
  const auto given = [&line](const char* flag) {
    return std::find(line.flags_set.begin(), line.flags_set.end(), flag) != line.flags_set.end();
  };
  DoctorOptions options;
  options.probe = absl::GetFlag(FLAGS_probe);
  options.json = absl::GetFlag(FLAGS_json);
  std::error_code ignored;
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", ignored);
  options.doctor_program = self;
  options.engine_program = absl::GetFlag(FLAGS_engine);
  if (options.engine_program.empty()) {
    options.engine_program = FindProgram(self.parent_path(), "engine");
  } else if (access(options.engine_program.c_str(), X_OK) != 0) {
    return BadFlag("engine", absl::StrCat(options.engine_program, ": ", std::strerror(errno)));
  }
  options.importer_program = FindProgram(self.parent_path(), "importer");
  options.engine_flags = absl::GetFlag(FLAGS_engine_flags);
  options.importer_flags = absl::GetFlag(FLAGS_importer_flags);
  const absl::StatusOr<FlagValues> engine =
      ReadFlags(given("engine_flags"), &options.engine_flags, &options.unread_flags);
  if (!engine.ok()) return engine.status();
  const absl::StatusOr<FlagValues> importer =
      ReadFlags(given("importer_flags"), &options.importer_flags, &options.unread_flags);
  if (!importer.ok()) return importer.status();
  if (absl::Status status = FillEngine(*engine, &options); !status.ok()) return status;
  if (absl::Status status = FillDatabase(*importer, &options); !status.ok()) return status;
  return options;
}

}  // namespace ctacct
