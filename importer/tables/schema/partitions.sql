-- Partitions by time, of vpn_traffic and of all rollups. No table of ours has a default partition: making another
-- partition would have to lock and search it.

CREATE TABLE traffic_partitions (
    name text PRIMARY KEY,
    parent text NOT NULL,
    lower timestamptz NOT NULL,
    upper timestamptz NOT NULL,
    CHECK (lower < upper)
);
COMMENT ON TABLE traffic_partitions IS 'The partitions that traffic_make_partitions() has made: lower <= time < upper.';
CREATE INDEX traffic_partitions_parent ON traffic_partitions (parent, upper, lower);

-- Makes the missing partitions for these moments. Attaching takes no lock that a reader or another importer's COPY would
-- wait for.
CREATE FUNCTION traffic_make_partitions(moments timestamptz[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET datestyle = 'ISO'
SET intervalstyle = 'postgres' AS $$
DECLARE
    missing record;
    name_made text;
BEGIN
    -- Two importers must not make the same partition. The schema's lock (importer/tables/versions.cc) + 1.
    PERFORM pg_advisory_xact_lock(109351501259637);
    FOR missing IN
        SELECT DISTINCT parent, width, fillfactor, date_bin(width, step_end, 'epoch') AS lower
        FROM (SELECT 'vpn_traffic' AS parent, interval '1 day' AS width, interval '1 us' AS step, 100 AS fillfactor
              UNION ALL
              -- Sums grow with each interval. If the page has room for the new row, the index need not change.
              SELECT 'traffic_' || name, partition_width, step, CASE WHEN step > '1 ms' THEN 50 ELSE 100 END
              FROM @extschema@.traffic_rollups) AS parents
        CROSS JOIN unnest(moments) AS moment
        CROSS JOIN date_bin(step, moment - interval '1 us', 'epoch') AS step_start
        CROSS JOIN LATERAL (SELECT step_start + step AS step_end) AS steps
        WHERE NOT EXISTS (SELECT FROM @extschema@.traffic_partitions AS partition
                          WHERE partition.parent = parents.parent AND partition.lower <= step_end
                            AND step_end < partition.upper)
        ORDER BY parent, lower
    LOOP
        name_made := format('%s_%s', missing.parent, to_char(missing.lower AT TIME ZONE 'UTC', 'YYYYMMDD'));
        -- Vacuum also summarizes new pages for BRIN. Every query of the day reads the pages that it has not summarized.
        EXECUTE format('CREATE TABLE @extschema@.%I (LIKE @extschema@.%I INCLUDING ALL) WITH (fillfactor = %s, '
                       'autovacuum_vacuum_insert_scale_factor = 0.02)', name_made, missing.parent, missing.fillfactor);
        EXECUTE format('ALTER TABLE @extschema@.%I ATTACH PARTITION @extschema@.%I FOR VALUES FROM (%L) TO (%L)',
                       missing.parent, name_made, missing.lower, missing.lower + missing.width);
        INSERT INTO @extschema@.traffic_partitions
        VALUES (name_made, missing.parent, missing.lower, missing.lower + missing.width);
    END LOOP;
END $$;
REVOKE ALL ON FUNCTION traffic_make_partitions FROM PUBLIC;
