// Against servers of our own making, which say just so much and then fall silent. The real one is
// in tests/database/importer_test.cc.
#include "importer/postgres/pg_connection.h"

#include <netinet/in.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>
#include <thread>
#include <utility>

#include "absl/status/status.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "engine/system/unique_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace ctacct {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// Answers the start-up message of one client with fixed bytes, then says nothing until the client
// goes.
class ScriptedServer {
 public:
  explicit ScriptedServer(std::string answer)
      : listening_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    if (bind(listening_.get(), reinterpret_cast<sockaddr*>(&address), size) != 0 ||
        listen(listening_.get(), 1) != 0 ||
        getsockname(listening_.get(), reinterpret_cast<sockaddr*>(&address), &size) != 0) {
      ADD_FAILURE() << "no listening socket on loopback";
    }
    port_ = ntohs(address.sin_port);
    thread_ = std::thread([this, answer = std::move(answer)] {
      const UniqueFd client(accept4(listening_.get(), nullptr, nullptr, SOCK_CLOEXEC));
      char bytes[4096];
      if (read(client.get(), bytes, sizeof(bytes)) <= 0) return;
      if (write(client.get(), answer.data(), answer.size()) < 0) return;
      while (read(client.get(), bytes, sizeof(bytes)) > 0) {
      }
    });
  }
  ~ScriptedServer() {
    shutdown(listening_.get(), SHUT_RDWR);
    thread_.join();
  }
  PgOptions Options() const {
    PgOptions options;
    options.conninfo =
        "host=127.0.0.1 dbname=x user=x connect_timeout=1 sslmode=disable "
        "gssencmode=disable port=" +
        std::to_string(port_);
    options.password = "hush-hush";
    options.answer_timeout = absl::Milliseconds(300);
    return options;
  }

 private:
  UniqueFd listening_;
  int port_ = 0;
  std::thread thread_;
};

const std::string kWelcome("R\0\0\0\x08\0\0\0\0Z\0\0\0\5I", 15);  // Authenticated, ready.

std::string Fatal(const std::string& sqlstate) {
  std::string fields = "SFATAL";
  fields.push_back('\0');
  fields += "VFATAL";
  fields.push_back('\0');
  fields += "C" + sqlstate;
  fields.push_back('\0');
  fields += "Mno, and here is why";
  fields.push_back('\0');
  fields.push_back('\0');
  std::string message = "E";
  message += std::string("\0\0\0", 3);
  message.push_back(static_cast<char>(fields.size() + 4));
  return message + fields;
}

TEST(PgConnectionTest, SqlstatesDecide) {
  using enum absl::StatusCode;
  const std::pair<const char*, absl::StatusCode> cases[] = {
      {"", kUnavailable},              // The connection broke.
      {"08006", kUnavailable},         // Connection failure.
      {"08P01", kUnavailable},         // So a pooler says that it cannot reach the server.
      {"53100", kUnavailable},         // Disk full.
      {"53300", kUnavailable},         // Too many connections.
      {"57P01", kUnavailable},         // Administrator's shutdown.
      {"57P03", kUnavailable},         // Starting up.
      {"57P05", kUnavailable},         // Idle for too long.
      {"57014", kUnavailable},         // Statement timeout.
      {"58030", kUnavailable},         // I/O error.
      {"40001", kUnavailable},         // Serialization failure.
      {"40003", kUnavailable},         // Whether it was done is not known; the ledger knows.
      {"40P01", kUnavailable},         // Deadlock.
      {"55006", kUnavailable},         // In use.
      {"55P03", kUnavailable},         // Lock not available.
      {"25006", kUnavailable},         // Read-only.
      {"25P03", kUnavailable},         // Idle in a transaction for too long.
      {"XX000", kUnavailable},         // No code of its own.
      {"XX001", kFailedPrecondition},  // Corrupt data.
      {"XX002", kFailedPrecondition},  // Corrupt index.
      {"28P01", kFailedPrecondition},  // Wrong password.
      {"28000", kFailedPrecondition},  // No entry in pg_hba.conf.
      {"3D000", kFailedPrecondition},  // No such database.
      {"42501", kFailedPrecondition},  // No privilege.
      {"42P01", kFailedPrecondition},  // No such table.
      {"23514", kFailedPrecondition},  // No partition for a row, or somebody's own constraint.
      {"P0001", kFailedPrecondition},  // Somebody's own trigger.
      {"54000", kFailedPrecondition},  // A limit of the program.
      {"25P02", kFailedPrecondition},  // A bug of ours.
      {"22P04", kFailedPrecondition},  // A bug of ours.
      {"22021", kFailedPrecondition},  // A bug of ours: the file's texts are checked before.
      {"22P02", kFailedPrecondition},  // A bug of ours: all parameters are made by us.
      {"22P03", kFailedPrecondition},
      {"22P05", kFailedPrecondition},  // A character that the database's encoding does not have.
      {"22003", kFailedPrecondition},  // A number out of range, from somebody's trigger.
      {"22008", kFailedPrecondition},  // A time out of range, from somebody's trigger.
  };
  for (const auto& [sqlstate, code] : cases) EXPECT_EQ(CodeOfSqlstate(sqlstate), code) << sqlstate;
}

TEST(PgConnectionTest, ConninfoIsCheckedAndNotRepeated) {
  EXPECT_TRUE(CheckConninfo("").ok());
  EXPECT_TRUE(CheckConninfo("host=/tmp dbname=x").ok());
  EXPECT_TRUE(CheckConninfo("postgresql://u:p@h:5432/d?connect_timeout=3").ok());
  for (const char* const bad : {"host", "hush=hush", "host='hush", "postgresql://h/?hush=1"}) {
    const absl::Status status = CheckConninfo(bad);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << bad;
    EXPECT_THAT(std::string(status.message()), Not(HasSubstr("hush")));
  }
}

TEST(PgConnectionTest, ASilentServerIsGivenUpWhileConnecting) {
  const ScriptedServer server("");
  const absl::Status status = PgConnection::Open(server.Options()).status();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("not answered within 1s"));
}

TEST(PgConnectionTest, ASilentServerIsGivenUpAfterConnecting) {
  const ScriptedServer server(kWelcome);
  absl::StatusOr<PgConnection> connection = PgConnection::Open(server.Options());
  ASSERT_TRUE(connection.ok()) << connection.status();
  const absl::Status status = connection->Begin();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("not answered for 300ms"));
}

TEST(PgConnectionTest, StopEndsEveryWait) {
  const UniqueFd stop(eventfd(1, EFD_CLOEXEC));
  for (const std::string& answer : {std::string(), kWelcome}) {
    const ScriptedServer server(answer);
    PgOptions options = server.Options();
    options.stop_fd = stop.get();
    options.answer_timeout = absl::Hours(1);
    absl::StatusOr<PgConnection> connection = PgConnection::Open(options);
    // Where there is a welcome, it may be connected before it looks for a stop.
    const absl::Status status = connection.ok() ? connection->Begin() : connection.status();
    EXPECT_TRUE(absl::IsCancelled(status)) << status;
  }
}

TEST(PgConnectionTest, ARefusedConnectionHasItsSqlstate) {
  const std::pair<const char*, absl::StatusCode> cases[] = {
      {"28P01", absl::StatusCode::kFailedPrecondition},
      {"3D000", absl::StatusCode::kFailedPrecondition},
      {"57P03", absl::StatusCode::kUnavailable},
      {"53300", absl::StatusCode::kUnavailable},
  };
  for (const auto& [sqlstate, code] : cases) {
    const ScriptedServer server(Fatal(sqlstate));
    const absl::Status status = PgConnection::Open(server.Options()).status();
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(sqlstate));
    EXPECT_THAT(std::string(status.message()), HasSubstr("here is why"));
    EXPECT_THAT(std::string(status.message()), Not(HasSubstr("hush")));
    EXPECT_THAT(std::string(status.message()), Not(HasSubstr("\n")));
  }
}

TEST(PgConnectionTest, SettingsThatLibpqRefusesAreNotTriedAgain) {
  for (const std::string& conninfo :
       {std::string("host=localhost port=abc"), std::string("host=localhost port=99999999"),
        std::string("host=localhost sslmode=bogus"), std::string("service=nosuch"),
        "host=/" + std::string(120, 'x')}) {
    PgOptions options;
    options.conninfo = conninfo;
    const absl::Status status = PgConnection::Open(options).status();
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << conninfo << ": " << status;
  }
  PgOptions options;
  options.host = "no-such-host.invalid";
  EXPECT_TRUE(absl::IsUnavailable(PgConnection::Open(options).status()));
}

TEST(PgConnectionTest, AShortPasswordIsNotRevealedByMasking) {
  PgOptions options;
  options.host = "/nowhere/at/all";
  options.password = "e";
  const absl::Status status = PgConnection::Open(options).status();
  EXPECT_TRUE(absl::IsUnavailable(status));
  EXPECT_EQ(status.message(), "no connection to the database (the reason would show the password)");
  options.password = "nowhere";
  EXPECT_THAT(std::string(PgConnection::Open(options).status().message()),
              HasSubstr("/***/at/all"));
}

TEST(PgConnectionTest, NobodyListening) {
  PgOptions options;
  options.host = "/nowhere/at/all";
  const absl::Status status = PgConnection::Open(options).status();
  EXPECT_TRUE(absl::IsUnavailable(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("/nowhere/at/all"));
  EXPECT_THAT(std::string(status.message()), Not(HasSubstr("\n")));
}

}  // namespace
}  // namespace ctacct
