-- Retention: what is dropped, and what has been.

CREATE TABLE traffic_tiers (
    tier text PRIMARY KEY,
    kept_from timestamptz NOT NULL DEFAULT '-infinity'
);
COMMENT ON TABLE traffic_tiers IS 'What retention has dropped: nothing is complete before kept_from.';
INSERT INTO traffic_tiers VALUES ('rows'), ('fine'), ('10m'), ('1h');

-- Drops the oldest partition of a tier ('rows' or one of traffic_rollups) that ends at or before a moment, and returns its
-- name; no row if there is none. A partition of rows is dropped only if the rollups have all its rows; otherwise `dropped`
-- is false. This check reads the whole partition, and the importer's files wait for it. The lock is waited for only two
-- seconds: behind a waiting lock all other queries would wait for a dashboard's long one.
CREATE FUNCTION traffic_drop_partition(tier_dropped text, before timestamptz, after text DEFAULT '')
RETURNS TABLE (partition text, dropped boolean)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET datestyle = 'ISO'
SET intervalstyle = 'postgres' SET lock_timeout = '2s' AS $$
DECLARE
    oldest @extschema@.traffic_partitions;
    differs boolean := false;
BEGIN
    IF tier_dropped NOT IN ('rows', 'fine', '10m', '1h') THEN
        RAISE EXCEPTION 'no such tier: %', tier_dropped USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT candidate.* INTO oldest FROM @extschema@.traffic_partitions AS candidate
    LEFT JOIN @extschema@.traffic_rollups AS rollup ON candidate.parent = 'traffic_' || rollup.name
    WHERE coalesce(rollup.tier, 'rows') = tier_dropped AND candidate.upper <= before AND candidate.name > after
    ORDER BY candidate.name LIMIT 1;
    IF NOT FOUND THEN RETURN; END IF;
    partition := oldest.name;
    IF tier_dropped = 'rows' THEN
        -- The rollups may have more: rows that were dropped before late rows made their partition again.
        EXECUTE format(
            'SELECT EXISTS (SELECT FROM (SELECT time, gateway, count(*) AS row_count, sum(src_packets) AS src_packets, '
            '  sum(src_bytes) AS src_bytes, sum(dst_packets) AS dst_packets, sum(dst_bytes) AS dst_bytes, '
            '  sum(connection_times) AS connection_times, sum(connection_count) AS connection_count, '
            '  sum(flow_count) AS flow_count, sum(unanswered_count) AS unanswered_count '
            '  FROM @extschema@.%I GROUP BY time, gateway) AS facts '
            'LEFT JOIN @extschema@.traffic_total AS held USING (time, gateway) '
            'WHERE (held.row_count >= facts.row_count AND %s) IS NOT TRUE)', oldest.name,
            -- A sum that did not fit stayed at its maximum.
            (SELECT string_agg(format('held.%1$s >= least(facts.%1$s, 9223372036854775807)', name), ' AND ')
             FROM unnest('{src_packets,src_bytes,dst_packets,dst_bytes,connection_times,connection_count,flow_count,'
                         'unanswered_count}'::text[])
                  AS name))
        INTO differs;
    END IF;
    dropped := NOT differs;
    IF dropped THEN
        EXECUTE format('DROP TABLE @extschema@.%I', oldest.name);
        DELETE FROM @extschema@.traffic_unlisted
        WHERE 'traffic_' || rollup = oldest.parent AND time >= oldest.lower AND time < oldest.upper;
        DELETE FROM @extschema@.traffic_partitions WHERE name = oldest.name;
        UPDATE @extschema@.traffic_tiers SET kept_from = greatest(kept_from, oldest.upper) WHERE tier = tier_dropped;
    END IF;
    RETURN NEXT;
END $$;
REVOKE ALL ON FUNCTION traffic_drop_partition FROM PUBLIC;

-- How fast each table grows, for the doctor: bytes per day of what the last 7 days have added. A day is one of the rows' times, so
-- an archive of past years is no growth. Whole partitions are measured, those of now and of the 7 days before it. NULL: its
-- first rows are younger than three hours. It has the owner's rights because an importer's role may not read these tables.
CREATE FUNCTION traffic_growth()
RETURNS TABLE (name text, tier text, bytes_per_day double precision, partition_ends timestamptz[])
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET datestyle = 'ISO'
SET intervalstyle = 'postgres' AS $$
    WITH parents AS (
        SELECT parent, tier, date_bin(width, now() - interval '7 days', 'epoch') AS lower
        FROM (SELECT 'vpn_traffic' AS parent, 'rows' AS tier, interval '1 day' AS width
              UNION ALL SELECT 'traffic_' || name, tier, partition_width FROM @extschema@.traffic_rollups) AS each
    ), measured AS (
        SELECT parent, tier,
               (SELECT coalesce(sum(pg_total_relation_size(to_regclass(format('@extschema@.%I', part.name)))), 0)
                FROM @extschema@.traffic_partitions AS part
                WHERE part.parent = parents.parent AND part.lower >= parents.lower AND part.lower <= now()) AS bytes,
               -- Half hours by their end. Before them there was nothing, or it was dropped.
               greatest(lower, (SELECT kept_from FROM @extschema@.traffic_tiers AS kept WHERE kept.tier = parents.tier),
                        (SELECT min(time) - interval '30 min' FROM @extschema@.traffic_covered WHERE time > parents.lower)) AS since,
               ARRAY(SELECT upper FROM @extschema@.traffic_partitions AS part WHERE part.parent = parents.parent ORDER BY upper) AS partition_ends
        FROM parents
        UNION ALL
        -- Never dropped.
        SELECT relname, NULL, pg_total_relation_size(pg_class.oid),
               (SELECT min(time) - interval '30 min' FROM @extschema@.traffic_covered), NULL
        FROM pg_class
        WHERE relnamespace = '@extschema@'::regnamespace AND relname IN ('import_ledger', 'traffic_covered', 'traffic_gaps')
    )
    SELECT parent, tier,
           CASE WHEN bytes = 0 THEN 0
                WHEN since < now() - interval '3 hours' THEN bytes / (extract(epoch FROM now() - since) / 86400) END::double precision,
           partition_ends
    FROM measured
$$;
REVOKE ALL ON FUNCTION traffic_growth FROM PUBLIC;
COMMENT ON FUNCTION traffic_growth IS
    'By how many bytes a day each table has grown in the last 7 days (NULL: not yet known), and when its partitions end.';
