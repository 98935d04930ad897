-- Rollups of vpn_traffic: sums at coarser steps and for fewer columns, changed in the same transaction as the rows.
--
-- traffic_rollups lists them. The importer knows their names, columns and steps (importer/tables/rollup.cc): both change
-- together. The functions that write are SECURITY DEFINER, so that an importer needs no right but to insert rows and to
-- call them.

CREATE TABLE traffic_rollups (
    name text PRIMARY KEY,
    grouping_columns text[] NOT NULL,
    step interval NOT NULL,
    tier text NOT NULL,
    partition_width interval NOT NULL,
    range_max interval NOT NULL
);

COMMENT ON TABLE traffic_rollups IS
    'The rollups of vpn_traffic: table traffic_<name> each. Read them through traffic() and traffic_open_connections().';
COMMENT ON COLUMN traffic_rollups.step IS 'Width of its points; 1 us: the interval as it was measured.';
COMMENT ON COLUMN traffic_rollups.tier IS 'The rollups of a tier are dropped together by retention.';
COMMENT ON COLUMN traffic_rollups.range_max IS
    'The longest range for which traffic() reads it; change it if your tables are smaller or larger.';

-- With 100 origins and 100 destinations, range_max keeps a query below about 200,000 rows of a rollup.
INSERT INTO traffic_rollups (name, grouping_columns, step, tier, partition_width, range_max) VALUES
    -- Kept as long as the coarsest: it has few rows, and the number of intervals within a step is counted from it.
    ('total',                '{}',                   '1 us',  '1h',   '32 days', '30 days'),
    ('port_fine',            '{proto,port}',         '1 us',  'fine', '1 day',   '3 h'),
    ('port_1m',              '{proto,port}',         '1 min', 'fine', '1 day',   '16 h'),
    ('port_10m',             '{proto,port}',         '10 min', '10m', '8 days',  '30 days'),
    ('port_1h',              '{proto,port}',         '1 h',   '1h',   '32 days', '1000000 days'),
    ('origin_fine',          '{src}',                '1 us',  'fine', '1 day',   '3 h'),
    ('origin_1m',            '{src}',                '1 min', 'fine', '1 day',   '16 h'),
    ('origin_10m',           '{src}',                '10 min', '10m', '8 days',  '14 days'),
    ('origin_1h',            '{src}',                '1 h',   '1h',   '32 days', '1000000 days'),
    ('destination_fine',     '{dst}',                '1 us',  'fine', '1 day',   '3 h'),
    ('destination_1m',       '{dst}',                '1 min', 'fine', '1 day',   '16 h'),
    ('destination_10m',      '{dst}',                '10 min', '10m', '8 days',  '14 days'),
    ('destination_1h',       '{dst}',                '1 h',   '1h',   '32 days', '1000000 days'),
    ('pair_30m',             '{src,dst}',            '30 min', '10m', '1 day',   '3 h'),
    ('pair_1h',              '{src,dst}',            '1 h',   '1h',   '8 days',  '1000000 days'),
    ('origin_port_10m',      '{src,proto,port}',     '10 min', '10m', '8 days',  '16 h'),
    ('origin_port_1h',       '{src,proto,port}',     '1 h',   '1h',   '32 days', '1000000 days'),
    ('destination_port_10m', '{dst,proto,port}',     '10 min', '10m', '8 days',  '16 h'),
    ('destination_port_1h',  '{dst,proto,port}',     '1 h',   '1h',   '32 days', '1000000 days'),
    ('pair_port_1h',         '{src,dst,proto,port}', '1 h',   '1h',   '1 day',   '1000000 days');

DO $$
DECLARE
    rollup traffic_rollups;
    key text;
BEGIN
    FOR rollup IN SELECT * FROM traffic_rollups LOOP
        -- The gateway last: dashboards seldom filter by it, and so the index finds an origin or a pair.
        key := array_to_string('{time}'::text[] || rollup.grouping_columns || '{gateway}'::text[], ', ');
        EXECUTE format(
            'CREATE TABLE %I (time timestamptz NOT NULL, src_packets bigint NOT NULL, src_bytes bigint NOT NULL, '
            'dst_packets bigint NOT NULL, dst_bytes bigint NOT NULL, connection_times bigint NOT NULL, '
            'connection_count bigint NOT NULL, open_connections bigint NOT NULL, row_count bigint NOT NULL'
            '%s%s%s, gateway text NOT NULL) PARTITION BY RANGE (time)',
            'traffic_' || rollup.name,
            CASE WHEN 'port' = ANY (rollup.grouping_columns) THEN ', port integer NOT NULL' END,
            (SELECT string_agg(format(', %I inet NOT NULL', name), '' ORDER BY name DESC)
             FROM unnest(rollup.grouping_columns) AS name WHERE name IN ('src', 'dst')),
            CASE WHEN 'proto' = ANY (rollup.grouping_columns) THEN ', proto text NOT NULL' END);
        EXECUTE format('CREATE UNIQUE INDEX ON %I (%s)', 'traffic_' || rollup.name, key);
        EXECUTE format('COMMENT ON TABLE %I IS %L', 'traffic_' || rollup.name,
            'Sums of vpn_traffic by ' || key || '; see traffic_rollups. Read it through traffic().');
    END LOOP;
END $$;

-- Adds sums to a rollup, and returns their number. A sum that does not fit stays at the column's maximum, so that
-- no file is refused because of others. Every array has one element for each key; arrays for columns that the
-- rollup does not have are ignored. Keys are sorted, so importers cannot deadlock.
CREATE FUNCTION traffic_add(
    rollup_name text, times timestamptz[], gateways text[], srcs inet[], dsts inet[], protos text[], ports integer[],
    src_packets bigint[], src_bytes bigint[], dst_packets bigint[], dst_bytes bigint[], connection_times bigint[],
    connection_count bigint[], open_connections bigint[], row_count bigint[])
RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET datestyle = 'ISO'
SET intervalstyle = 'postgres' AS $$
DECLARE
    key text;
    counters constant text := 'src_packets, src_bytes, dst_packets, dst_bytes, connection_times, connection_count, '
                              'open_connections, row_count';
    added bigint;
BEGIN
    IF 0 > ANY (src_packets || src_bytes || dst_packets || dst_bytes || connection_times || connection_count ||
                open_connections || row_count) THEN
        RAISE EXCEPTION 'a sum is negative' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT array_to_string('{time,gateway}'::text[] || grouping_columns, ', ') INTO STRICT key
    FROM @extschema@.traffic_rollups WHERE name = rollup_name;
    EXECUTE format(
        'INSERT INTO @extschema@.%1$I AS held (%2$s, %3$s) SELECT %2$s, %3$s '
        'FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) '
        'AS new (time, gateway, src, dst, proto, port, %3$s) ON CONFLICT (%2$s) DO UPDATE SET %4$s',
        'traffic_' || rollup_name, key, counters,
        (SELECT string_agg(format('%1$s = CASE WHEN held.%1$s <= 9223372036854775807 - excluded.%1$s '
                                  'THEN held.%1$s + excluded.%1$s ELSE 9223372036854775807 END', name), ', ')
         FROM regexp_split_to_table(counters, ', ') AS name))
    USING times, gateways, srcs, dsts, protos, ports, src_packets, src_bytes, dst_packets, dst_bytes, connection_times,
          connection_count, open_connections, row_count;
    GET DIAGNOSTICS added = ROW_COUNT;
    RETURN added;
END $$;
REVOKE ALL ON FUNCTION traffic_add FROM PUBLIC;

-- Adds all rows of a table or view with vpn_traffic's columns to the rollups, for rows that no importer has loaded. The
-- importer's limits (docs/formats.md) were not applied to them, so sums may not fit.
CREATE FUNCTION traffic_roll_up(source regclass) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET datestyle = 'ISO'
SET intervalstyle = 'postgres' SET work_mem = '256MB' AS $$
DECLARE
    rollup @extschema@.traffic_rollups;
    key text;
    counters constant text[] := ARRAY['src_packets', 'src_bytes', 'dst_packets', 'dst_bytes', 'connection_times',
                                      'connection_count', 'open_connections'];
    sums text;
    additions text;
    -- Times are the ends of steps.
    step_end constant text := 'date_bin(%1$L, time - interval ''1 us'', ''epoch'') + %1$L::interval';
BEGIN
    SELECT string_agg(format('sum(%1$I) AS %1$I', name), ', '),
           string_agg(format('%1$I = CASE WHEN held.%1$I <= 9223372036854775807 - excluded.%1$I '
                             'THEN held.%1$I + excluded.%1$I ELSE 9223372036854775807 END', name), ', ')
    INTO sums, additions FROM unnest(counters) AS name;
    additions := additions || ', row_count = held.row_count + excluded.row_count';
    -- Most rollups can be made of these.
    EXECUTE format('CREATE TEMPORARY TABLE traffic_ten_minutes ON COMMIT DROP AS SELECT %s AS time, gateway, src, dst, '
                   'proto, port, %s, count(*) AS row_count FROM %s GROUP BY 1, 2, 3, 4, 5, 6',
                   format(step_end, interval '10 min'), sums, source);
    FOR rollup IN SELECT * FROM @extschema@.traffic_rollups ORDER BY name LOOP
        key := array_to_string('{gateway}'::text[] || rollup.grouping_columns, ', ');
        EXECUTE format(
            'INSERT INTO @extschema@.%1$I AS held (time, %2$s, %3$s, row_count) SELECT %4$s, %2$s, %5$s, %6$s FROM %7$s '
            'GROUP BY 1, %2$s ON CONFLICT (time, %2$s) DO UPDATE SET %8$s',
            'traffic_' || rollup.name, key, array_to_string(counters, ', '), format(step_end, rollup.step), sums,
            CASE WHEN rollup.step >= '10 min' THEN 'sum(row_count)' ELSE 'count(*)' END,
            CASE WHEN rollup.step >= '10 min' THEN 'pg_temp.traffic_ten_minutes' ELSE source::text END, additions);
    END LOOP;
    DROP TABLE pg_temp.traffic_ten_minutes;
EXCEPTION WHEN numeric_value_out_of_range THEN
    RAISE EXCEPTION 'sums of its rows do not fit into bigint; correct the rows with absurd counters first: WHERE '
        'greatest(src_packets, src_bytes, dst_packets, dst_bytes, connection_times) > 1125899906842624'
        USING ERRCODE = 'object_not_in_prerequisite_state';
END $$;
REVOKE ALL ON FUNCTION traffic_roll_up FROM PUBLIC;

-- The differences between the rows of a range and its rollups. The range is widened to whole steps and read completely.
CREATE FUNCTION traffic_check(range_from timestamptz, range_to timestamptz)
RETURNS TABLE (rollup text, "time" timestamptz, gateway text, in_rows bigint, in_rollup bigint, sums_differ boolean)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET datestyle = 'ISO'
SET intervalstyle = 'postgres' AS $$
DECLARE
    each @extschema@.traffic_rollups;
    key text;
    counters constant text := 'sum(src_packets), sum(src_bytes), sum(dst_packets), sum(dst_bytes), '
        'sum(connection_times), sum(connection_count), sum(open_connections)';
    lower timestamptz;
    upper timestamptz;
    rows_from timestamptz;
    kept timestamptz;
BEGIN
    SELECT kept_from INTO rows_from FROM @extschema@.traffic_tiers WHERE tier = 'rows';
    FOR each IN SELECT * FROM @extschema@.traffic_rollups ORDER BY name LOOP
        key := array_to_string('{time,gateway}'::text[] || each.grouping_columns, ', ');
        lower := date_bin(each.step, range_from, 'epoch');
        upper := date_bin(each.step, range_to - interval '1 us', 'epoch') + each.step;
        -- What retention has dropped cannot be compared.
        kept := greatest(rows_from, (SELECT kept_from FROM @extschema@.traffic_tiers WHERE tier = each.tier));
        IF lower < kept THEN
            lower := date_bin(each.step, kept - interval '1 us', 'epoch') + each.step;
        END IF;
        RETURN QUERY EXECUTE format(
            'WITH facts AS (SELECT %1$s, count(*) AS n, ARRAY[%2$s] AS sums FROM (SELECT '
            '  date_bin(%3$L, time - interval ''1 us'', ''epoch'') + %3$L::interval AS time, gateway, src, dst, proto, '
            '  port, src_packets, src_bytes, dst_packets, dst_bytes, connection_times, connection_count, '
            '  open_connections FROM @extschema@.vpn_traffic WHERE time > $1 AND time <= $2) AS stepped GROUP BY %1$s), '
            'held AS (SELECT %1$s, sum(row_count)::bigint AS n, ARRAY[%2$s] AS sums FROM @extschema@.%4$I '
            '  WHERE time > $1 AND time <= $2 GROUP BY %1$s) '
            'SELECT %5$L::text, time, gateway, sum(coalesce(facts.n, 0))::bigint, sum(coalesce(held.n, 0))::bigint, '
            '  bool_or(facts.sums IS DISTINCT FROM held.sums) FROM facts FULL JOIN held USING (%1$s) '
            'WHERE facts.n IS DISTINCT FROM held.n OR facts.sums IS DISTINCT FROM held.sums '
            'GROUP BY time, gateway ORDER BY time, gateway',
            key, counters, each.step, 'traffic_' || each.name, each.name)
        USING lower, upper;
    END LOOP;
END $$;
COMMENT ON FUNCTION traffic_check IS 'Where rollups differ from rows; no row if they are equal.';
