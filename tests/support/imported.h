// What an importer makes of a spool folder in PostgreSQL, as sums. Errors fail the test.
#ifndef CTACCT_TESTS_SUPPORT_IMPORTED_H_
#define CTACCT_TESTS_SUPPORT_IMPORTED_H_

#include <string>

#include "tests/support/gateway.h"
#include "tests/support/private_postgres.h"

namespace ctacct {

// The importer's command line for `spool` and the database "postgres".
[[nodiscard]] std::vector<std::string> ImporterArgv(const PrivatePostgres& postgres,
                                                    const std::string& spool);
// Imports all files of the folder, and expects that none is left.
void Import(const PrivatePostgres& postgres, const std::string& spool);
// The sums of all rows, without those that only report open connections.
[[nodiscard]] Traffic ImportedTraffic(const PrivatePostgres& postgres);

}  // namespace ctacct

#endif  // CTACCT_TESTS_SUPPORT_IMPORTED_H_
