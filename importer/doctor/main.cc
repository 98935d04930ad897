// doctor: says in one screen whether this machine will count right, and what to type where not.
// Changes nothing: what it tries, it tries in a network namespace of its own.
#include <dirent.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "engine/system/command_line.h"
#include "importer/doctor/checks.h"
#include "importer/doctor/findings.h"
#include "importer/postgres/connection_flags.h"

ABSL_FLAG(std::string, engine_flags, "/etc/ctacct/engine.flags",
          "the engine's flag file: what it says is what is looked at; the default is passed over "
          "where it is missing, an empty name is none");
ABSL_FLAG(std::string, importer_flags, "/etc/ctacct/importer.flags",
          "the importer's flag file, likewise");
ABSL_FLAG(std::string, engine, "",
          "the engine's program; empty: ctacct-engine or engine beside this one");
ABSL_FLAG(std::string, engine_user, "",
          "user that the engine runs as; empty: that of its flag file, else that of its service, "
          "else the caller");
ABSL_FLAG(std::string, output, "", "spool folder; overrides the engine's flag file");
ABSL_FLAG(std::string, mode, "", "precise or light; overrides the engine's flag file");
ABSL_FLAG(int, workers, 0, "as the engine's; overrides its flag file");
ABSL_FLAG(int, receive_buffer, 0, "as the engine's; overrides its flag file");
ABSL_FLAG(bool, probe, true,
          "send a connection and a UDP flow over the loopback of a network namespace of its own, "
          "and follow them through an engine into a spool file (root)");
ABSL_FLAG(bool, json, false, "findings as JSON");

namespace ctacct {
namespace {

constexpr char kProgram[] = "doctor";
constexpr char kUsage[] =
    "usage: doctor [FLAGS]\n"
    "Says in one screen whether this machine will count right, and what to type where not. "
    "Changes\n"
    "nothing. Exit status 0: it will, perhaps with warnings; 1: it will not; 2: bad usage.\n"
    "Each of -conninfo, -host, -db, -user and -pass overrides the importer's flag file.\n"
    "Without root it does what it can, and says what it could not see.";

// The engine's, where nobody says otherwise.
constexpr size_t kReceiveBufferBytesDefault = size_t{128} << 20;
constexpr int64_t kIntervalSecondsDefault = 15;
constexpr char kServicePassword[] = "/etc/ctacct/pgpass";

struct Check {
  const char* name;
  Finding (*look)(Examination& examination);
};

// In the order of an event's way.
constexpr Check kChecks[] = {
    {"kernel", CheckKernel},
    {"acct", CheckAcct},
    {"timestamp", CheckTimestamp},
    {"events", CheckEvents},
    {"table", CheckTable},
    {"buckets", CheckBuckets},
    {"conntrack on", CheckTracking},
    {"untracked", CheckUntracked},
    {"flowtables", CheckFlowtables},
    {"listeners", CheckListeners},
    {"capability", CheckCapability},
    {"receive buffer", CheckReceiveBuffer},
    {"clock", CheckClock},
    {"flag files", CheckFlagFiles},
    {"spool", CheckSpool},
    {"space", CheckSpace},
    {"backlog", CheckBacklog},
    {"database", CheckDatabase},
    {"schema", CheckSchema},
    {"role", CheckRole},
    {"database clock", CheckDatabaseClock},
    {"probe", CheckProbe},
};

using FlagValues = std::map<std::string, std::string>;

std::string ValueOr(const FlagValues& values, const char* name, const std::string& otherwise) {
  const auto found = values.find(name);
  return found == values.end() ? otherwise : found->second;
}

// Empty values, and *path emptied, where the default is not there. *unread gets the reason if it is
// there and not for the caller's eyes.
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

// Whom the installed service runs as; empty: there is none.
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
  std::string mode = absl::GetFlag(FLAGS_mode);
  if (mode.empty()) mode = ValueOr(values, "mode", "precise");
  if (mode != "precise" && mode != "light") return BadFlag("mode", "must be precise or light");
  options->light = mode == "light";
  // What a flag file says wrong the engine itself is asked about.
  int number = 0;
  options->workers = static_cast<size_t>(absl::GetFlag(FLAGS_workers));
  if (options->workers == 0 && absl::SimpleAtoi(ValueOr(values, "workers", ""), &number) &&
      number > 0) {
    options->workers = static_cast<size_t>(number);
  }
  options->receive_buffer_bytes = static_cast<size_t>(absl::GetFlag(FLAGS_receive_buffer));
  if (options->receive_buffer_bytes == 0) {
    options->receive_buffer_bytes =
        absl::SimpleAtoi(ValueOr(values, "receive_buffer", ""), &number) && number > 0
            ? static_cast<size_t>(number)
            : kReceiveBufferBytesDefault;
  }
  options->interval_seconds =
      absl::SimpleAtoi(ValueOr(values, "interval", ""), &number) ? number : kIntervalSecondsDefault;

  std::string user = absl::GetFlag(FLAGS_engine_user);
  const bool given = !user.empty();
  if (user.empty()) user = ValueOr(values, "user", "");
  // The service's user belongs to the service's settings.
  if (user.empty() && !options->engine_flags.empty()) user = ServiceUser();
  if (user.empty()) return absl::OkStatus();
  const absl::StatusOr<UserAccount> account = FindUserAccount(user);
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
  for (const char* const flag :
       {"retention_rows", "retention_fine", "retention_10m", "retention_1h"}) {
    if (ValueOr(values, flag, "0") != "0") options->importer_drops_partitions = true;
  }
  options->has_database = !options->importer_flags.empty() || !database.conninfo.empty() ||
                          !database.host.empty() || !database.database.empty();
  for (const char* const name : {"PGHOST", "PGDATABASE", "PGSERVICE"}) {
    if (std::getenv(name) != nullptr) options->has_database = true;
  }
  if (absl::Status status = CheckConninfo(database.conninfo); !status.ok()) {
    return BadFlag("conninfo", status.message());
  }
  // The service's importer gets its password from there.
  struct stat info {};
  if (!options->importer_flags.empty() && access(kServicePassword, R_OK) == 0 &&
      stat(kServicePassword, &info) == 0 && info.st_size > 0) {
    setenv("PGPASSFILE", kServicePassword, /*overwrite=*/0);
  }
  return absl::OkStatus();
}

absl::StatusOr<DoctorOptions> MakeOptions(const CommandLine& line) {
  if (!line.arguments.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("unexpected argument ", QuotedForLog(line.arguments[0])));
  }
  if (absl::GetFlag(FLAGS_workers) < 0) return BadFlag("workers", "must not be negative");
  if (absl::GetFlag(FLAGS_receive_buffer) < 0) {
    return BadFlag("receive-buffer", "must not be negative");
  }
  const auto given = [&line](const char* flag) {
    return std::find(line.flags_set.begin(), line.flags_set.end(), flag) != line.flags_set.end();
  };
  DoctorOptions options;
  options.probe = absl::GetFlag(FLAGS_probe);
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

bool WantsColour() {
  const char* const terminal = std::getenv("TERM");
  return isatty(STDOUT_FILENO) != 0 && std::getenv("NO_COLOR") == nullptr && terminal != nullptr &&
         absl::string_view(terminal) != "dumb";
}

int Main(int argc, char** argv) {
  const absl::StatusOr<CommandLine> line = ParseCommandLine(argc, argv);
  if (!line.ok()) {
    PrintError(kProgram, line.status());
    return kExitUsageError;
  }
  if (line->help) {
    std::fputs(FlagsHelp(kUsage).c_str(), stdout);
    return kExitOk;
  }
  absl::StatusOr<DoctorOptions> options = MakeOptions(*line);
  if (!options.ok()) {
    PrintError(kProgram, options.status());
    return kExitUsageError;
  }
  HideSecrets(argc, argv);
  signal(SIGPIPE, SIG_IGN);
  // nft, psql's relatives and iptables-save are of the administrator's folders.
  const char* const path = std::getenv("PATH");
  setenv("PATH", absl::StrCat(path == nullptr ? "/usr/bin:/bin" : path, ":/usr/sbin:/sbin").c_str(),
         /*overwrite=*/1);
  Examination examination;
  examination.options = *std::move(options);
  std::vector<Finding> findings;
  for (const Check& check : kChecks) {
    findings.push_back(check.look(examination));
    findings.back().name = check.name;
  }
  const std::string report =
      absl::GetFlag(FLAGS_json) ? ReportJson(findings) : ReportText(findings, WantsColour());
  if (std::fwrite(report.data(), 1, report.size(), stdout) != report.size() ||
      std::fflush(stdout) != 0) {
    PrintError(kProgram, absl::DataLossError("standard output cannot be written"));
    return kExitOperatingError;
  }
  return AnyFailed(findings) ? kExitOperatingError : kExitOk;
}

}  // namespace
}  // namespace ctacct

int main(int argc, char** argv) { return ctacct::Main(argc, argv); }
