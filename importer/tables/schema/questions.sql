-- What dashboards and reports ask.

-- Chooses the rollup that answers: the one with the fewest unneeded columns, and of those the coarsest that is fine enough,
-- or else the finest. Never one that is too large for the range; one whose beginning retention has dropped only if there
-- is no other.
CREATE FUNCTION traffic_source(
    range_from timestamptz, range_to timestamptz, wanted interval, columns_needed text[])
RETURNS traffic_rollups
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET datestyle = 'ISO'
SET intervalstyle = 'postgres' AS $$
    SELECT rollup FROM @extschema@.traffic_rollups AS rollup JOIN @extschema@.traffic_tiers USING (tier)
    WHERE grouping_columns @> columns_needed AND range_max >= range_to - range_from
    ORDER BY kept_from > range_from AND rollup.tier <> '1h', cardinality(grouping_columns), step > wanted,
             CASE WHEN step > wanted THEN step ELSE -step END
    LIMIT 1
$$;

-- How traffic() and traffic_open_connections() read their rollup: the parts of a query.
CREATE TYPE traffic_plan AS (
    lower timestamptz, upper timestamptz, width interval, point text, source text, grouped text, output text,
    -- Where destinations matter and not all may be listed: a condition for traffic_unlisted, and how many keys an answer is
    -- a sum of (NULL: any number).
    unlisted text, keys double precision);

CREATE FUNCTION traffic_make_plan(
    range_from timestamptz, range_to timestamptz, step interval, by_columns text[], gateways text[], srcs inet[],
    dsts inet[], protos text[], ports integer[])
RETURNS traffic_plan
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET datestyle = 'ISO'
SET intervalstyle = 'postgres' AS $$
DECLARE
    plan @extschema@.traffic_plan;
    rollup @extschema@.traffic_rollups;
    rollup_step interval;
    coarse @extschema@.traffic_rollups;
    coarse_lower timestamptz;
    coarse_upper timestamptz;
    -- As constants: then the index finds a network as a range. Single addresses stay an array.
    in_networks constant text := ' OR %1$I <<= %2$L';
    src_networks constant text := (SELECT string_agg(format(in_networks, 'src', address), '') FROM unnest(srcs) AS address
                                   WHERE address <> host(address)::inet);
    dst_networks constant text := (SELECT string_agg(format(in_networks, 'dst', address), '') FROM unnest(dsts) AS address
                                   WHERE address <> host(address)::inet);
BEGIN
    IF step <= interval '0' THEN
        RAISE EXCEPTION 'step must be positive' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF NOT by_columns <@ '{gateway,src,dst,proto,port}'::text[] THEN
        RAISE EXCEPTION 'by_columns must be of gateway, src, dst, proto, port'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    rollup := @extschema@.traffic_source(
        range_from, range_to, coalesce(step, (range_to - range_from) / 48),
        array_remove(by_columns, 'gateway') ||
        CASE WHEN srcs IS NOT NULL THEN '{src}'::text[] ELSE '{}' END ||
        CASE WHEN dsts IS NOT NULL THEN '{dst}'::text[] ELSE '{}' END ||
        CASE WHEN protos IS NOT NULL THEN '{proto}'::text[] ELSE '{}' END ||
        CASE WHEN ports IS NOT NULL THEN '{port}'::text[] ELSE '{}' END);

    -- Points are whole steps of the rollup: of the interval as it was measured, where it has no other.
    rollup_step := rollup.step;
    IF rollup_step < interval '1 ms' THEN
        -- Gateways may have different intervals: a point must not be shorter than the longest.
        SELECT max(interval_length) INTO rollup_step
        FROM (SELECT interval_length FROM @extschema@.import_ledger
              WHERE interval_end > range_from AND interval_end <= range_to
              ORDER BY interval_end DESC LIMIT 200) AS latest;
        rollup_step := coalesce(nullif(rollup_step, interval '0'), interval '15 s');
    END IF;
    plan.width := make_interval(secs => extract(epoch FROM rollup_step)::double precision *
        ceil(extract(epoch FROM coalesce(step, rollup_step)) / extract(epoch FROM rollup_step))::double precision);
    plan.lower := date_bin(plan.width, range_from, 'epoch');
    plan.upper := date_bin(plan.width, range_to - interval '1 us', 'epoch') + plan.width;
    -- What retention has dropped makes the first point shorter.
    plan.lower := greatest(plan.lower, (SELECT kept_from FROM @extschema@.traffic_tiers WHERE tier = rollup.tier));
    IF step IS NULL THEN
        plan.width := plan.upper - plan.lower;
        plan.point := '$2';
    ELSE
        -- A time is the end of what it stands for.
        plan.point := format('date_bin(%1$L, time - interval ''1 us'', ''epoch'') + %1$L::interval', plan.width);
    END IF;

    -- One sum over all of the range: fine steps only before the first and after the last coarse one.
    IF step IS NULL THEN
        SELECT candidate.* INTO coarse
        FROM @extschema@.traffic_rollups AS candidate JOIN @extschema@.traffic_tiers USING (tier)
        WHERE candidate.grouping_columns = rollup.grouping_columns AND candidate.step > rollup.step
          AND kept_from <= plan.lower
        ORDER BY candidate.step DESC LIMIT 1;
        coarse_lower := date_bin(coarse.step, plan.lower - interval '1 us', 'epoch') + coarse.step;
        coarse_upper := date_bin(coarse.step, plan.upper, 'epoch');
    END IF;
    IF (coarse_lower < coarse_upper) IS NOT TRUE THEN
        coarse_lower := plan.upper;
        coarse_upper := plan.upper;
    END IF;
    SELECT format('(%s) AS parts WHERE true%s%s%s%s%s',
        string_agg(format('SELECT * FROM @extschema@.%I WHERE %s', 'traffic_' || name,
            CASE WHEN part_step > interval '1 ms' AND part_upper - part_lower <= 1000 * part_step
                      AND (srcs IS NOT NULL AND rollup.grouping_columns[1] = 'src' OR
                           dsts IS NOT NULL AND rollup.grouping_columns[1] = 'dst')
                 -- The index finds them step by step; of a range it would read every key.
                 THEN format('time = ANY (%L::timestamptz[])',
                             ARRAY(SELECT generate_series(part_lower + part_step, part_upper, part_step)))
                 ELSE format('time > %L AND time <= %L', part_lower, part_upper) END), ' UNION ALL '),
        CASE WHEN gateways IS NOT NULL THEN ' AND gateway = ANY ($3)' END,
        CASE WHEN srcs IS NOT NULL THEN format(' AND (src = ANY ($4)%s)', src_networks) END,
        CASE WHEN dsts IS NOT NULL THEN format(' AND (dst = ANY ($5)%s)', dst_networks) END,
        CASE WHEN protos IS NOT NULL THEN ' AND proto = ANY ($6)' END,
        CASE WHEN ports IS NOT NULL THEN ' AND port = ANY ($7)' END)
    INTO plan.source
    FROM (VALUES (1, rollup.name, rollup.step, plan.lower, coarse_lower),
                 (2, coarse.name, coarse.step, coarse_lower, coarse_upper),
                 (3, rollup.name, rollup.step, coarse_upper, plan.upper))
         AS part (number, name, part_step, part_lower, part_upper)
    WHERE part_lower < part_upper OR number = 1;
    IF rollup.room IS NOT NULL AND ('dst' = ANY (by_columns) OR dsts IS NOT NULL) THEN
        plan.unlisted := format('(rollup = %L AND (time > %L AND time <= %L OR time > %L AND time <= %L) OR '
                                'rollup = %L AND time > %L AND time <= %L)%s',
                                rollup.name, plan.lower, coarse_lower, coarse_upper, plan.upper,
                                coarse.name, coarse_lower, coarse_upper,
                                CASE WHEN gateways IS NOT NULL THEN ' AND gateway = ANY ($3)' ELSE '' END);
        SELECT CASE WHEN bool_and(number IS NOT NULL) THEN exp(sum(ln(greatest(number, 1)))) END INTO plan.keys
        FROM unnest(rollup.grouping_columns) AS name
        CROSS JOIN LATERAL (SELECT CASE
            WHEN name = ANY (by_columns) THEN 1
            WHEN name = 'src' THEN CASE WHEN src_networks IS NULL THEN cardinality(srcs) END
            WHEN name = 'dst' THEN CASE WHEN dst_networks IS NULL THEN cardinality(dsts) END
            WHEN name = 'proto' THEN cardinality(protos)
            ELSE cardinality(ports) END) AS filtered (number);
    END IF;
    SELECT string_agg(CASE WHEN name = ANY (by_columns) THEN ', ' || name ELSE ', NULL::' || kind END, '' ORDER BY number),
           coalesce(string_agg(', ' || name, '' ORDER BY number) FILTER (WHERE name = ANY (by_columns)), '')
    INTO plan.output, plan.grouped
    FROM (VALUES (1, 'gateway', 'text'), (2, 'src', 'inet'), (3, 'dst', 'inet'), (4, 'proto', 'text'),
                 (5, 'port', 'integer')) AS columns (number, name, kind);
    RETURN plan;
END $$;

-- Sums between two moments, in points of `step` (NULL: one for the whole range), for each combination of by_columns (of
-- gateway, src, dst, proto, port), of the rows that pass the filters (NULL: all). An address in srcs or dsts may be a
-- network: it admits the addresses within it. The answer comes from a rollup, so points may be wider than asked for, and
-- the range is widened to whole points: `time` is a point's end. `seconds` is what a rate is over: how much of the point
-- was observed, of several gateways by the one that observed most. Where that is not known (CSV files) it is the point's
-- length as far as there is data. Columns that by_columns does not name are NULL. Sums are exact up to 2^53, JSON's limit.
-- If a rollup does not list all destinations (traffic_rollups.room), the others are one sum under 0.0.0.0 (::). Then the
-- sum of a destination can be too small, by at most `unlisted_bytes`, both directions together. 0: the sum is exact.
--
-- Settings: compiling such a query takes longer than running it; the memory avoids sorting on disk; a step's rows lie
-- together on disk, so reading them by the index is cheap.
CREATE FUNCTION traffic(
    range_from timestamptz, range_to timestamptz, step interval DEFAULT NULL, by_columns text[] DEFAULT '{}',
    gateways text[] DEFAULT NULL, srcs inet[] DEFAULT NULL, dsts inet[] DEFAULT NULL, protos text[] DEFAULT NULL,
    ports integer[] DEFAULT NULL)
RETURNS TABLE ("time" timestamptz, gateway text, src inet, dst inet, proto text, port integer,
               src_packets double precision, src_bytes double precision, dst_packets double precision,
               dst_bytes double precision, connection_times double precision, connection_count double precision,
               seconds double precision, unlisted_bytes double precision)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET datestyle = 'ISO'
SET intervalstyle = 'postgres' SET jit = off SET work_mem = '64MB'
SET random_page_cost = 1.1 AS $$
DECLARE
    plan @extschema@.traffic_plan;
    newest timestamptz;
    by_gateway constant text := CASE WHEN 'gateway' = ANY (by_columns) THEN ', gateway' ELSE '' END;
    -- What was covered between them is read by half hours, before and after by intervals.
    halves_lower timestamptz;
    halves_upper timestamptz;
BEGIN
    -- No row is older or newer than this.
    range_from := greatest(range_from, '1970-01-01 00:00+00');
    range_to := least(range_to, '2200-01-01 00:00+00');
    IF (range_from < range_to) IS NOT TRUE THEN RETURN; END IF;
    plan := @extschema@.traffic_make_plan(range_from, range_to, step, by_columns, gateways, srcs, dsts, protos, ports);
    IF step IS NULL OR date_bin('30 min', 'epoch'::timestamptz + plan.width, 'epoch') = 'epoch'::timestamptz + plan.width THEN
        halves_lower := date_bin('30 min', plan.lower - interval '1 us', 'epoch') + interval '30 min';
        halves_upper := date_bin('30 min', plan.upper, 'epoch');
    END IF;
    IF (halves_lower < halves_upper) IS NOT TRUE THEN
        halves_lower := plan.upper;
        halves_upper := plan.upper;
    END IF;
    SELECT max(total.time) INTO newest FROM @extschema@.traffic_total AS total
    WHERE total.time > plan.lower AND total.time <= plan.upper;
    RETURN QUERY EXECUTE format(
        'WITH sums (time, gateway, src, dst, proto, port, src_packets, src_bytes, dst_packets, dst_bytes, '
        '           connection_times, connection_count) AS ('
        '  SELECT %1$s%2$s, sum(src_packets::float8), sum(src_bytes::float8), sum(dst_packets::float8), '
        '    sum(dst_bytes::float8), sum(connection_times::float8), sum(connection_count::float8) '
        '  FROM %3$s GROUP BY %4$s), '
        'observed AS ('
        '  SELECT interval_end AS time, gateway, covered_to - covered_from AS covered FROM @extschema@.import_ledger '
        '  WHERE interval_end > $1 AND interval_end <= $10 '
        '  UNION ALL '
        '  SELECT time, gateway, covered FROM @extschema@.traffic_covered WHERE time > $10 AND time <= $11 '
        '  UNION ALL '
        '  SELECT interval_end, gateway, covered_to - covered_from FROM @extschema@.import_ledger '
        '  WHERE interval_end > $11 AND interval_end <= $2), '
        'covered AS ('
        '  SELECT point AS time%5$s, '
        '    CASE WHEN bool_and(covered IS NOT NULL) THEN nullif(date_part(''epoch'', max(covered)), 0) END AS seconds '
        '  FROM (SELECT %1$s AS point, gateway, '
        '          CASE WHEN bool_and(covered IS NOT NULL) THEN sum(covered) END AS covered '
        '        FROM observed WHERE $3 IS NULL OR gateway = ANY ($3) GROUP BY 1, 2) AS of_gateways '
        '  GROUP BY point%5$s)%6$s '
        'SELECT sums.*, coalesce(covered.seconds, '
        '  date_part(''epoch'', least(sums.time, $8) - greatest(sums.time - $9, $1))), %7$s '
        'FROM sums LEFT JOIN covered USING (time%5$s)%8$s',
        plan.point, plan.output, plan.source,
        CASE WHEN step IS NOT NULL THEN plan.point || plan.grouped
             -- A constant among the keys would be hashed with each row.
             ELSE coalesce(nullif(substr(plan.grouped, 3), ''), '1') END,
        by_gateway,
        CASE WHEN plan.unlisted IS NOT NULL THEN format(
            ', unlisted AS (SELECT point AS time%1$s, sum(CASE WHEN one_key_bytes > 0 THEN least(%2$L * one_key_bytes, all_bytes) ELSE 0 END) AS bytes '
            '  FROM (SELECT %3$s AS point, gateway, one_key_bytes, all_bytes '
            '        FROM @extschema@.traffic_unlisted WHERE %4$s) AS steps GROUP BY point%1$s)',
            by_gateway, plan.keys, plan.point, plan.unlisted) ELSE '' END,
        CASE WHEN plan.unlisted IS NOT NULL THEN 'coalesce(unlisted.bytes, 0)' ELSE '0::float8' END,
        CASE WHEN plan.unlisted IS NOT NULL THEN format(' LEFT JOIN unlisted USING (time%s)', by_gateway) ELSE '' END)
    USING plan.lower, plan.upper, gateways, srcs, dsts, protos, ports, newest, plan.width, halves_lower, halves_upper;
END $$;
COMMENT ON FUNCTION traffic IS
    'Sums of a range in points of `step`, by some of gateway, src, dst, proto, port, filtered by them; srcs and '
    'dsts may be networks. For dashboards.';

-- The same for open connections. They are a level, not a sum over time: the average over a point's intervals, for each
-- gateway separately, since each has its own intervals.
CREATE FUNCTION traffic_open_connections(
    range_from timestamptz, range_to timestamptz, step interval DEFAULT NULL, by_columns text[] DEFAULT '{}',
    gateways text[] DEFAULT NULL, srcs inet[] DEFAULT NULL, dsts inet[] DEFAULT NULL, protos text[] DEFAULT NULL,
    ports integer[] DEFAULT NULL)
RETURNS TABLE ("time" timestamptz, gateway text, src inet, dst inet, proto text, port integer,
               open_connections double precision)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET datestyle = 'ISO'
SET intervalstyle = 'postgres' SET jit = off SET work_mem = '64MB'
SET random_page_cost = 1.1 AS $$
DECLARE
    plan @extschema@.traffic_plan;
BEGIN
    -- No row is older or newer than this.
    range_from := greatest(range_from, '1970-01-01 00:00+00');
    range_to := least(range_to, '2200-01-01 00:00+00');
    IF (range_from < range_to) IS NOT TRUE THEN RETURN; END IF;
    plan := @extschema@.traffic_make_plan(range_from, range_to, step, by_columns, gateways, srcs, dsts, protos, ports);
    RETURN QUERY EXECUTE format(
        'SELECT point%1$s, sum(open / intervals) FROM '
        '(SELECT %2$s AS point, gateway%3$s, sum(open_connections::float8) AS open '
        '  FROM %4$s GROUP BY 1, gateway%3$s) AS sums '
        'JOIN (SELECT %2$s AS point, gateway, count(*) AS intervals FROM @extschema@.traffic_total '
        '  WHERE time > $1 AND time <= $2 GROUP BY 1, 2) AS intervals USING (point, gateway) GROUP BY point%5$s',
        plan.output, plan.point, replace(plan.grouped, ', gateway', ''), plan.source, plan.grouped)
    USING plan.lower, plan.upper, gateways, srcs, dsts, protos, ports;
END $$;
COMMENT ON FUNCTION traffic_open_connections IS
    'Like traffic(): open connections, averaged over a point''s intervals.';
