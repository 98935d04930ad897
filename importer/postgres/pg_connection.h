// One connection to PostgreSQL that never blocks for ever: every wait ends with the server's
// answer, at a deadline, or when the caller is asked to stop. (A server that is frozen, or behind a
// dead link, still acknowledges nothing or everything; only our own clock notices.)
//
// What an error asks for is its absl code:
//  - Unavailable: no connection, or a state of the server that passes; try again
//  - FailedPrecondition: it will not pass without an operator (settings, password, missing
//    database, schema, values that a column or another's trigger refuses, a bug); stop, touch
//    nothing
//  - Cancelled: stop was asked for
// Messages carry the SQLSTATE, one line, never a password, and never a value out of a row.
//
// After any error throw the connection away.
// Thread-compatible.
#ifndef CTACCT_IMPORTER_POSTGRES_PG_CONNECTION_H_
#define CTACCT_IMPORTER_POSTGRES_PG_CONNECTION_H_

#include <libpq-fe.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace ctacct {

inline constexpr absl::Duration kAnswerTimeoutDefault = absl::Seconds(60);
inline constexpr absl::Duration kStatementTimeoutDefault = absl::Minutes(15);

// Empty: libpq's own defaults (environment, service file, ~/.pgpass).
struct PgOptions {
  std::string conninfo;  // Keyword=value string, or URI.
  std::string host;      // These four override conninfo.
  std::string database;
  std::string user;
  std::string password;
  std::string program = "ctacct-importer";  // Our name in the server's views.
  int stop_fd = -1;                         // Readable: stop waiting.
  // Called at least each second while it waits or sends; empty: never.
  std::function<void()> while_waiting;
  // The connection is given up after this long without a byte from or to the server. Longer than
  // any checkpoint stalls a healthy server.
  absl::Duration answer_timeout = kAnswerTimeoutDefault;
};

// What to do about an error of the server. `sqlstate` may be empty: the connection broke.
[[nodiscard]] absl::StatusCode CodeOfSqlstate(absl::string_view sqlstate);

// InvalidArgument if libpq cannot parse it. Without libpq's reason, which would repeat the string,
// passwords and all.
[[nodiscard]] absl::Status CheckConninfo(const std::string& conninfo);

struct PgResultDeleter {
  void operator()(PGresult* result) const { PQclear(result); }
};
using PgResult = std::unique_ptr<PGresult, PgResultDeleter>;

class PgConnection {
 public:
  // Connects, within connect_timeout (of conninfo or PGCONNECT_TIMEOUT; else
  // kConnectTimeoutDefault) for each host.
  [[nodiscard]] static absl::StatusOr<PgConnection> Open(const PgOptions& options);

  PgConnection(PgConnection&&) = default;
  PgConnection& operator=(PgConnection&&) = default;

  // Whether the server has closed it since its last answer, as far as has been heard by now.
  [[nodiscard]] bool Lost() const;
  // As PostgreSQL calls it; empty if a pooler does not hand it on.
  [[nodiscard]] std::string ServerEncoding() const;

  // Begins a transaction with all settings that our statements need. They end with it: behind a
  // pooler the next transaction of the same server process may be another program's. A timeout of
  // zero is none.
  [[nodiscard]] absl::Status Begin(absl::Duration statement_timeout = kStatementTimeoutDefault);
  // One or more statements without parameters.
  [[nodiscard]] absl::Status Execute(const char* sql);
  // As Execute, but after stop was asked for it waits another kCommitGrace: better to know whether
  // it happened.
  [[nodiscard]] absl::Status Commit();
  // One statement; parameters as text, nullptr for NULL.
  [[nodiscard]] absl::StatusOr<PgResult> Query(const char* sql,
                                               const std::vector<const char*>& parameters);
  // As Query, with parameters in the binary form of their types (pg_binary.h), none NULL. The
  // answer is text.
  [[nodiscard]] absl::StatusOr<PgResult> QueryBinary(const char* sql,
                                                     const std::vector<std::string>& parameters);
  // From now on waits this long for each answer: for statements on which the server works long
  // without sending anything.
  void set_answer_timeout(absl::Duration timeout) { options_.answer_timeout = timeout; }

  // COPY ... FROM STDIN: begin, data any number of times, end. CopyEnd returns the number of rows
  // that the server took.
  [[nodiscard]] absl::Status CopyBegin(const char* sql);
  [[nodiscard]] absl::Status CopyData(absl::string_view bytes);
  [[nodiscard]] absl::StatusOr<uint64_t> CopyEnd();

 private:
  struct ConnectionDeleter {
    void operator()(PGconn* connection) const { PQfinish(connection); }
  };

  explicit PgConnection(const PgOptions& options) : options_(options) {}
  [[nodiscard]] absl::Status Connect();
  // Waits until the socket is ready for `events` (of poll), the deadline (of MonotonicNow), or
  // stop.
  [[nodiscard]] absl::Status Wait(short events, absl::Duration deadline);
  // Waits for it at most for answer_timeout, and takes what it has sent. `silence` says what an
  // error complains of.
  [[nodiscard]] absl::Status WaitForServer(short events, const char* silence);
  [[nodiscard]] absl::Status Flush();
  [[nodiscard]] absl::StatusOr<PgResult> NextResult();  // Null after a command's last one.
  // Reads up to the command's end; its last result, or its first error.
  [[nodiscard]] absl::StatusOr<PgResult> Answer();
  [[nodiscard]] absl::Status ResultError(const PGresult* result) const;
  [[nodiscard]] absl::Status ConnectionError() const;

  PgOptions options_;
  std::unique_ptr<PGconn, ConnectionDeleter> connection_;
  bool committing_ = false;
};

inline constexpr absl::Duration kConnectTimeoutDefault = absl::Seconds(10);
inline constexpr absl::Duration kCommitGrace = absl::Seconds(5);

}  // namespace ctacct

#endif  // CTACCT_IMPORTER_POSTGRES_PG_CONNECTION_H_
