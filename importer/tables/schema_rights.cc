#include "importer/tables/schema_rights.h"

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace ctacct {
namespace {

// Asked before anything is known of the path, so it must not search.
constexpr char kPath[] = "SELECT pg_catalog.current_schemas(true)";

constexpr char kBegin[] = "BEGIN READ ONLY; SET LOCAL search_path = pg_catalog, pg_temp";

// The first fault, or no row: what is wrong, and the remedy. `ours`: the schema of our tables; if
// there are none, the one in which they will be made.
constexpr char kFaults[] = R"sql(
WITH path AS (
    SELECT oid, nspname, nspowner, coalesce(nspacl, acldefault('n', nspowner)) AS acl, place
    FROM unnest($1::name[]) WITH ORDINALITY AS named (nspname, place) JOIN pg_namespace USING (nspname)
    WHERE oid <> pg_my_temp_schema()
), ours AS (
    SELECT path.oid, nspname, coalesce(relowner, current_user::regrole) AS owner, relowner IS NOT NULL AS made
    FROM path LEFT JOIN pg_class ON relnamespace = path.oid AND relname = 'ctacct_schema'
    WHERE nspname <> 'pg_catalog'
    ORDER BY relowner IS NULL, place LIMIT 1
), trusted AS (
    SELECT oid FROM pg_roles WHERE rolsuper
    UNION SELECT datdba FROM pg_database WHERE datname = current_database()
    UNION SELECT 'pg_database_owner'::regrole
    UNION SELECT nspowner FROM pg_namespace WHERE nspname = 'public'
    UNION SELECT owner FROM ours
), creators AS (
    SELECT path.oid AS schema, nspname, grantee, false AS owns FROM path, aclexplode(acl)
    WHERE privilege_type = 'CREATE' AND grantee <> nspowner
    UNION SELECT oid, nspname, nspowner, true FROM path
), objects AS (
    SELECT 'ROUTINE' AS kind, oid, pronamespace AS schema, proowner AS owner FROM pg_proc
    UNION ALL
    SELECT 'OPERATOR', oid, oprnamespace, oprowner FROM pg_operator
), faults AS (
    SELECT 1 AS number, format('roles other than the owner may create objects in schema %I', nspname) AS fault,
           string_agg(CASE WHEN owns THEN format('ALTER SCHEMA %I OWNER TO %s', nspname, (SELECT owner::regrole FROM ours))
                           ELSE format('REVOKE CREATE ON SCHEMA %I FROM %s', nspname,
                                       CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END) END,
                      '; ' ORDER BY grantee) AS remedy
    FROM creators
    WHERE grantee NOT IN (SELECT oid FROM trusted)
      AND (grantee <> current_user::regrole OR schema IN (SELECT oid FROM ours))
    GROUP BY nspname
    UNION ALL
    SELECT 2, format('role %s made a function or operator in schema %I, where queries of others would run it',
                     owner::regrole, nspname),
           format('DROP %s %s', kind, CASE kind WHEN 'OPERATOR' THEN objects.oid::regoperator::text
                                      ELSE objects.oid::regprocedure::text END)
    FROM objects JOIN path ON path.oid = schema
    WHERE owner NOT IN (SELECT oid FROM trusted)
      AND (owner <> current_user::regrole OR schema IN (SELECT oid FROM ours))
    UNION ALL
    SELECT 3, format('role %s has made table ctacct_schema and may not create tables in schema %I (or the table is of another '
                     'program)', owner::regrole, nspname),
           format('GRANT CREATE ON SCHEMA %I TO %s', nspname, owner::regrole)
    FROM ours WHERE made AND NOT has_schema_privilege(owner, oid, 'CREATE')
)
SELECT fault, remedy FROM faults ORDER BY number, fault, remedy LIMIT 1)sql";

}  // namespace

absl::Status CheckSchemaRights(PgConnection& connection) {
  const absl::StatusOr<PgResult> path = connection.Query(kPath, {});
  if (!path.ok()) return path.status();
  if (absl::Status status = connection.Execute(kBegin); !status.ok()) return status;
  const absl::StatusOr<PgResult> faults =
      connection.Query(kFaults, {PQgetvalue(path->get(), 0, 0)});
  if (!faults.ok()) return faults.status();
  if (absl::Status status = connection.Execute("ROLLBACK"); !status.ok()) return status;
  if (PQntuples(faults->get()) == 0) return absl::OkStatus();
  // Names may be of anybody's choice.
  return absl::FailedPreconditionError(
      absl::StrCat(absl::CHexEscape(PQgetvalue(faults->get(), 0, 0)), ": ",
                   absl::CHexEscape(PQgetvalue(faults->get(), 0, 1))));
}

}  // namespace ctacct
