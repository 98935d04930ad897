// Checks that no other role can replace a function or an operator of PostgreSQL by its own. Of
// several functions with one name PostgreSQL runs the one that fits the arguments best, in
// whichever schema of search_path it is, with the rights of the role that runs the query. The
// schema's own functions are safe (search_path = pg_catalog, pg_temp). Queries of our programs and
// of people use the session's search_path.
//
// PostgreSQL 15 made this the default. Up to 14 everybody may create objects in schema public.
#ifndef CTACCT_IMPORTER_TABLES_SCHEMA_RIGHTS_H_
#define CTACCT_IMPORTER_TABLES_SCHEMA_RIGHTS_H_

#include "absl/status/status.h"
#include "importer/postgres/pg_connection.h"

namespace ctacct {

// FailedPrecondition, with the remedy as SQL after ": ", if a role may create objects in a schema
// of the session's search_path, or has made a function or an operator there, other than superusers,
// the owners of the database, of schema public and of our tables, and, in a schema that is not that
// of our tables, the session's role. Other errors: as in pg_connection.h. Reads the catalogue only;
// not within a transaction.
[[nodiscard]] absl::Status CheckSchemaRights(PgConnection& connection);

}  // namespace ctacct

#endif  // CTACCT_IMPORTER_TABLES_SCHEMA_RIGHTS_H_
