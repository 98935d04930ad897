#!/bin/sh
# A throwaway Citus cluster on this machine for tests: a coordinator and two workers. Used as private_postgres.sh is, whose
# servers they are; DIR is the coordinator's, DIR/worker1 and DIR/worker2 the workers'. All listen on Unix sockets only.
# The tables that an importer makes in one of its databases are distributed by configs/postgres/citus.sql at once. So the
# database's tests run on it:
#
#   bazel test //tests/database:importer_test --test_env=CTACCT_PATIENCE=300 \
#       --test_env=CTACCT_POSTGRES_SCRIPT=$PWD/tests/support/citus_cluster.sh
#
# Debian has no package of Citus. CTACCT_POSTGRES_BIN=FOLDER: the programs of a PostgreSQL that has it, if that is not the
# newest in /usr/lib/postgresql. Without Citus, `available` says so and exits with status 1.
set -u

here=$(cd "$(dirname "$0")" && pwd -P)
server="$here/private_postgres.sh"
distribute="$here/../../configs/postgres/citus.sql"

fail() {
    echo "citus_cluster.sh: $*" >&2
    exit 1
}

ask() { # SERVER DATABASE SQL
    psql -X -q -A -t -v ON_ERROR_STOP=1 -c "$3" "host=$1 user=postgres dbname=$2" || fail "$1: $3"
}

available() {
    "$server" available || exit 1
    bin=${CTACCT_POSTGRES_BIN:-$(printf '%s\n' /usr/lib/postgresql/*/bin | sort -t/ -k5 -n | tail -n 1)}
    [ -e "$("$bin/pg_config" --sharedir)/extension/citus.control" ] ||
        fail "Citus is not installed for the PostgreSQL in $bin (see CTACCT_POSTGRES_BIN in $0)"
}

start() {
    available
    for node in "$dir" "$dir/worker1" "$dir/worker2"; do
        "$server" start "$node" "$option" || exit 1
        [ "$(ask "$node" postgres "SHOW shared_preload_libraries")" = citus ] && continue
        ask "$node" postgres "ALTER SYSTEM SET shared_preload_libraries = 'citus'"
        ask "$node" postgres "ALTER SYSTEM SET max_prepared_transactions = 100"
        "$server" stop "$node" && "$server" start "$node" "$option" || exit 1
        # The name by which a node knows itself; here the folder of its socket.
        ask "$node" postgres "ALTER SYSTEM SET citus.local_hostname = '$node'"
        ask "$node" postgres "ALTER SYSTEM SET citus.node_conninfo = 'sslmode=prefer'"
        ask "$node" postgres "SELECT pg_reload_conf()" >/dev/null
    done
}

stop() {
    status=0
    for node in "$dir" "$dir/worker1" "$dir/worker2"; do
        "$server" stop "$node" "$option" || status=1
    done
    exit "$status"
}

database() {
    for node in "$dir" "$dir/worker1" "$dir/worker2"; do
        "$server" database "$node" "$option" || exit 1
        ask "$node" "$option" "CREATE EXTENSION citus"
    done
    ask "$dir" "$option" "SELECT citus_set_coordinator_host('$dir', 5432)" >/dev/null
    for node in "$dir/worker1" "$dir/worker2"; do
        ask "$dir" "$option" "SELECT citus_add_node('$node', 5432)" >/dev/null
    done
    ask "$dir" postgres "ALTER DATABASE $option SET citus.shard_count = 4"
    # When the importer makes the last of its objects.
    ask "$dir" "$option" "CREATE SCHEMA citus_test; CREATE FUNCTION citus_test.distribute() RETURNS event_trigger
        LANGUAGE plpgsql AS \$distribute\$
        BEGIN
            -- Not for somebody else's function of that name.
            IF to_regclass('traffic_rollups') IS NOT NULL AND EXISTS (
                SELECT FROM pg_event_trigger_ddl_commands()
                WHERE object_identity LIKE '%traffic_open_connections(%') THEN
                $(sed -n '/^DO \$\$/,/^END \$\$;/p' "$distribute" | sed '1d; s/^END \$\$;/END;/')
            END IF;
        END \$distribute\$;
        CREATE EVENT TRIGGER distribute ON ddl_command_end WHEN TAG IN ('CREATE FUNCTION')
        EXECUTE FUNCTION citus_test.distribute()"
}

command=${1:-}
dir=${2:-}
option=${3:-}
case "$command:$dir:$option" in
start:?*: | start:?*:--no-fsync) start ;;
stop:?*: | stop:?*:--immediate) stop ;;
available::) available ;;
database:?*:?*) database ;;
*)
    echo "usage: citus_cluster.sh start DIR [--no-fsync] | stop DIR [--immediate] | database DIR NAME | available" >&2
    exit 2
    ;;
esac
