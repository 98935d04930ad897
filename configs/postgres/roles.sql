-- Two roles: an importer that may only add, and a reader for Grafana. Run it in the traffic's database, as the owner of
-- its tables (who needs CREATEROLE) or as a superuser, once the tables are there and again after an upgrade of ctacct:
--
--   ctacct-importer -conninfo='dbname=traffic user=OWNER' -migrate    creates or upgrades the tables
--   psql -1 -v ON_ERROR_STOP=1 -f roles.sql 'dbname=traffic user=OWNER'
--   psql -c '\password ctacct_importer' -c '\password ctacct_reader' 'dbname=traffic user=OWNER'
DO $$
DECLARE
    role text;
    tables_owner text;
BEGIN
    FOREACH role IN ARRAY '{ctacct_importer,ctacct_reader}'::text[] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
            EXECUTE format('CREATE ROLE %I LOGIN', role);
        END IF;
        EXECUTE format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), role);
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', current_schema(), role);
    END LOOP;
    -- The reader: every table and view, also those that do not exist yet.
    SELECT tableowner INTO STRICT tables_owner FROM pg_tables
    WHERE schemaname = current_schema() AND tablename = 'vpn_traffic';
    EXECUTE format('GRANT SELECT ON ALL TABLES IN SCHEMA %I TO ctacct_reader', current_schema());
    EXECUTE format('ALTER DEFAULT PRIVILEGES FOR ROLE %I IN SCHEMA %I GRANT SELECT ON TABLES TO ctacct_reader',
                   tables_owner, current_schema());
END $$;

-- Limits for a dashboard's mistakes. These are no rights: the reader may change them for its session, but still cannot
-- write.
ALTER ROLE ctacct_reader SET default_transaction_read_only = on;
ALTER ROLE ctacct_reader SET statement_timeout = '30s';
ALTER ROLE ctacct_reader SET idle_in_transaction_session_timeout = '30s';

-- The importer adds rows and reads the ledger. It reads no traffic, and changes and deletes nothing.
GRANT SELECT ON ctacct_schema TO ctacct_importer;
GRANT SELECT, INSERT ON import_ledger TO ctacct_importer;
GRANT INSERT ON vpn_traffic, traffic_gaps, traffic_names_arriving TO ctacct_importer;
GRANT EXECUTE ON FUNCTION traffic_make_partitions, traffic_summarize, traffic_worth_sending, traffic_add, traffic_add_covered,
    traffic_load_names TO ctacct_importer;
-- For its doctor: the sizes of tables.
GRANT EXECUTE ON FUNCTION traffic_growth TO ctacct_importer;
-- Only needed with its -retention flags, with which it also drops old partitions:
-- GRANT EXECUTE ON FUNCTION traffic_drop_partition TO ctacct_importer;
