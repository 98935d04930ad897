// report: one HTML page that shows the traffic of the gateways, out of the database.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <filesystem>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "engine/system/command_line.h"
#include "engine/system/durable_file.h"
#include "importer/postgres/connection_flags.h"
#include "importer/report/flags.h"
#include "importer/report/queries.h"

namespace ctacct {
namespace {

constexpr char kProgram[] = "report";

constexpr char kPage[] =
#include "importer/report/report_page.inc"
    ;                          // NOLINT(whitespace/semicolon)
constexpr int kExitFound = 1;  // Something is missing, or somebody is over -over.
constexpr absl::string_view kDataPlace = "@DATA@";

std::string FolderOf(const std::string& path) {
  const std::filesystem::path parts(path);
  return parts.has_parent_path() ? parts.parent_path().string() : ".";
}

// Before the database is asked: the folder may not be ours to write to, and a device or FIFO must
// not be replaced.
absl::Status CheckOutput(const std::string& path) {
  struct stat info {};
  if (lstat(path.c_str(), &info) == 0) {
    if (!S_ISREG(info.st_mode)) {
      return absl::FailedPreconditionError(
          absl::StrCat(path, ": is there and is no regular file; it is not replaced"));
    }
  } else if (errno != ENOENT) {
    return FileError("write", path, errno);
  }
  const std::string folder = FolderOf(path);
  if (faccessat(AT_FDCWD, folder.c_str(), W_OK | X_OK, AT_EACCESS) != 0) {
    return FileError("make files in folder", folder, errno);
  }
  return absl::OkStatus();
}

absl::StatusOr<Answer> Ask(const ReportConfig& config) {
  if (config.check) return AskCheck(config);
  if (config.format != Format::kPage) return AskTables(config);
  const absl::StatusOr<std::string> data = AskPage(config);
  if (!data.ok()) return data.status();
  const absl::string_view page = kPage;
  const size_t place = page.find(kDataPlace);
  return Answer{absl::StrCat(page.substr(0, place), *data, page.substr(place + kDataPlace.size()))};
}

absl::Status Write(const ReportConfig& config, bool* found) {
  const bool to_file = config.output != "-";
  if (to_file) {
    if (absl::Status status = CheckOutput(config.output); !status.ok()) return status;
  }
  const absl::StatusOr<Answer> answer = Ask(config);
  if (!answer.ok()) return answer.status();
  *found = answer->found;
  if (!to_file) return WriteToStdout(answer->text);
  absl::StatusOr<DurableFile> file =
      DurableFile::Create(FolderOf(config.output), std::filesystem::path(config.output).filename());
  if (!file.ok()) return file.status();
  if (absl::Status status = file->Append(answer->text); !status.ok()) return status;
  if (config.mode.has_value()) {
    if (absl::Status status = file->SetMode(*config.mode); !status.ok()) return status;
  }
  return file->Replace();
}

int Main(int argc, char** argv) {
  const absl::StatusOr<CommandLine> line = ParseCommandLine(argc, argv);
  HideSecrets(argc, argv);
  if (!line.ok()) {
    PrintError(kProgram, line.status());
    return kExitUsageError;
  }
  std::signal(SIGPIPE, SIG_IGN);  // A reader may stop reading: an error, not the end of us.
  if (line->help)
    return WriteToStdout(FlagsHelp(kReportUsage)).ok() ? kExitOk : kExitOperatingError;
  const absl::StatusOr<ReportConfig> config = ReportConfigFromFlags(*line);
  if (!config.ok()) {
    PrintError(kProgram, config.status());
    return kExitUsageError;
  }
  bool found = false;
  if (const absl::Status status = Write(*config, &found); !status.ok()) {
    PrintError(kProgram, status);
    return kExitOperatingError;
  }
  return found ? kExitFound : kExitOk;
}

}  // namespace
}  // namespace ctacct

int main(int argc, char** argv) { return ctacct::Main(argc, argv); }
