// That nobody can put a function or an operator of his own before PostgreSQL's: of those whose
// names are the same, the one that fits the arguments best runs, wherever in search_path it lies,
// with the rights of whoever runs the query. Our functions do not search (search_path =
// pg_catalog, pg_temp); what is left is our programs' own queries, and people's.
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
