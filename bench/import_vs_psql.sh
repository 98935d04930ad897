#!/bin/sh
# The importer against the fastest thing there is: `psql \copy vpn_traffic from FILE (format binary)`.
#
#   bench/import_vs_psql.sh [RUNS] [BAZEL_OPTIONS...]     default 5 runs
#
# One million rows in 10 spool files, the same rows in one binary COPY file, the same table in a private cluster (fsync
# on). Runs alternate, each begins with an empty table and a finished checkpoint; wall-clock of the whole process. Both
# must leave the same rows. psql neither checks its file nor remembers it, and keeps no rollups.
set -eu
runs=${1:-5}
[ $# -gt 0 ] && shift
cd "$(dirname "$0")/.."
# shellcheck disable=SC2086 # Several options, or none.
run_bazel() { bazel ${BAZEL_STARTUP_OPTIONS:-} "$@"; }
run_bazel build --noshow_progress --ui_event_filters=-info "$@" //importer //bench:spool_generator
bin=$(run_bazel info "$@" bazel-bin 2>/dev/null)
work=$(mktemp -d /tmp/ctacct_bench.XXXXXX)
chmod 755 "$work"
trap 'tests/support/private_postgres.sh stop "$work/pg" --immediate; rm -rf "$work"' EXIT
trap 'exit 1' INT TERM
tests/support/private_postgres.sh start "$work/pg"
db="host=$work/pg user=postgres dbname=postgres"
sql() { psql -X -q -At -v ON_ERROR_STOP=1 "$db" -c "$1"; }
now_ms() { echo $(($(date +%s%N) / 1000000)); }
sums() { sql "SELECT count(*), sum(src_packets), sum(dst_packets), sum(src_bytes), sum(dst_bytes) FROM vpn_traffic"; }
median() { sort -n | awk '{v[NR] = $1} END {print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2}'; }

mkdir "$work/spool" "$work/watch"
"$bin/bench/spool_generator" -output="$work/spool" -files=10 -rows=100000

import() {
    ln "$work"/spool/*.spool "$work/watch/"
    "$bin/importer/importer" -conninfo="$db" -watch="$work/watch" -once 2>/dev/null
}
by_psql() { psql -X -q "$db" -c "\\copy vpn_traffic from '$work/rows' (format binary)"; }
fresh() {
    sql "DO \$\$ BEGIN EXECUTE (SELECT 'TRUNCATE vpn_traffic, import_ledger, ' || string_agg('traffic_' || name, ', ')
         FROM traffic_rollups); END \$\$"
    sql "CHECKPOINT"
}

# Once to warm up, and to make psql's file.
import
psql -X -q "$db" -c "\\copy vpn_traffic to '$work/rows' (format binary)"
expected=$(sums)
: >"$work/importer" && : >"$work/psql"
run=1
while [ "$run" -le "$runs" ]; do
    for who in importer psql; do
        fresh
        start=$(now_ms)
        if [ "$who" = importer ]; then import; else by_psql; fi
        took=$(($(now_ms) - start))
        echo "$took" >>"$work/$who"
        [ "$(sums)" = "$expected" ] || { echo "$who: wrong sums" >&2; exit 1; }
        echo "run $run $who $took ms"
    done
    run=$((run + 1))
done
importer_ms=$(median <"$work/importer")
psql_ms=$(median <"$work/psql")
awk -v i="$importer_ms" -v p="$psql_ms" 'BEGIN {
    printf "median: importer %d ms (%d rows/s), psql %d ms (%d rows/s), importer at %.2f of psql\n",
           i, 1e9 / i, p, 1e9 / p, p / i }'
