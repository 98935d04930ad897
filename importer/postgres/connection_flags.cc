#include "importer/postgres/connection_flags.h"

#include <cstring>
#include <string>

#include "absl/flags/flag.h"
#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

ABSL_FLAG(std::string, host, "", "database server: name, address, or folder of its socket");
ABSL_FLAG(std::string, db, "", "database");
ABSL_FLAG(std::string, user, "", "database user");
ABSL_FLAG(std::string, pass, "",
          "password; other users see command lines, so rather use ~/.pgpass or PGPASSFILE");
ABSL_FLAG(std::string, conninfo, "",
          "libpq connection string or URI; -host and the others override it");

namespace ctacct {

absl::StatusOr<PgOptions> ConnectionOptionsFromFlags() {
  PgOptions options;
  options.conninfo = absl::GetFlag(FLAGS_conninfo);
  options.host = absl::GetFlag(FLAGS_host);
  options.database = absl::GetFlag(FLAGS_db);
  options.user = absl::GetFlag(FLAGS_user);
  options.password = absl::GetFlag(FLAGS_pass);
  if (absl::Status status = CheckConninfo(options.conninfo); !status.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("flag -conninfo: ", status.message()));
  }
  // libpq would take a database name with '=' in it, or one like a URI, for a whole connection
  // string.
  if (absl::StrContains(options.database, '=') || absl::StrContains(options.database, "://")) {
    return absl::InvalidArgumentError("flag -db: a name, not a connection string (-conninfo)");
  }
  return options;
}

void HideSecrets(int argc, char** argv) {
  bool value_follows = false;
  for (int i = 1; i < argc; ++i) {
    char* at = argv[i];
    if (!value_follows) {
      while (*at == '-') ++at;
      const absl::string_view text(at);
      const size_t equals = text.find('=');
      const absl::string_view name = text.substr(0, equals);
      if (at == argv[i] || (name != "pass" && name != "conninfo")) continue;
      value_follows = equals == absl::string_view::npos;
      if (value_follows) continue;
      at += equals + 1;
    }
    value_follows = false;
    std::memset(at, 'x', std::strlen(at));
  }
}

}  // namespace ctacct
