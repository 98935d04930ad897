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
        -- Vacuum also summarizes the pages for BRIN that traffic_summarize has left out. It keeps that function from working
        -- until it is done, so it does not pause.
        EXECUTE format('CREATE TABLE @extschema@.%I (LIKE @extschema@.%I INCLUDING ALL) WITH (fillfactor = %s%s)',
                       name_made, missing.parent, missing.fillfactor, CASE WHEN missing.parent = 'vpn_traffic' THEN
                       ', autovacuum_vacuum_insert_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0' END);
        EXECUTE format('ALTER TABLE @extschema@.%I ATTACH PARTITION @extschema@.%I FOR VALUES FROM (%L) TO (%L)',
                       missing.parent, name_made, missing.lower, missing.lower + missing.width);
        INSERT INTO @extschema@.traffic_partitions
        VALUES (name_made, missing.parent, missing.lower, missing.lower + missing.width);
    END LOOP;
END $$;
REVOKE ALL ON FUNCTION traffic_make_partitions FROM PUBLIC;

-- Lets the BRIN index of vpn_traffic know the newest pages of the partitions that contain these moments: every query of
-- such a day reads all pages that the index does not know. Called by the importer after its commit. It waits for nobody: if
-- another importer or vacuum works on a partition, that one does the same, or the next call does. Where the rows are on
-- other machines (Citus), their vacuum does it.
CREATE FUNCTION traffic_summarize(moments timestamptz[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET datestyle = 'ISO'
SET intervalstyle = 'postgres' AS $$
DECLARE
    each record;
    page bigint;
    -- Those of 20 million rows. What is older is left to vacuum: it could take longer than the importer waits.
    ranges_left integer := 10000;
BEGIN
    FOR each IN
        SELECT name, index_class.oid AS index,
               pg_relation_size(table_class.oid) / current_setting('block_size')::integer AS pages,
               (SELECT option_value::integer FROM pg_options_to_table(index_class.reloptions)
                WHERE option_name = 'pages_per_range') AS range_pages
        FROM (SELECT DISTINCT name, upper FROM @extschema@.traffic_partitions
              JOIN unnest(moments) AS moment ON lower <= moment AND moment < upper
              WHERE parent = 'vpn_traffic') AS partitions
        JOIN pg_class AS table_class ON table_class.relname = name
            AND table_class.relnamespace = '@extschema@'::regnamespace
        JOIN pg_index ON indrelid = table_class.oid
        JOIN pg_class AS index_class ON index_class.oid = indexrelid
        JOIN pg_am ON pg_am.oid = index_class.relam AND amname = 'brin'
        ORDER BY upper DESC
    LOOP
        page := each.pages - 1;
        CONTINUE WHEN page < 0;
        BEGIN
            EXECUTE format('LOCK TABLE @extschema@.%I IN SHARE UPDATE EXCLUSIVE MODE NOWAIT', each.name);
        EXCEPTION WHEN lock_not_available OR undefined_table THEN
            CONTINUE;
        END;
        -- From the newest to the first that is known.
        WHILE page >= 0 AND ranges_left > 0 AND brin_summarize_range(each.index, page) > 0 LOOP
            page := page - each.range_pages;
            ranges_left := ranges_left - 1;
        END LOOP;
    END LOOP;
END $$;
REVOKE ALL ON FUNCTION traffic_summarize FROM PUBLIC;
