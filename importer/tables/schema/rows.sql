-- The rows, and which files they came from.
--
-- In all these files @extschema@ is the schema of our tables. Every function has search_path = pg_catalog, pg_temp and names
-- the schema: in a schema of its path where others may create, it could find a function or an operator of theirs that
-- fits its arguments better than PostgreSQL's own, and would run it with the caller's or the owner's rights. For the same
-- reason a function of ours gets arguments of exactly its types. The other settings: a Citus coordinator sends times to
-- its workers as text in these styles.

-- Columns of eight bytes first, then of four, then those of variable length: no padding between them. About 128 bytes a
-- row, of which 28 are PostgreSQL's own. Partitions are made by traffic_make_partitions().
CREATE TABLE vpn_traffic (
    time timestamptz NOT NULL,
    src_packets bigint NOT NULL,
    src_bytes bigint NOT NULL,
    dst_packets bigint NOT NULL,
    dst_bytes bigint NOT NULL,
    connection_times bigint NOT NULL,
    connection_count integer NOT NULL DEFAULT 0,
    open_connections integer NOT NULL DEFAULT 0,
    flow_count integer NOT NULL DEFAULT 0,
    unanswered_count integer NOT NULL DEFAULT 0,
    port integer NOT NULL,
    src inet NOT NULL,
    dst inet NOT NULL,
    proto text NOT NULL,
    gateway text NOT NULL DEFAULT ''
) PARTITION BY RANGE (time);
COMMENT ON TABLE vpn_traffic IS
    'Traffic between two masked peers within one interval. Data quality: traffic_intervals. Sums: traffic().';
COMMENT ON COLUMN vpn_traffic.time IS 'End of the interval.';
COMMENT ON COLUMN vpn_traffic.src IS 'The peer that opened the connection, masked.';
COMMENT ON COLUMN vpn_traffic.dst IS 'The other peer, masked.';
COMMENT ON COLUMN vpn_traffic.port IS 'Destination port; -1: not on the port list; 0: the protocol has none.';
COMMENT ON COLUMN vpn_traffic.src_packets IS 'Packets in the original direction; dst_packets: replies. src_bytes and dst_bytes: their IP bytes.';
COMMENT ON COLUMN vpn_traffic.connection_count IS 'Connections closed within the interval (TCP, DCCP, SCTP).';
COMMENT ON COLUMN vpn_traffic.connection_times IS 'Sum of their durations, milliseconds.';
COMMENT ON COLUMN vpn_traffic.open_connections IS 'Connections open at the interval''s end; 0 if they were not tracked.';
COMMENT ON COLUMN vpn_traffic.flow_count IS 'Flows of any protocol that ended within the interval; 0 in CSV files.';
COMMENT ON COLUMN vpn_traffic.unanswered_count IS 'Of these flows, those without a single reply packet.';

-- Rows arrive in the order of time, and within an interval sorted by src, so block ranges find an interval, and in it an
-- origin; btrees would cost more than the rows. Every question reads the index of its days completely: with smaller ranges
-- that would be slow (a day of 100 GB has 400,000 of these: 75 ms), and larger ones have more rows of others (bench/CHOICES.md).
-- The networks that inet's default operators note would be much wider than the addresses of a range.
CREATE INDEX vpn_traffic_time ON vpn_traffic USING brin (time, src inet_minmax_ops) WITH (pages_per_range = 32);

-- Written in the same transaction as the rows: a file listed here is loaded, any other file is not.
CREATE TABLE import_ledger (
    engine uuid NOT NULL,
    sequence bigint NOT NULL,
    checksum bigint NOT NULL,
    row_count bigint NOT NULL,
    interval_end timestamptz,
    interval_length interval,
    completeness text CHECK (completeness IN ('complete', 'resynced', 'partial')),
    events_dropped bigint NOT NULL DEFAULT 0,
    imported_at timestamptz NOT NULL DEFAULT now(),
    gateway text NOT NULL,
    source_file text NOT NULL,
    flows_lost bigint NOT NULL DEFAULT 0,
    covered_from timestamptz,
    covered_to timestamptz CHECK (covered_to >= covered_from),
    ports_checksum bigint,
    src_mask inet,
    dst_mask inet,
    src_mask6 inet,
    dst_mask6 inet,
    mode text CHECK (mode IN ('precise', 'light')),
    source_identity text,
    names_time timestamptz,
    PRIMARY KEY (engine, sequence)
);
COMMENT ON TABLE import_ledger IS
    'One row for each file that is in the database, written in the same transaction as its rows or names.';
COMMENT ON COLUMN import_ledger.engine IS 'Run of the engine, or of `names`; for CSV files a hash of gateway and contents.';
COMMENT ON COLUMN import_ledger.sequence IS 'Number of the file within that run; 0 for CSV files.';
COMMENT ON COLUMN import_ledger.checksum IS '64 bits, as a signed number.';
COMMENT ON COLUMN import_ledger.interval_end IS
    'NULL for CSV and names files, like interval_length, completeness, covered_from, covered_to, the masks and mode.';
COMMENT ON COLUMN import_ledger.completeness IS
    'complete; resynced: packets and bytes are exact, some closes may be missing; partial: some traffic may be missing.';
COMMENT ON COLUMN import_ledger.events_dropped IS 'Events that the kernel dropped within the interval.';
COMMENT ON COLUMN import_ledger.flows_lost IS 'Sum over the file''s gaps. A lower bound.';
COMMENT ON COLUMN import_ledger.covered_from IS
    'What the engine observed: the rows contain what moved from covered_from to covered_to. Rates are over this time.';
COMMENT ON COLUMN import_ledger.ports_checksum IS
    'Of the port list in force, as a signed number; NULL: none. If it changes, the same traffic may have another port.';
COMMENT ON COLUMN import_ledger.src_mask IS 'The group mask of src for IPv4; dst_mask: of dst; src_mask6, dst_mask6: for IPv6. If '
    'it changes, the same traffic has another address.';
COMMENT ON COLUMN import_ledger.mode IS 'The engine''s -mode.';
COMMENT ON COLUMN import_ledger.source_identity IS
    'Of CSV files without a named gateway: device, inode and time of change. Another file with equal contents is not the same.';
COMMENT ON COLUMN import_ledger.names_time IS
    'Of names files: when the snapshot was true. Such a file has no rows and no interval.';
COMMENT ON COLUMN import_ledger.source_file IS 'The file''s name, unusual bytes escaped.';

-- An hour of a season without reading the season, for traffic_intervals; and for traffic() without reading the table.
CREATE INDEX import_ledger_interval ON import_ledger (interval_end, gateway) INCLUDE (covered_from, covered_to)
WHERE interval_end IS NOT NULL;
-- The few intervals that are not complete, for traffic_gap_regions.
CREATE INDEX import_ledger_incomplete ON import_ledger (interval_end) WHERE completeness <> 'complete';

-- The next snapshot of a gateway.
CREATE INDEX import_ledger_names ON import_ledger (gateway, names_time) WHERE names_time IS NOT NULL;
-- The group masks that a gateway has had, without reading the ledger.
CREATE INDEX import_ledger_masks ON import_ledger (gateway, src_mask, dst_mask, src_mask6, dst_mask6)
WHERE interval_end IS NOT NULL;

COMMENT ON TABLE ctacct_schema IS 'Versions of the schema that the importer has applied.';

-- Copies the rows of a table with the columns of the Go tool's vpn_traffic, of any types, under the name of a gateway,
-- and returns their number. The ledger remembers the table's name: a second call does nothing and returns NULL.
CREATE FUNCTION traffic_adopt(source regclass, gateway_name text) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET datestyle = 'ISO'
SET intervalstyle = 'postgres' AS $$
DECLARE
    adopted bigint;
    wrong_count bigint;
    wrong constant text := 'port NOT BETWEEN -1 AND 65535 OR least(src_packets, src_bytes, dst_packets, dst_bytes, '
        'connection_times, connection_count, open_connections) < 0';
    source_name constant text := (SELECT format('%I.%I', relnamespace::regnamespace, relname) FROM pg_class
                                  WHERE oid = source);
BEGIN
    INSERT INTO @extschema@.import_ledger (engine, sequence, checksum, row_count, gateway, source_file)
    VALUES (md5('table ' || source_name)::uuid, 0, 0, 0, gateway_name, 'table ' || source_name) ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN RETURN NULL; END IF;
    -- It is read more than once below and must not change in between.
    IF (SELECT relkind FROM pg_class WHERE oid = source) IN ('r', 'p') THEN
        EXECUTE format('LOCK TABLE %s IN SHARE MODE', source);
    END IF;
    EXECUTE format(
        'CREATE TEMPORARY VIEW traffic_adopted AS SELECT time::timestamptz AS time, src_packets::bigint, '
        'src_bytes::bigint, dst_packets::bigint, dst_bytes::bigint, coalesce(connection_times, 0)::bigint AS '
        'connection_times, coalesce(connection_count, 0)::integer AS connection_count, coalesce(open_connections, 0)'
        '::integer AS open_connections, 0 AS flow_count, 0 AS unanswered_count, port::integer, src::inet, dst::inet, proto::text, %L::text AS gateway FROM %s',
        gateway_name, source);
    EXECUTE 'SELECT count(*) FROM pg_temp.traffic_adopted WHERE ' || wrong INTO wrong_count;
    IF wrong_count > 0 THEN
        RAISE EXCEPTION 'correct % rows with impossible values first: WHERE %', wrong_count, wrong;
    END IF;
    PERFORM @extschema@.traffic_make_partitions(
        (SELECT array_agg(day) || array_agg(day + interval '1 day' - interval '1 us')
         FROM (SELECT DISTINCT date_bin('1 day', time, 'epoch') AS day FROM pg_temp.traffic_adopted) AS days));
    INSERT INTO @extschema@.vpn_traffic (time, src_packets, src_bytes, dst_packets, dst_bytes, connection_times,
                                         connection_count, open_connections, flow_count, unanswered_count, port, src,
                                         dst, proto, gateway)
    SELECT * FROM pg_temp.traffic_adopted;
    GET DIAGNOSTICS adopted = ROW_COUNT;
    PERFORM @extschema@.traffic_roll_up('pg_temp.traffic_adopted'::regclass);
    PERFORM @extschema@.traffic_add_covered(array_agg(half_hour), array_agg(gateway_name), array_agg(-1::bigint))
    FROM (SELECT DISTINCT date_bin('30 min', time - interval '1 us', 'epoch') + interval '30 min' AS half_hour
          FROM pg_temp.traffic_adopted ORDER BY 1) AS half_hours;
    DROP VIEW traffic_adopted;  -- Without pg_temp: Citus would not find it.
    UPDATE @extschema@.import_ledger SET row_count = adopted
    WHERE engine = md5('table ' || source_name)::uuid AND sequence = 0;
    RETURN adopted;
END $$;
REVOKE ALL ON FUNCTION traffic_adopt FROM PUBLIC;
