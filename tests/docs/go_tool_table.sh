#!/bin/bash
# For tests/docs/docs_test.py: a database with a table as the Go tool's importer makes it (docs/migration.md).
set -euo pipefail
createdb season2020
psql -X -q -v ON_ERROR_STOP=1 -d season2020 <<'SQL'
CREATE TABLE vpn_traffic (time timestamptz NOT NULL, src varchar(18), dst varchar(18), proto varchar(4), port integer,
  src_packets bigint, src_bytes bigint, dst_packets bigint, dst_bytes bigint, connection_times integer,
  connection_count integer, open_connections integer);
INSERT INTO vpn_traffic
SELECT '2020-07-04 12:00Z'::timestamptz + n * interval '15 s', '10.32.1.0', '10.32.2.0', 'tcp', 443, n, n, n, n, n, 1, 0
FROM generate_series(1, 1000) AS n;
SQL
