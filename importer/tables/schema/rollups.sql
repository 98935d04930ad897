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
    range_max interval NOT NULL,
    room bigint
);

COMMENT ON TABLE traffic_rollups IS
    'The rollups of vpn_traffic: table traffic_<name> each. Read them through traffic() and traffic_open_connections().';
COMMENT ON COLUMN traffic_rollups.step IS 'Width of its points; 1 us: the interval as it was measured.';
COMMENT ON COLUMN traffic_rollups.tier IS 'The rollups of a tier are dropped together by retention.';
COMMENT ON COLUMN traffic_rollups.range_max IS
    'The longest range for which traffic() reads it; change it if your tables are smaller or larger.';
COMMENT ON COLUMN traffic_rollups.room IS
    'Number of keys that a step lists for each gateway before it lists only the largest new ones; NULL: no limit.';

-- With 100 origins and 100 destinations, range_max keeps a query below about 200,000 rows of a rollup. The rooms hold all
-- that such a game uses, and keep a query of eight hours below half a second.
INSERT INTO traffic_rollups (name, grouping_columns, step, tier, partition_width, range_max, room) VALUES
    -- Kept as long as the coarsest: it has few rows, and the number of intervals within a step is counted from it.
    ('total',                '{}',                   '1 us',  '1h',   '32 days', '32 days', NULL),
    ('protocol_fine',        '{proto}',              '1 us',  'fine', '1 day',   '3 h', NULL),
    ('protocol_1m',          '{proto}',              '1 min', 'fine', '1 day',   '16 h', NULL),
    ('protocol_10m',         '{proto}',              '10 min', '10m', '8 days',  '30 days', NULL),
    ('protocol_1h',          '{proto}',              '1 h',   '1h',   '32 days', '1000000 days', NULL),
    ('port_fine',            '{proto,port}',         '1 us',  'fine', '1 day',   '3 h', NULL),
    ('port_1m',              '{proto,port}',         '1 min', 'fine', '1 day',   '16 h', NULL),
    ('port_10m',             '{proto,port}',         '10 min', '10m', '8 days',  '30 days', NULL),
    ('port_1h',              '{proto,port}',         '1 h',   '1h',   '32 days', '1000000 days', NULL),
    ('origin_fine',          '{src}',                '1 us',  'fine', '1 day',   '3 h', NULL),
    ('origin_1m',            '{src}',                '1 min', 'fine', '1 day',   '16 h', NULL),
    ('origin_10m',           '{src}',                '10 min', '10m', '8 days',  '14 days', NULL),
    ('origin_1h',            '{src}',                '1 h',   '1h',   '32 days', '1000000 days', NULL),
    ('destination_fine',     '{dst}',                '1 us',  'fine', '1 day',   '3 h', 1500),
    ('destination_1m',       '{dst}',                '1 min', 'fine', '1 day',   '16 h', 3000),
    ('destination_10m',      '{dst}',                '10 min', '10m', '8 days',  '14 days', 10000),
    ('destination_1h',       '{dst}',                '1 h',   '1h',   '32 days', '1000000 days', 20000),
    ('pair_30m',             '{src,dst}',            '30 min', '10m', '1 day',   '3 h', 20000),
    ('pair_1h',              '{src,dst}',            '1 h',   '1h',   '8 days',  '1000000 days', 40000),
    ('origin_protocol_10m',  '{src,proto}',          '10 min', '10m', '8 days',  '14 days', NULL),
    ('origin_protocol_1h',   '{src,proto}',          '1 h',   '1h',   '32 days', '1000000 days', NULL),
    ('origin_port_10m',      '{src,proto,port}',     '10 min', '10m', '8 days',  '16 h', NULL),
    ('origin_port_1h',       '{src,proto,port}',     '1 h',   '1h',   '32 days', '1000000 days', NULL),
    ('destination_port_10m', '{dst,proto,port}',     '10 min', '10m', '8 days',  '16 h', 10000),
    ('destination_port_1h',  '{dst,proto,port}',     '1 h',   '1h',   '32 days', '1000000 days', 20000),
    -- Its index begins with the protocol: a question about one reads no pairs of others.
    ('pair_protocol_1h',     '{proto,src,dst}',      '1 h',   '1h',   '8 days',  '1000000 days', 40000),
    ('pair_port_1h',         '{src,dst,proto,port}', '1 h',   '1h',   '1 day',   '1000000 days', 80000);

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
            'connection_count bigint NOT NULL, open_connections bigint NOT NULL, flow_count bigint NOT NULL, '
            'unanswered_count bigint NOT NULL, row_count bigint NOT NULL'
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

-- If destinations do not come back, a rollup by destination would be as large as the rows. So a step lists all keys of a
-- gateway while all new ones fit. A statement whose new keys do not fit adds its largest: a quarter of the room that is
-- left, or a thousandth of the room if that is more. So what comes first does not take all of the room. All
-- other keys become one sum for each origin in the key: destination 0.0.0.0 (::), protocol 0, port -1, as in the row of
-- -max-rows. Sums over all destinations stay exact. This table bounds what can be missing from a listed key.
CREATE TABLE traffic_unlisted (
    rollup text NOT NULL,
    time timestamptz NOT NULL,
    gateway text NOT NULL,
    listed bigint NOT NULL,
    one_key_bytes double precision NOT NULL,
    all_bytes double precision NOT NULL,
    PRIMARY KEY (rollup, time, gateway)
);
COMMENT ON TABLE traffic_unlisted IS 'Bounds on what is missing from the keys that a rollup lists, by step and gateway; see traffic_rollups.room.';
COMMENT ON COLUMN traffic_unlisted.listed IS 'Upper bound of the number of keys listed.';
COMMENT ON COLUMN traffic_unlisted.one_key_bytes IS 'Upper bound of the bytes of any one key, both directions, in the sums of 0.0.0.0 and ::. 0: all keys are listed.';
COMMENT ON COLUMN traffic_unlisted.all_bytes IS 'Bytes of all keys, both directions, in the sums of 0.0.0.0 and ::.';

-- How many of a number of keys of each of these steps an importer should send to a rollup, the largest first: all, or a quarter
-- of the room if they are more than the room or the step was full before, because then most keys do not come back.
CREATE FUNCTION traffic_worth_sending(rollup_name text, times timestamptz[], gateways text[], counts bigint[])
RETURNS bigint[]
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET datestyle = 'ISO'
SET intervalstyle = 'postgres' AS $$
    SELECT array_agg(CASE WHEN count > rollup.room OR held.one_key_bytes > 0 THEN least(count, rollup.room / 4) ELSE count END
                     ORDER BY number)
    FROM @extschema@.traffic_rollups AS rollup
    CROSS JOIN unnest(times, gateways, counts) WITH ORDINALITY AS new (time, gateway, count, number)
    LEFT JOIN @extschema@.traffic_unlisted AS held
        ON held.rollup = rollup.name AND held.time = new.time AND held.gateway = new.gateway
    WHERE rollup.name = rollup_name
$$;
REVOKE ALL ON FUNCTION traffic_worth_sending FROM PUBLIC;

-- The keys that these steps of a limited rollup list. A function of its own, because Citus would send a query with this
-- table in it to a worker as a whole, and there nothing keeps other people's functions from taking the place of ours.
CREATE FUNCTION traffic_listed(rollup_name text, times timestamptz[], gateways text[])
RETURNS TABLE ("time" timestamptz, gateway text, src inet, dst inet, proto text, port integer)
LANGUAGE plpgsql STABLE ROWS 100000 SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET datestyle = 'ISO'
SET intervalstyle = 'postgres' AS $$
DECLARE
    key constant text[] := (SELECT grouping_columns FROM @extschema@.traffic_rollups WHERE name = rollup_name);
BEGIN
    RETURN QUERY EXECUTE format(
        'SELECT time, gateway, %s, dst, %s FROM @extschema@.%I '
        'WHERE time = ANY ($1) AND gateway = ANY ($2) AND dst <> ALL (ARRAY[inet ''0.0.0.0'', inet ''::''])',
        CASE WHEN 'src' = ANY (key) THEN 'src' ELSE 'NULL::inet' END,
        CASE WHEN 'proto' = ANY (key) THEN 'proto' ELSE 'NULL::text' END
        || CASE WHEN 'port' = ANY (key) THEN ', port' ELSE ', NULL::integer' END, 'traffic_' || rollup_name)
    USING times, gateways;
END $$;
REVOKE ALL ON FUNCTION traffic_listed FROM PUBLIC;

-- Adds sums to a rollup, and returns their number. A sum that does not fit stays at the column's maximum, so that
-- no file is refused because of others. Every array has one element for each key; arrays for columns that the
-- rollup does not have are ignored. Keys are sorted, so importers cannot deadlock.
CREATE FUNCTION traffic_add(
    rollup_name text, times timestamptz[], gateways text[], srcs inet[], dsts inet[], protos text[], ports integer[],
    src_packets bigint[], src_bytes bigint[], dst_packets bigint[], dst_bytes bigint[], connection_times bigint[],
    connection_count bigint[], open_connections bigint[], flow_count bigint[], unanswered_count bigint[], row_count bigint[],
    unlisted bigint[] DEFAULT '{}')
RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET datestyle = 'ISO'
SET intervalstyle = 'postgres' SET work_mem = '64MB'
-- Compiling these statements took a third of the server's time.
SET jit = off
-- Sorting all keys that are listed would take longer than all else.
SET enable_mergejoin = off AS $$
DECLARE
    key text;
    rollup_room bigint;
    others constant inet[] := '{0.0.0.0,::}'::inet[];
    is_full boolean := false;
    steps constant timestamptz[] := ARRAY(SELECT DISTINCT step FROM unnest(times) AS each (step));
    their_gateways constant text[] := ARRAY(SELECT DISTINCT gateway FROM unnest(gateways) AS each (gateway));
    -- Of each key: it keeps its name; it is listed already.
    named boolean[];
    known boolean[];
    known_count bigint[];
    counters constant text := 'src_packets, src_bytes, dst_packets, dst_bytes, connection_times, connection_count, '
                              'open_connections, flow_count, unanswered_count, row_count';
    added bigint;
BEGIN
    IF 0 > ANY (src_packets || src_bytes || dst_packets || dst_bytes || connection_times || connection_count ||
                open_connections || flow_count || unanswered_count || row_count || unlisted) THEN
        RAISE EXCEPTION 'a sum is negative' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT array_to_string('{time,gateway}'::text[] || grouping_columns, ', '), room INTO STRICT key, rollup_room
    FROM @extschema@.traffic_rollups WHERE name = rollup_name;
    IF rollup_room IS NOT NULL THEN
        -- The lock on this row keeps two importers from filling the same step at once.
        INSERT INTO @extschema@.traffic_unlisted AS held (rollup, time, gateway, listed, one_key_bytes, all_bytes)
        SELECT rollup_name, step, gateway, count(*) FILTER (WHERE dst <> ALL (others)), coalesce(max(one), 0),
               coalesce(sum(sent::double precision + received) FILTER (WHERE dst = ANY (others)), 0)
        FROM unnest(times, gateways, dsts, unlisted, src_bytes, dst_bytes) AS new (step, gateway, dst, one, sent, received)
        GROUP BY step, gateway ORDER BY step, gateway
        ON CONFLICT (time, rollup, gateway) DO UPDATE SET listed = held.listed + excluded.listed,
            one_key_bytes = held.one_key_bytes + excluded.one_key_bytes, all_bytes = held.all_bytes + excluded.all_bytes;
        is_full := EXISTS (SELECT FROM @extschema@.traffic_unlisted AS held WHERE held.rollup = rollup_name
                           AND held.time = ANY (steps) AND held.gateway = ANY (their_gateways)
                           AND held.listed > rollup_room);
    END IF;
    IF is_full THEN
        EXECUTE format(
            'WITH new AS (SELECT * FROM unnest($1, $2, $3, $4, $5, $6, $7, $8) WITH ORDINALITY '
            '             AS new (time, gateway, src, dst, proto, port, sent, received, number)), '
            'held AS MATERIALIZED (SELECT %1$s FROM @extschema@.traffic_listed(%2$L, $11, $12)), '
            'counts AS (SELECT time, gateway, count(*) AS listed FROM held GROUP BY time, gateway), '
            'marked AS (SELECT new.*, held.time IS NOT NULL OR dst = ANY ($9) AS is_known FROM new LEFT JOIN held USING (%1$s)), '
            'ranked AS (SELECT *, row_number() OVER (PARTITION BY time, gateway, is_known '
            '                                        ORDER BY sent::double precision + received DESC, number) AS rank, '
            '             count(*) FILTER (WHERE NOT is_known) OVER (PARTITION BY time, gateway) AS unknown '
            '           FROM marked) '
            'SELECT array_agg(is_known OR rank <= CASE WHEN unknown <= $10 - coalesce(listed, 0) THEN unknown '
            '                  ELSE greatest(($10 - coalesce(listed, 0)) / 4, $10 / 1000) END ORDER BY number), '
            '       array_agg(is_known ORDER BY number), array_agg(coalesce(listed, 0) ORDER BY number) '
            'FROM ranked LEFT JOIN counts USING (time, gateway)', key, rollup_name)
        USING times, gateways, srcs, dsts, protos, ports, src_bytes, dst_bytes, others, rollup_room, steps,
              their_gateways
        INTO named, known, known_count;
        UPDATE @extschema@.traffic_unlisted AS held
        SET listed = new.listed, one_key_bytes = held.one_key_bytes + new.one, all_bytes = held.all_bytes + new.bytes
        FROM (SELECT step, gateway, max(before) + count(*) FILTER (WHERE is_named AND NOT is_known) AS listed,
                     coalesce(max(greatest(bytes, 1)) FILTER (WHERE NOT is_named), 0) AS one,
                     coalesce(sum(bytes) FILTER (WHERE NOT is_named), 0) AS bytes
              FROM unnest(times, gateways, named, known, known_count, src_bytes, dst_bytes)
                   AS new (step, gateway, is_named, is_known, before, sent, received)
              CROSS JOIN LATERAL (SELECT sent::double precision + received) AS both_directions (bytes)
              GROUP BY step, gateway) AS new
        WHERE held.rollup = rollup_name AND held.time = new.step AND held.gateway = new.gateway;
        SELECT array_agg(CASE WHEN is_named THEN dst ELSE others[CASE family(dst) WHEN 4 THEN 1 ELSE 2 END] END
                         ORDER BY number),
               array_agg(CASE WHEN is_named OR proto IS NULL THEN proto ELSE '0' END ORDER BY number),
               array_agg(CASE WHEN is_named OR port IS NULL THEN port ELSE -1 END ORDER BY number)
        INTO dsts, protos, ports
        FROM unnest(dsts, protos, ports, named) WITH ORDINALITY AS each (dst, proto, port, is_named, number);
    END IF;
    EXECUTE format(
        'INSERT INTO @extschema@.%1$I AS held (%2$s, %3$s) SELECT %2$s, %4$s '
        'FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16) '
        'AS new (time, gateway, src, dst, proto, port, %3$s) %5$s ON CONFLICT (%2$s) DO UPDATE SET %6$s',
        'traffic_' || rollup_name, key, counters,
        (SELECT string_agg(CASE WHEN is_full THEN format('least(sum(%I), 9223372036854775807)::bigint', name)
                           ELSE quote_ident(name) END, ', ' ORDER BY number)
         FROM regexp_split_to_table(counters, ', ') WITH ORDINALITY AS columns (name, number)),
        CASE WHEN is_full THEN 'GROUP BY ' || key ELSE '' END,
        (SELECT string_agg(format('%1$s = CASE WHEN held.%1$s <= 9223372036854775807 - excluded.%1$s '
                                  'THEN held.%1$s + excluded.%1$s ELSE 9223372036854775807 END', name), ', ')
         FROM regexp_split_to_table(counters, ', ') AS name))
    USING times, gateways, srcs, dsts, protos, ports, src_packets, src_bytes, dst_packets, dst_bytes, connection_times,
          connection_count, open_connections, flow_count, unanswered_count, row_count;
    GET DIAGNOSTICS added = ROW_COUNT;
    IF is_full AND added = (SELECT count(*) FROM (SELECT DISTINCT * FROM unnest(times, gateways, srcs, dsts, protos, ports)
                                                       AS new (step, gateway, src, dst, proto, port)) AS keys) THEN
        added := cardinality(times)::bigint;
    END IF;
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
                                      'connection_count', 'open_connections', 'flow_count', 'unanswered_count'];
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
        'sum(connection_times), sum(connection_count), sum(open_connections), sum(flow_count), sum(unanswered_count)';
    lower timestamptz;
    upper timestamptz;
    rows_from timestamptz;
    kept timestamptz;
BEGIN
    SELECT kept_from INTO rows_from FROM @extschema@.traffic_tiers WHERE tier = 'rows';
    FOR each IN SELECT * FROM @extschema@.traffic_rollups ORDER BY name LOOP
        -- If not all destinations are listed, only sums over all of them are exact.
        key := array_to_string('{time,gateway}'::text[] || ARRAY(
            SELECT name FROM unnest(each.grouping_columns) AS name WHERE each.room IS NULL OR name = 'src'), ', ');
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
            '  open_connections, flow_count, unanswered_count FROM @extschema@.vpn_traffic WHERE time > $1 AND time <= $2) AS stepped GROUP BY %1$s), '
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
