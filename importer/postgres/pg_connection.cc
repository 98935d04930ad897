#include "importer/postgres/pg_connection.h"

#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "engine/system/clock.h"

namespace ctacct {
namespace {

constexpr size_t kSqlstateBytes = 5;
// Between two calls of while_waiting.
constexpr absl::Duration kWaitSlice = absl::Seconds(1);
constexpr size_t kMaskedPasswordBytesMin = 4;

// SQLSTATEs, or classes of them (the first two characters), of errors that go away without an
// operator. All others need one. None is a file's fault: readers refuse values that no column can
// hold. (Appendix A of PostgreSQL's manual.)
constexpr absl::StatusCode kWait = absl::StatusCode::kUnavailable;
constexpr absl::StatusCode kStop = absl::StatusCode::kFailedPrecondition;
constexpr absl::string_view kPassing[] = {
    "08",     // Connection exceptions: also of a pooler, or between servers of Citus.
    "25006",  // Read-only: a standby, or being switched over.
    "25P03",  // Idle in a transaction for too long.
    "25P04",  // A transaction that took too long (transaction_timeout).
    "40",     // Rolled back: deadlock, serialization, or it is not known.
    "53",     // Disk full, out of memory, too many connections.
    "55006",  // In use.
    "55P03",  // A lock is not available.
    "57",     // Cancelled, shut down, starting up, idle for too long.
    "58",     // I/O errors.
    "72",     // Snapshot too old.
    "F0",     // Its configuration is being changed.
    "XX000",  // Errors without a code: a full disk while connecting, a dead worker of Citus.
};

bool IsSqlstate(absl::string_view text) {
  return text.size() == kSqlstateBytes && std::all_of(text.begin(), text.end(), [](char c) {
           return absl::ascii_isdigit(static_cast<unsigned char>(c)) ||
                  absl::ascii_isupper(static_cast<unsigned char>(c));
         });
}

// With PQERRORS_VERBOSE an error of the server reads "SEVERITY:  SQLSTATE: text"; the severity is
// in the server's language.
std::string SqlstateOf(absl::string_view message) {
  for (size_t at = message.find(":  "); at != absl::string_view::npos;
       at = message.find(":  ", at + 1)) {
    const absl::string_view candidate = message.substr(at + 3, kSqlstateBytes);
    if (IsSqlstate(candidate) && message.substr(at + 3 + kSqlstateBytes, 1) == ":") {
      return std::string(candidate);
    }
  }
  return "";
}

// libpq's messages have several lines: the first says what is wrong, VERBOSE adds a source location
// that is of no use here.
std::string OneLine(absl::string_view text) {
  std::string line;
  while (!text.empty()) {
    const size_t end = text.find('\n');
    const absl::string_view part = absl::StripAsciiWhitespace(text.substr(0, end));
    text.remove_prefix(end == absl::string_view::npos ? text.size() : end + 1);
    if (part.empty() || absl::StartsWith(part, "LOCATION:")) continue;
    absl::StrAppend(&line, line.empty() ? "" : "; ", part);
  }
  return line;
}

// For all hosts that libpq tries, one after the other.
absl::Duration ConnectTimeout(PGconn* connection) {
  absl::Duration timeout = kConnectTimeoutDefault;
  int hosts = 1;
  if (PQconninfoOption* const all = PQconninfo(connection); all != nullptr) {
    for (const PQconninfoOption* option = all; option->keyword != nullptr; ++option) {
      if (option->val == nullptr) continue;
      int seconds = 0;
      if (std::strcmp(option->keyword, "connect_timeout") == 0 &&
          absl::SimpleAtoi(option->val, &seconds) && seconds > 0) {
        timeout = absl::Seconds(seconds);
      } else if (std::strcmp(option->keyword, "host") == 0) {
        hosts +=
            static_cast<int>(std::count(option->val, option->val + std::strlen(option->val), ','));
      }
    }
    PQconninfoFree(all);
  }
  return timeout * hosts;
}

}  // namespace

absl::StatusCode CodeOfSqlstate(absl::string_view sqlstate) {
  const bool passes = sqlstate.empty() || std::any_of(std::begin(kPassing), std::end(kPassing),
                                                      [&](absl::string_view state) {
                                                        return absl::StartsWith(sqlstate, state);
                                                      });
  return passes ? kWait : kStop;
}

absl::Status CheckConninfo(const std::string& conninfo) {
  char* error = nullptr;
  PQconninfoOption* const options = PQconninfoParse(conninfo.c_str(), &error);
  PQfreemem(error);
  if (options == nullptr) {
    return absl::InvalidArgumentError("not a connection string or URI that libpq understands");
  }
  PQconninfoFree(options);
  return absl::OkStatus();
}

absl::StatusOr<PgConnection> PgConnection::Open(const PgOptions& options) {
  PgConnection connection(options);
  if (absl::Status status = connection.Connect(); !status.ok()) return status;
  if (PQsetnonblocking(connection.connection_.get(), 1) != 0) return connection.ConnectionError();
  return connection;
}

bool PgConnection::Lost() const {
  pollfd fd = {PQsocket(connection_.get()), POLLIN, 0};
  // If the server has closed the connection, its reason comes first, then the end. Without an end
  // it is only a notice, such as a changed setting.
  while (poll(&fd, 1, 0) > 0) {
    if (PQconsumeInput(connection_.get()) == 0) return true;
  }
  return PQstatus(connection_.get()) != CONNECTION_OK;
}

std::string PgConnection::ServerEncoding() const {
  const char* const name = PQparameterStatus(connection_.get(), "server_encoding");
  return name == nullptr ? "" : name;
}

// READ COMMITTED, whatever the role's default is: a ledger row of another importer must be seen,
// not raise an error.
//  - synchronous_commit: a commit that the server forgets in a crash would be a file that we had
//    deleted.
//  - statement_timeout: a role's short one would fail every large file for ever. Ours is for the
//    server's sake; our own deadlines do not need it.
//  - datestyle: a Citus coordinator sends times to its workers as text in the session's style, and
//    they read them in their own.
absl::Status PgConnection::Begin(absl::Duration statement_timeout) {
  return Execute(absl::StrCat("BEGIN ISOLATION LEVEL READ COMMITTED; "
                              "SET LOCAL synchronous_commit = on; SET LOCAL statement_timeout = ",
                              absl::ToInt64Milliseconds(statement_timeout),
                              "; SET LOCAL idle_in_transaction_session_timeout = '5min'; "
                              "SET LOCAL datestyle = ISO")
                     .c_str());
}

absl::Status PgConnection::Connect() {
  // Later entries override earlier ones, and `dbname` is expanded first of all where it holds a
  // whole conninfo; so ours come before it and an operator's choice wins.
  std::vector<const char*> keywords;
  std::vector<const char*> values;
  const auto add = [&](const char* keyword, const char* value) {
    keywords.push_back(keyword);
    values.push_back(value);
  };
  add("fallback_application_name", options_.program.c_str());
  // A peer that vanished silently is noticed within a minute.
  add("keepalives_idle", "20");
  add("keepalives_interval", "10");
  add("keepalives_count", "3");
  add("tcp_user_timeout", "30000");
  if (!options_.conninfo.empty()) add("dbname", options_.conninfo.c_str());
  if (!options_.host.empty()) add("host", options_.host.c_str());
  if (!options_.database.empty()) add("dbname", options_.database.c_str());
  if (!options_.user.empty()) add("user", options_.user.c_str());
  if (!options_.password.empty()) add("password", options_.password.c_str());
  add("client_encoding", "UTF8");
  add(nullptr, nullptr);
  connection_.reset(PQconnectStartParams(keywords.data(), values.data(), /*expand_dbname=*/1));
  if (connection_ == nullptr) return absl::UnavailableError("libpq: out of memory");
  PGconn* const connection = connection_.get();
  if (PQstatus(connection) == CONNECTION_BAD) {
    const absl::string_view text = PQerrorMessage(connection);
    absl::Status error = ConnectionError();
    if (absl::StartsWith(text, "connection to server") ||
        absl::StrContains(text, "could not translate host name")) {
      return error;
    }
    // libpq has not even used the network: these settings will never work.
    return absl::FailedPreconditionError(error.message());
  }
  // The only way to learn the SQLSTATE of a refused connection.
  PQsetErrorVerbosity(connection, PQERRORS_VERBOSE);
  // Notices of a server may contain anything, so they are not printed.
  PQsetNoticeProcessor(
      connection, [](void*, const char*) {}, nullptr);

  const absl::Duration timeout = ConnectTimeout(connection);
  const absl::Duration deadline = MonotonicNow() + timeout;
  for (PostgresPollingStatusType state = PGRES_POLLING_WRITING; state != PGRES_POLLING_OK;
       state = PQconnectPoll(connection)) {
    if (state == PGRES_POLLING_FAILED) return ConnectionError();
    absl::Status status = Wait(state == PGRES_POLLING_READING ? POLLIN : POLLOUT, deadline);
    if (absl::IsDeadlineExceeded(status)) {
      return absl::UnavailableError(
          absl::StrCat("the database has not answered within ", absl::FormatDuration(timeout)));
    }
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status PgConnection::Wait(short events, absl::Duration deadline) {
  int stop_fd = options_.stop_fd;
  while (true) {
    if (options_.while_waiting) options_.while_waiting();
    // poll skips descriptors below 0.
    pollfd fds[2] = {{PQsocket(connection_.get()), events, 0}, {stop_fd, POLLIN, 0}};
    const absl::Duration left = deadline - MonotonicNow();
    if (left <= absl::ZeroDuration()) return absl::DeadlineExceededError("");
    const int ready =
        poll(fds, 2, static_cast<int>(absl::ToInt64Milliseconds(std::min(left, kWaitSlice)) + 1));
    if (ready < 0 && errno != EINTR) return absl::ErrnoToStatus(errno, "poll");
    if (ready <= 0) continue;
    if (fds[0].revents != 0) return absl::OkStatus();
    if (!committing_) return absl::CancelledError("stop was asked for");
    deadline = std::min(deadline, MonotonicNow() + kCommitGrace);
    stop_fd = -1;
  }
}

absl::Status PgConnection::WaitForServer(short events, const char* silence) {
  absl::Status status = Wait(events, MonotonicNow() + options_.answer_timeout);
  if (absl::IsDeadlineExceeded(status)) {
    return absl::UnavailableError(absl::StrCat("the database has ", silence, " for ",
                                               absl::FormatDuration(options_.answer_timeout)));
  }
  if (!status.ok()) return status;
  return PQconsumeInput(connection_.get()) == 0 ? ConnectionError() : absl::OkStatus();
}

absl::Status PgConnection::Flush() {
  while (true) {
    const int left = PQflush(connection_.get());
    if (left < 0) return ConnectionError();
    if (left == 0) return absl::OkStatus();
    // Also for reading: a server may not read on until its own messages have been read.
    absl::Status status = WaitForServer(POLLIN | POLLOUT, "taken nothing");
    if (!status.ok()) return status;
  }
}

absl::StatusOr<PgResult> PgConnection::NextResult() {
  while (PQisBusy(connection_.get()) != 0) {
    absl::Status status = WaitForServer(POLLIN, "not answered");
    if (!status.ok()) return status;
  }
  return PgResult(PQgetResult(connection_.get()));
}

absl::StatusOr<PgResult> PgConnection::Answer() {
  if (absl::Status status = Flush(); !status.ok()) return status;
  PgResult last;
  absl::Status error;
  while (true) {
    absl::StatusOr<PgResult> result = NextResult();
    if (!result.ok()) return result.status();
    if (*result == nullptr) break;
    const ExecStatusType state = PQresultStatus(result->get());
    if (error.ok() && (state == PGRES_FATAL_ERROR || state == PGRES_BAD_RESPONSE)) {
      error = ResultError(result->get());
    }
    last = *std::move(result);
    if (state == PGRES_COPY_IN) break;  // The command continues with the data that we send.
  }
  if (!error.ok()) return error;
  if (last == nullptr) return ConnectionError();
  return last;
}

absl::Status PgConnection::ResultError(const PGresult* result) const {
  const char* const field = PQresultErrorField(result, PG_DIAG_SQLSTATE);
  const std::string sqlstate = field == nullptr ? "" : field;
  if (sqlstate.empty()) return ConnectionError();
  const char* const primary = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);
  // Messages of class 22 quote the offending value, which may be out of a row.
  const bool quotes = absl::StartsWith(sqlstate, "22");
  return absl::Status(CodeOfSqlstate(sqlstate),
                      absl::StrCat("SQLSTATE ", sqlstate, ": ",
                                   quotes || primary == nullptr ? "the database refuses a value"
                                                                : OneLine(primary)));
}

absl::Status PgConnection::ConnectionError() const {
  const char* const text = PQerrorMessage(connection_.get());
  std::string message = OneLine(text);
  // Which may also come from the connection string, the environment or a file.
  const char* const in_use = PQpass(connection_.get());
  for (const absl::string_view password :
       {absl::string_view(options_.password), absl::string_view(in_use == nullptr ? "" : in_use)}) {
    if (password.empty() || !absl::StrContains(message, password)) continue;
    // Stars in place of a short one would garble the text, and give the password away.
    message = password.size() < kMaskedPasswordBytesMin
                  ? "no connection to the database (the reason would show the password)"
                  : absl::StrReplaceAll(message, {{password, "***"}});
  }
  if (message.empty()) message = "the connection to the database is lost";
  const bool needs_password = PQconnectionNeedsPassword(connection_.get()) != 0;
  return absl::Status(
      needs_password ? absl::StatusCode::kFailedPrecondition : CodeOfSqlstate(SqlstateOf(text)),
      message);
}

absl::Status PgConnection::Execute(const char* sql) {
  if (PQsendQuery(connection_.get(), sql) == 0) return ConnectionError();
  return Answer().status();
}

absl::Status PgConnection::Commit() {
  committing_ = true;
  const absl::StatusOr<PgResult> result = [this]() -> absl::StatusOr<PgResult> {
    if (PQsendQuery(connection_.get(), "COMMIT") == 0) return ConnectionError();
    return Answer();
  }();
  committing_ = false;
  if (!result.ok()) return result.status();
  // COMMIT of a transaction that has failed answers "ROLLBACK", and that is no error to the server.
  if (std::strcmp(PQcmdStatus(result->get()), "COMMIT") != 0) {
    return absl::UnavailableError("the database has rolled back instead of committing");
  }
  return absl::OkStatus();
}

absl::StatusOr<PgResult> PgConnection::Query(const char* sql,
                                             const std::vector<const char*>& parameters) {
  if (PQsendQueryParams(connection_.get(), sql, static_cast<int>(parameters.size()), nullptr,
                        parameters.data(), nullptr, nullptr, /*resultFormat=*/0) == 0) {
    return ConnectionError();
  }
  return Answer();
}

absl::StatusOr<PgResult> PgConnection::QueryBinary(const char* sql,
                                                   const std::vector<std::string>& parameters) {
  std::vector<const char*> values;
  std::vector<int> lengths;
  for (const std::string& parameter : parameters) {
    values.push_back(parameter.data());
    lengths.push_back(static_cast<int>(parameter.size()));
  }
  const std::vector<int> formats(parameters.size(), 1);
  if (PQsendQueryParams(connection_.get(), sql, static_cast<int>(parameters.size()), nullptr,
                        values.data(), lengths.data(), formats.data(), /*resultFormat=*/0) == 0) {
    return ConnectionError();
  }
  return Answer();
}

absl::Status PgConnection::CopyBegin(const char* sql) {
  if (PQsendQuery(connection_.get(), sql) == 0) return ConnectionError();
  const absl::StatusOr<PgResult> result = Answer();
  if (!result.ok()) return result.status();
  return PQresultStatus(result->get()) == PGRES_COPY_IN
             ? absl::OkStatus()
             : absl::FailedPreconditionError("the database does not take COPY");
}

absl::Status PgConnection::CopyData(absl::string_view bytes) {
  if (options_.while_waiting) options_.while_waiting();
  const int taken = PQputCopyData(connection_.get(), bytes.data(), static_cast<int>(bytes.size()));
  if (taken < 0) return ConnectionError();
  if (taken == 0) return absl::InternalError("libpq's buffer is full although it was flushed");
  return Flush();
}

absl::StatusOr<uint64_t> PgConnection::CopyEnd() {
  if (PQputCopyEnd(connection_.get(), nullptr) != 1) return ConnectionError();
  const absl::StatusOr<PgResult> result = Answer();
  if (!result.ok()) return result.status();
  uint64_t rows = 0;
  if (!absl::SimpleAtoi(PQcmdTuples(result->get()), &rows)) {
    return absl::InternalError("the database does not say how many rows it took");
  }
  return rows;
}

}  // namespace ctacct
