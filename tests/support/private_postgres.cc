#include "tests/support/private_postgres.h"

#include <libpq-fe.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
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

std::string PrivatePostgres::Conninfo(const std::string& database, const std::string& user) const {
  return absl::StrCat("host=", folder_, " user=", user, " dbname=", database);
}

absl::StatusOr<std::string> PrivatePostgres::Sql(const std::string& database,
                                                 const std::string& sql) const {
  const std::unique_ptr<PGconn, void (*)(PGconn*)> connection(
      PQconnectdb(Conninfo(database).c_str()), [](PGconn* c) { PQfinish(c); });
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
