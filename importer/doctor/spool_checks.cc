// The doctor's checks of flag files and of the spool folder.
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "engine/spool/spool_backlog.h"
#include "engine/system/durable_file.h"
#include "engine/system/privileges.h"
#include "importer/doctor/checks.h"
#include "importer/doctor/child.h"
#include "importer/files/disposal.h"

namespace ctacct {
namespace {

// The state of an engine that was given no folder for it, within its -output.
constexpr char kStateFolder[] = ".ctacct";
constexpr absl::Duration kAnswerMax = absl::Seconds(10);
// Enough for a few intervals of a busy gateway, and for about an hour.
constexpr uint64_t kFreeBytesFail = uint64_t{64} << 20;
constexpr uint64_t kFreeBytesWarn = uint64_t{1} << 30;
constexpr uint64_t kFreeInodesFail = 100;
constexpr uint64_t kFreeInodesWarn = 10'000;
// An importer that runs takes each file within seconds.
constexpr absl::Duration kBacklogWarn = absl::Minutes(10);
constexpr int kBacklogIntervalsWarn = 10;

std::string GroupName(gid_t gid) {
  const group* const entry = getgrgid(gid);
  return entry == nullptr ? absl::StrCat(gid) : entry->gr_name;
}

std::string UserName(const DoctorOptions& options) {
  return options.engine_user.has_value() ? options.engine_user->name
         : geteuid() == 0                ? "root"
                                         : absl::StrCat(geteuid());
}

// 0, or the errno with which the engine would fail: it has given up root's override of file modes.
// -1: unknown.
int ErrorForEngine(const DoctorOptions& options) {
  const absl::StatusOr<std::unique_ptr<Child>> child = Child::Fork([&options] {
    Privileges::Options rights;
    // Only root can become another user; CheckSpool has made sure that nobody else has to.
    if (options.engine_user.has_value() && geteuid() == 0) rights.user = &*options.engine_user;
    if (!Privileges::Drop(rights).ok()) return 255;
    return faccessat(AT_FDCWD, options.output.c_str(), W_OK | X_OK, AT_EACCESS) == 0 ? 0 : errno;
  });
  if (!child.ok()) return -1;
  const std::optional<int> status = (*child)->Wait(kAnswerMax);
  return status.has_value() && *status < 128 ? *status : -1;
}

// The file with the bad line, as in "port list /FILE:2: ..."; otherwise the flag file.
std::string FileToEdit(const std::string& said, const std::string& flags) {
  const std::vector<std::string> parts = absl::StrSplit(said, ':');
  for (size_t i = 1; i < parts.size(); ++i) {
    uint64_t line;
    const size_t path = parts[i - 1].find('/');
    if (path != std::string::npos && absl::SimpleAtoi(parts[i], &line)) {
      return parts[i - 1].substr(path);
    }
  }
  return flags;
}

}  // namespace

Finding CheckFlagFiles(Examination& examination) {
  const DoctorOptions& options = examination.options;
  std::vector<std::string> good;
  // The engine looks at files as its user, which only root can become. Otherwise --help, which
  // comes last, shows that all before it is understood.
  const bool as_engine = geteuid() == 0 || !options.engine_user.has_value();
  const std::tuple<const std::string&, const std::string&, const char*> programs[] = {
      {options.engine_program, options.engine_flags, as_engine ? "-check-flags" : "--help"},
      {options.importer_program, options.importer_flags, "-check-flags"}};
  for (const auto& [program, flags, check] : programs) {
    if (flags.empty() || program.empty()) continue;
    const std::vector<std::string> argv = {program, absl::StrCat("-flagfile=", flags), check};
    const absl::StatusOr<std::unique_ptr<Child>> child = Child::Start(argv);
    if (!child.ok()) return Skip(std::string(child.status().message()));
    if (const std::optional<int> status = (*child)->Wait(kAnswerMax); status != 0) {
      const std::string said = (*child)->LastError();
      return Fail(!said.empty()         ? said
                  : !status.has_value() ? absl::StrCat(program, " ", check, " does not end")
                                        : absl::StrCat(program, ": exit status ", *status),
                  {absl::StrCat("sensible-editor ", ShellQuoted(FileToEdit(said, flags)))});
    }
    good.push_back(flags);
  }
  if (!options.unread_flags.empty()) return Skip(options.unread_flags);
  if (good.empty()) return Skip("none given, and none in /etc/ctacct");
  return Ok(absl::StrJoin(good, ", "));
}

Finding CheckSpool(Examination& examination) {
  const DoctorOptions& options = examination.options;
  if (options.output.empty()) return Skip("none named; -output=FOLDER, or -engine-flags=FILE");
  const std::string user = UserName(options);
  const std::string folder = ShellQuoted(options.output);
  struct stat info {};
  if (stat(options.output.c_str(), &info) != 0) {
    if (errno != ENOENT) {
      return Fail(absl::StrCat(options.output, ": ", strerror(errno)),
                  {absl::StrCat("namei -l ", folder)});
    }
    const std::string owner =
        options.engine_user.has_value()
            ? absl::StrCat("-m 2770 -o ", user, " -g ", GroupName(options.engine_user->gid), " ")
            : "";
    return Fail(absl::StrCat(options.output, ": there is no such folder"),
                {absl::StrCat("install -d ", owner, folder)});
  }
  if (!S_ISDIR(info.st_mode)) {
    return Fail(absl::StrCat(options.output, ": is no folder"), {absl::StrCat("ls -l ", folder)});
  }
  if (geteuid() != 0 && options.engine_user.has_value() && options.engine_user->uid != geteuid()) {
    return Skip(
        absl::StrCat(options.output, ": only root can see whether ", user, " may write there"));
  }
  const int error = ErrorForEngine(options);
  if (error < 0) return Skip(absl::StrCat(options.output, ": cannot look as user ", user));
  if (error == 0) {
    const std::string own_state = absl::StrCat(options.output, "/", kStateFolder);
    std::error_code ignored;
    if (!options.state.empty() && std::filesystem::exists(own_state, ignored) &&
        !std::filesystem::equivalent(own_state, options.state, ignored)) {
      return Warn(absl::StrCat(own_state,
                               " is another engine's state: two engines that write to "
                               "one folder count everything twice"),
                  {absl::StrCat("rm -r ", ShellQuoted(own_state), "   # if no engine uses it")});
    }
    return Ok(absl::StrCat(options.output, ", ", user, " may write there"));
  }
  if (error != EACCES) return Fail(absl::StrCat(options.output, ": ", strerror(error)), {});
  return Fail(absl::StrCat(options.output, ": user ", user, " may not write there",
                           user == "root" ? " (the engine gives up root's override)" : ""),
              {absl::StrCat("chown ", user, " ", folder, " && chmod u+rwx ", folder),
               absl::StrCat("namei -l ", folder, "   # if it is a folder above")});
}

Finding CheckMetricsFiles(Examination& examination) {
  const DoctorOptions& options = examination.options;
  if (options.engine_metrics.empty() && options.importer_metrics.empty()) {
    return Ok("none is configured");
  }
  if (options.engine_metrics == options.importer_metrics) {
    return Fail(absl::StrCat("engine and importer both write ", options.engine_metrics,
                             ": each overwrites the other's"),
                {absl::StrCat("sensible-editor ", ShellQuoted(options.importer_flags))});
  }
  std::vector<std::string> shown;
  for (const std::string& path : {options.engine_metrics, options.importer_metrics}) {
    if (path.empty()) continue;
    const std::string folder = std::filesystem::path(path).parent_path();
    if (const absl::Status there = OpenFolder(folder.empty() ? "." : folder).status();
        absl::IsNotFound(there)) {
      return Warn(absl::StrCat(folder, ": there is no such folder"),
                  {absl::StrCat("install -d ", ShellQuoted(folder))});
    }
    shown.push_back(path);
  }
  return Ok(absl::StrJoin(shown, ", "));
}

Finding CheckSpace(Examination& examination) {
  const std::string& output = examination.options.output;
  struct statvfs space {};
  if (output.empty()) return Skip("no spool folder");
  if (statvfs(output.c_str(), &space) != 0) {
    return Skip(absl::StrCat("the spool folder cannot be looked at: ", strerror(errno)));
  }
  const uint64_t bytes = uint64_t{space.f_bavail} * space.f_frsize;
  const uint64_t inodes = space.f_favail;
  const bool counts_inodes = space.f_files != 0;
  const std::string shown = absl::StrCat(
      BytesText(bytes), counts_inodes ? absl::StrCat(" and ", inodes, " inodes") : "", " free");
  const std::vector<std::string> remedies = {
      absl::StrCat("df -h ", ShellQuoted(output), "; df -i ", ShellQuoted(output)),
      "systemctl start ctacct-importer   # takes what waits there away"};
  // Rows then wait in the engine's memory.
  if (bytes < kFreeBytesFail || (counts_inodes && inodes < kFreeInodesFail)) {
    return Fail(absl::StrCat(shown, ": files cannot be written for long"), remedies);
  }
  if (bytes < kFreeBytesWarn || (counts_inodes && inodes < kFreeInodesWarn)) {
    return Warn(shown, remedies);
  }
  return Ok(shown);
}

Finding CheckBacklog(Examination& examination) {
  const DoctorOptions& options = examination.options;
  if (options.output.empty()) return Skip("no spool folder");
  if (const absl::Status folder = OpenFolder(options.output).status(); !folder.ok()) {
    return Skip(std::string(folder.message()));
  }
  const std::string failed_path = absl::StrCat(options.output, "/", kFailedFolder);
  const uint64_t failed =
      SpoolBacklogMeter(failed_path,
                        [](absl::string_view name) { return absl::EndsWith(name, kReasonSuffix); })
          .Measure()
          .files;
  if (failed != 0) {
    return Warn(
        absl::StrCat(CountText(failed, "file"), " in ", failed_path, ", not in the database"),
        {absl::StrCat("tail -n +1 ", ShellQuoted(failed_path), "/*.reason")});
  }
  const SpoolBacklog waiting = SpoolBacklogMeter(options.output).Measure();
  if (waiting.files == 0) return Ok("no file waits for the importer");
  const absl::Duration age =
      absl::Trunc(absl::Now() - absl::FromUnixNanos(waiting.oldest_ns), absl::Seconds(1));
  const std::string shown = absl::StrCat(
      CountText(waiting.files, "file"), ", ", BytesText(waiting.bytes), ", the oldest ",
      age > absl::ZeroDuration() ? absl::FormatDuration(age) : "less than 1s", " old");
  if (age >
      std::max(kBacklogWarn, kBacklogIntervalsWarn * absl::Seconds(options.interval_seconds))) {
    return Warn(absl::StrCat(shown, ": does the importer run?"),
                {"systemctl status ctacct-importer"});
  }
  return Ok(shown);
}

}  // namespace ctacct
