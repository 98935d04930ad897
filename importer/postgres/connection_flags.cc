#include "importer/postgres/connection_flags.h"

#include <libpq-fe.h>
#include <sys/prctl.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>

#include "absl/flags/flag.h"
#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"

ABSL_FLAG(std::string, host, "", "database server: name, address, or folder of its socket");
ABSL_FLAG(std::string, db, "", "database");
ABSL_FLAG(std::string, user, "", "database user");
ABSL_FLAG(std::string, pass, "",
          "password; other users see command lines, so rather use ~/.pgpass or PGPASSFILE");
ABSL_FLAG(std::string, conninfo, "",
          "libpq connection string or URI; -host and the others override it");

namespace ctacct {
namespace {

struct InfoDeleter {
  void operator()(PQconninfoOption* options) const { PQconninfoFree(options); }
};

absl::Status Bad(absl::string_view where, absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat(where, ": ", why));
}

bool LooksLikeConnection(absl::string_view text) {
  return absl::StrContains(text, "://") || absl::StrContains(text, "password=");
}

// libpq ends the credentials of a URI at the first '@', if no '/' comes before it. Whatever follows
// is the host, the port and the database.
absl::Status CheckUri(absl::string_view conninfo) {
  if (!absl::StartsWith(conninfo, "postgresql://") && !absl::StartsWith(conninfo, "postgres://")) {
    return absl::OkStatus();
  }
  const absl::string_view text = conninfo.substr(conninfo.find("://") + 3);
  const size_t at = text.find('@');
  if (at == absl::string_view::npos ||
      (text.find('/') > at && text.find('@', at + 1) == absl::string_view::npos)) {
    return absl::OkStatus();
  }
  return Bad("flag -conninfo",
             "in a URI, an '@' in a password or name must be written as %40, and a '/' as %2F");
}

absl::Status CheckHosts(absl::string_view where, absl::string_view hosts) {
  for (const absl::string_view host : absl::StrSplit(hosts, ',')) {
    // A socket without a file begins with '@'.
    if (host.find('@', 1) != absl::string_view::npos || absl::StrContains(host, "://")) {
      return Bad(where, "not the name, address or socket folder of a server (URIs: -conninfo)");
    }
  }
  return absl::OkStatus();
}

absl::Status CheckPorts(absl::string_view where, absl::string_view ports) {
  for (const absl::string_view port : absl::StrSplit(ports, ',')) {
    int number = 0;
    if (port.empty() || (absl::SimpleAtoi(port, &number) && number >= 1 && number <= 65535))
      continue;
    return Bad(where,
               "a port must be 1 to 65535 (in a URI, the '@' before the host may be missing)");
  }
  return absl::OkStatus();
}

// libpq would take a database name with '=' in it, or one like a URI, for a whole connection
// string.
absl::Status CheckName(absl::string_view where, absl::string_view name) {
  if (!absl::StrContains(name, '=') && !absl::StrContains(name, "://")) return absl::OkStatus();
  return Bad(where, "a name, not a connection string (-conninfo)");
}

absl::Status CheckValue(absl::string_view where, absl::string_view keyword,
                        absl::string_view value) {
  if (keyword == "host") return CheckHosts(where, value);
  if (keyword == "port") return CheckPorts(where, value);
  if (keyword == "dbname") return CheckName(where, value);
  if (keyword == "user" && absl::StrContains(value, "://")) {
    return Bad(where, "a name, not a URI (-conninfo)");
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckConnection(const PgOptions& options) {
  if (absl::Status status = CheckUri(options.conninfo); !status.ok()) return status;
  if (absl::Status status = CheckConninfo(options.conninfo); !status.ok()) {
    return Bad("flag -conninfo", status.message());
  }
  const std::unique_ptr<PQconninfoOption, InfoDeleter> parsed(
      PQconninfoParse(options.conninfo.c_str(), nullptr));
  for (const PQconninfoOption* option = parsed.get();
       option != nullptr && option->keyword != nullptr; ++option) {
    if (option->val == nullptr) continue;
    absl::Status status =
        CheckValue(absl::StrCat("flag -conninfo: ", option->keyword), option->keyword, option->val);
    if (!status.ok()) return status;
  }
  const struct {
    const char* where;
    const char* keyword;
    const char* value;
  } others[] = {
      {"flag -host", "host", options.host.c_str()},
      {"flag -db", "dbname", options.database.c_str()},
      {"flag -user", "user", options.user.c_str()},
      {"PGHOST", "host", std::getenv("PGHOST")},
      {"PGPORT", "port", std::getenv("PGPORT")},
      {"PGDATABASE", "dbname", std::getenv("PGDATABASE")},
      {"PGUSER", "user", std::getenv("PGUSER")},
  };
  for (const auto& [where, keyword, value] : others) {
    if (value == nullptr) continue;
    if (absl::Status status = CheckValue(where, keyword, value); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status CheckArguments(const std::vector<std::string>& arguments) {
  for (const std::string& argument : arguments) {
    if (LooksLikeConnection(argument)) {
      return absl::InvalidArgumentError("a connection string goes into -conninfo=...");
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<PgOptions> ConnectionOptionsFromFlags() {
  PgOptions options;
  options.conninfo = absl::GetFlag(FLAGS_conninfo);
  options.host = absl::GetFlag(FLAGS_host);
  options.database = absl::GetFlag(FLAGS_db);
  options.user = absl::GetFlag(FLAGS_user);
  options.password = absl::GetFlag(FLAGS_pass);
  if (absl::Status status = CheckConnection(options); !status.ok()) return status;
  return options;
}

void HideSecrets(int argc, char** argv) {
  // Not RLIMIT_CORE: the kernel ignores a limit of 0 where it pipes cores to a program, as
  // systemd-coredump has it.
  prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
  bool value_follows = false;
  for (int i = 1; i < argc; ++i) {
    char* at = argv[i];
    if (!value_follows) {
      while (*at == '-') ++at;
      const absl::string_view text(at);
      const size_t equals = text.find('=');
      const absl::string_view name = text.substr(0, equals);
      const bool argument = at == argv[i] && LooksLikeConnection(text);
      if (!argument && (at == argv[i] || (name != "pass" && name != "conninfo"))) continue;
      if (argument) {
        std::memset(at, 'x', std::strlen(at));
        continue;
      }
      value_follows = equals == absl::string_view::npos;
      if (value_follows) continue;
      at += equals + 1;
    }
    value_follows = false;
    std::memset(at, 'x', std::strlen(at));
  }
}

}  // namespace ctacct
