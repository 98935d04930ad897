// A throwaway PostgreSQL cluster of a test's own, by way of private_postgres.sh: real server, Unix
// socket only, nothing of the machine's own PostgreSQL touched. Thread-compatible.
//
// CTACCT_POSTGRES_SCRIPT=/PATH: a script of the same usage that starts something else instead, say
// a cluster of several servers whose coordinator listens where the one server would.
#ifndef CTACCT_TESTS_SUPPORT_PRIVATE_POSTGRES_H_
#define CTACCT_TESTS_SUPPORT_PRIVATE_POSTGRES_H_

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace ctacct {

class PrivatePostgres {
 public:
  // Unavailable, with the reason, if PostgreSQL is not installed. Without fsync: what the tests
  // kill is the server, not the machine, and the page cache survives that.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<PrivatePostgres>> Start();

  PrivatePostgres(const PrivatePostgres&) = delete;
  PrivatePostgres& operator=(const PrivatePostgres&) = delete;
  ~PrivatePostgres();  // Stops the server and removes the cluster.

  // As if its power had failed; what was committed is there after Restart.
  [[nodiscard]] absl::Status StopImmediately();
  [[nodiscard]] absl::Status Restart();

  // The folders of the servers that store the rows: a cluster's workers, or that of the one server.
  [[nodiscard]] std::vector<std::string> Stores() const;
  [[nodiscard]] bool IsCluster() const { return Stores() != std::vector<std::string>{folder_}; }
  // kill -9 of one's main process. Restart starts it again.
  [[nodiscard]] static absl::Status Kill(const std::string& folder);

  [[nodiscard]] absl::Status MakeDatabase(const std::string& name) const;

  [[nodiscard]] std::string Conninfo(const std::string& database = "postgres",
                                     const std::string& user = "postgres") const {
    return ConninfoOf(folder_, database, user);
  }
  [[nodiscard]] static std::string ConninfoOf(const std::string& folder,
                                              const std::string& database,
                                              const std::string& user = "postgres");

  // Where the server's socket is.
  [[nodiscard]] const std::string& folder() const { return folder_; }

  // Runs SQL and returns its last result as psql -At would: rows by '\n', columns by '|'.
  [[nodiscard]] absl::StatusOr<std::string> Sql(const std::string& database,
                                                const std::string& sql) const {
    return SqlOf(folder_, database, sql);
  }
  [[nodiscard]] static absl::StatusOr<std::string> SqlOf(const std::string& folder,
                                                         const std::string& database,
                                                         const std::string& sql);

 private:
  explicit PrivatePostgres(std::string folder) : folder_(std::move(folder)) {}
  [[nodiscard]] absl::Status Script(const std::string& command, const std::string& option) const;

  std::string folder_;
};

}  // namespace ctacct

#endif  // CTACCT_TESTS_SUPPORT_PRIVATE_POSTGRES_H_
