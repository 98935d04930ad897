-- Past one machine: spreads the tables over the workers of a Citus cluster (12.1 and later). Run it on the coordinator
-- in the importer's database, as the owner of the tables, when the importer has made them:
--
--   psql -X -v ON_ERROR_STOP=1 -d traffic -f citus.sql
--
-- and again after an importer of a newer version has added tables: what is distributed already stays as it is. Rows that
-- are there move to the workers, which takes as long as to load them again; importers and dashboards
-- wait. All of it is one transaction: if it fails, nothing has changed.
--
-- Before that, the cluster. Every node has the same major version of PostgreSQL and the same version of Citus.
--
-- 1. On every node, in postgresql.conf, then restart:
--      shared_preload_libraries = 'citus'    alone or first
--      max_prepared_transactions = 200       at least max_connections: a transaction that spans nodes commits in two phases
--      listen_addresses = '*'
-- 2. On every node, in pg_hba.conf: every other node, for the tables' owner, a superuser and the roles of roles.sql. A node
--    asks another one under the role that asked it:
--      hostssl traffic all 192.0.2.0/29 scram-sha-256
--    and on every node, in ~postgres/.pgpass (mode 0600), the passwords of these roles, with which it asks the others:
--      db1.example.org:5432:traffic:ctacct_reader:PASSWORD
--    Instead of the files, the table pg_dist_authinfo of the coordinator's database can have them.
-- 3. On every node, as superuser:
--      CREATE DATABASE traffic;                 and within it
--      CREATE EXTENSION citus;
-- 4. On the coordinator, within that database, as superuser:
--      SELECT citus_set_coordinator_host('db0.example.org', 5432);
--      SELECT citus_add_node('db1.example.org', 5432), citus_add_node('db2.example.org', 5432);
-- 5. The importer, once: ctacct-importer -conninfo='host=db0.example.org dbname=traffic user=OWNER' -migrate
-- 6. This file, then roles.sql, both on the coordinator. Roles that are created there are created on the workers as well,
--    with their passwords.
--
-- Importers and Grafana connect to the coordinator and need not know. What lies where:
--   rows          by origin, so that one busy gateway uses all workers
--   rollups       by gateway: all sums of a gateway on one node, so that no question joins across nodes
--   ledger, covered times, gaps, traffic_unlisted, lists of rollups and partitions, and locks: on the coordinator
-- A file is still loaded once or not at all: Citus commits in two phases. If a node dies in between, what it has
-- prepared shows when the coordinator has asked it again (citus.recover_2pc_interval, a minute).

-- The number of tables (shards) of each partition. The largest number of workers that is ever expected is enough.
SET citus.shard_count = 8;
-- Citus would log each partition that it copies, with advice on what is done below anyway.
SET client_min_messages = warning;

DO $$
DECLARE
    each record;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'citus') THEN
        RAISE EXCEPTION 'citus.sql: this database has no extension citus: CREATE EXTENSION citus';
    ELSIF to_regclass('traffic_rollups') IS NULL THEN
        RAISE EXCEPTION 'citus.sql: no tables yet: run the importer once (-watch=DIR -once)';
    END IF;
    -- An importer takes these two first as well: it waits here, not in the middle.
    PERFORM pg_advisory_xact_lock(109351501259636), pg_advisory_xact_lock(109351501259637);
    LOCK TABLE import_ledger IN SHARE ROW EXCLUSIVE MODE;
    FOR each IN
        SELECT name, distributed_by
        FROM (SELECT 'vpn_traffic' AS name, 'src' AS distributed_by
              UNION ALL
              SELECT 'traffic_' || name, 'gateway' FROM traffic_rollups) AS tables
        WHERE NOT EXISTS (SELECT FROM pg_dist_partition WHERE logicalrelid = name::regclass)
        ORDER BY name
    LOOP
        PERFORM create_distributed_table(each.name, each.distributed_by);
        -- What was moved would stay here, unseen, for ever.
        PERFORM truncate_local_data_after_distributing_table(each.name::regclass);
    END LOOP;
END $$;

RESET client_min_messages;
RESET citus.shard_count;

SELECT table_name, distribution_column, shard_count FROM citus_tables
WHERE table_name = 'vpn_traffic'::regclass OR EXISTS (
    SELECT FROM traffic_rollups WHERE table_name = ('traffic_' || name)::regclass)
ORDER BY table_name::text;
