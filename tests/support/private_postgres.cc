#include "tests/support/private_postgres.h"

#include <libpq-fe.h>
#include <sys/types.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "tests/support/subprocess.h"

namespace ctacct {
namespace {

constexpr absl::Duration kScriptAtMost = absl::Minutes(2);

std::string ScriptPath() {
  const char* const other = std::getenv("CTACCT_POSTGRES_SCRIPT");
  return other != nullptr ? other : DataPath("tests/support/private_postgres.sh");
}

}  // namespace

absl::Status PrivatePostgres::Script(const std::string& command, const std::string& option) const {
  return RunProcessOrError({ScriptPath(), command, folder_, option}, kScriptAtMost).status();
}

absl::StatusOr<std::unique_ptr<PrivatePostgres>> PrivatePostgres::Start() {
  const absl::StatusOr<std::string> available =
      RunProcessOrError({ScriptPath(), "available"}, kScriptAtMost);
  if (!available.ok()) return absl::UnavailableError(available.status().message());
  // Not the test's own folder: its path may be too long for a socket, and closed to the server's
  // user.
  std::string folder = "/tmp/ctacct_pg.XXXXXX";
  if (mkdtemp(folder.data()) == nullptr) return absl::ErrnoToStatus(errno, "mkdtemp");
  std::unique_ptr<PrivatePostgres> postgres(new PrivatePostgres(folder));
  if (absl::Status status = postgres->Restart(); !status.ok()) return status;
  return postgres;
}

PrivatePostgres::~PrivatePostgres() {
  (void)StopImmediately();
  std::error_code ignored;
  std::filesystem::remove_all(folder_, ignored);
}

absl::Status PrivatePostgres::StopImmediately() { return Script("stop", "--immediate"); }

absl::Status PrivatePostgres::Restart() { return Script("start", "--no-fsync"); }

absl::Status PrivatePostgres::MakeDatabase(const std::string& name) const {
  return Script("database", name);
}

std::vector<std::string> PrivatePostgres::Stores() const {
  std::vector<std::string> folders;
  // As citus_cluster.sh names them.
  for (int number = 1;; ++number) {
    const std::string folder = absl::StrCat(folder_, "/worker", number);
    if (!std::filesystem::exists(folder)) break;
    folders.push_back(folder);
  }
  if (folders.empty()) folders.push_back(folder_);
  return folders;
}

absl::Status PrivatePostgres::Kill(const std::string& folder) {
  pid_t pid = 0;
  std::ifstream(folder + "/data/postmaster.pid") >> pid;
  if (pid <= 1) return absl::NotFoundError(absl::StrCat("no server runs in ", folder));
  return kill(pid, SIGKILL) == 0 ? absl::OkStatus() : absl::ErrnoToStatus(errno, "kill");
}

std::string PrivatePostgres::ConninfoOf(const std::string& folder, const std::string& database,
                                        const std::string& user) {
  return absl::StrCat("host=", folder, " user=", user, " dbname=", database);
}

absl::StatusOr<std::string> PrivatePostgres::SqlOf(const std::string& folder,
                                                   const std::string& database,
                                                   const std::string& sql) {
  const std::unique_ptr<PGconn, void (*)(PGconn*)> connection(
      PQconnectdb(ConninfoOf(folder, database).c_str()), [](PGconn* c) { PQfinish(c); });
  if (PQstatus(connection.get()) != CONNECTION_OK) {
    return absl::UnavailableError(PQerrorMessage(connection.get()));
  }
  const std::unique_ptr<PGresult, void (*)(PGresult*)> result(PQexec(connection.get(), sql.c_str()),
                                                              [](PGresult* r) { PQclear(r); });
  const ExecStatusType state = PQresultStatus(result.get());
  if (state != PGRES_TUPLES_OK && state != PGRES_COMMAND_OK) {
    return absl::InternalError(PQerrorMessage(connection.get()));
  }
  std::string text;
  for (int row = 0; row < PQntuples(result.get()); ++row) {
    if (row != 0) text.push_back('\n');
    for (int column = 0; column < PQnfields(result.get()); ++column) {
      absl::StrAppend(&text, column == 0 ? "" : "|", PQgetvalue(result.get(), row, column));
    }
  }
  return text;
}

}  // namespace ctacct
