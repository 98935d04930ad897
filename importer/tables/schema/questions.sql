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
    ORDER BY kept_from > range_from AND rollup.tier <> '1h', cardinality(grouping_columns),
             grouping_columns @> '{src,dst}'::text[],  -- Pairs have the most keys.
             step > wanted, CASE WHEN step > wanted THEN step ELSE -step END
    LIMIT 1
$$;

-- How traffic() and traffic_open_connections() read their rollup: the parts of a query.
CREATE TYPE traffic_plan AS (
    -- `began`: where a point of `sums` begins, out of its end `sums.time` and the width $9.
    lower timestamptz, upper timestamptz, width interval, point text, began text, source text, grouped text, output text,
    -- Where destinations matter and not all may be listed: a condition for traffic_unlisted, and how many keys an answer is
    -- a sum of (NULL: any number).
    unlisted text, keys double precision,
    -- How many rows a sum has at most, if it is one of a port, of which there may be 65,000 a step; and a query for those of one
    -- step.
    rows_max double precision, one_step text,
    -- Whether a sum has a step within which a holder changed and whose rows are not kept.
    coarse text,
    -- By name: the addresses that are asked for, by the filters or by the names; and the steps within which an address, or
    -- of a part as a whole (NULL), changes its name. They are answered from finer steps. `split_parts` numbers parts and
    -- sides. When names change.
    srcs inet[], dsts inet[],
    split_gateways text[], split_addresses inet[], split_ends timestamptz[], split_parts text[], moments timestamptz[]);

-- A condition: an address is within one of these networks.
CREATE FUNCTION traffic_within(column_name text, networks inet[]) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET datestyle = 'ISO'
SET intervalstyle = 'postgres' AS $$
    SELECT format(' AND (%I = ANY (%L)%s)', column_name,
                  coalesce(array_agg(network) FILTER (WHERE network = host(network)::inet), '{}'),
                  string_agg(format(' OR %I <<= %L', column_name, network), '') FILTER (WHERE network <> host(network)::inet))
    FROM unnest(networks) AS network
$$;

-- The gateways' addresses with traffic in a range, of one side and within these networks (NULL: all), from the coarsest
-- rollup; and each address once. NULL if that does not list all of them, or if they are more than `most`.
CREATE FUNCTION traffic_addresses(
    side text, range_from timestamptz, range_to timestamptz, gateways text[], networks inet[], most integer,
    OUT of_gateways text[], OUT of_addresses inet[], OUT addresses inet[])
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET datestyle = 'ISO'
SET intervalstyle = 'postgres' AS $$
DECLARE
    rollup @extschema@.traffic_rollups;
    kept timestamptz;
    lower timestamptz;
    upper timestamptz;
BEGIN
    SELECT each.* INTO STRICT rollup FROM @extschema@.traffic_rollups AS each WHERE grouping_columns = ARRAY[side]
    ORDER BY each.step DESC LIMIT 1;
    SELECT kept_from INTO STRICT kept FROM @extschema@.traffic_tiers WHERE tier = rollup.tier;
    lower := date_bin(rollup.step, range_from, 'epoch');
    upper := date_bin(rollup.step, range_to - interval '1 us', 'epoch') + rollup.step;
    IF kept > lower OR rollup.room IS NOT NULL AND EXISTS (SELECT FROM @extschema@.traffic_unlisted AS held WHERE held.rollup = rollup.name
                               AND time > lower AND time <= upper AND one_key_bytes > 0) THEN
        RETURN;
    END IF;
    EXECUTE format(
        'SELECT coalesce(array_agg(gateway), ''{}''), coalesce(array_agg(address), ''{}''), coalesce(array_agg(DISTINCT address), ''{}'') FROM (SELECT DISTINCT gateway, %I AS address '
        'FROM @extschema@.%I WHERE time > $1 AND time <= $2%s%s LIMIT $4 + 1) AS found', side, 'traffic_' || rollup.name,
        CASE WHEN gateways IS NOT NULL THEN ' AND gateway = ANY ($3)' END,
        CASE WHEN networks IS NOT NULL THEN @extschema@.traffic_within(side, networks) END)
    USING lower, upper, gateways, most INTO of_gateways, of_addresses, addresses;
    IF cardinality(of_addresses) > most THEN
        of_gateways := NULL;
        of_addresses := NULL;
        addresses := NULL;
    END IF;
END $$;

-- The networks that contain all traffic with these names. What is no name is what an address is called without one: it
-- begins with a network. NULL: not known.
CREATE FUNCTION traffic_networks_of(names text[], range_from timestamptz, range_to timestamptz) RETURNS inet[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET datestyle = 'ISO'
SET intervalstyle = 'postgres' AS $$
DECLARE
    networks inet[];
    known text[];
    other text;
    its_network inet;
BEGIN
    SELECT coalesce(array_agg(DISTINCT network::inet), '{}'), coalesce(array_agg(DISTINCT name), '{}') INTO networks, known
    FROM @extschema@.traffic_names WHERE name = ANY (names) AND valid && tstzrange(range_from, range_to, '[]');
    FOREACH other IN ARRAY names LOOP
        BEGIN
            its_network := network(substring(other FROM '^[0-9a-f:./]+')::inet);
        EXCEPTION WHEN invalid_text_representation THEN
            its_network := NULL;
        END;
        IF its_network IS NOT NULL THEN
            networks := networks || its_network;
        ELSIF (other = ANY (known || 'forgotten'::text)) IS NOT TRUE THEN
            RETURN NULL;
        END IF;
    END LOOP;
    -- What traffic_forget() has left.
    IF 'forgotten' = ANY (names) THEN networks := networks || '{0.0.0.1,100::1}'; END IF;
    RETURN networks;
END $$;

-- Makes a plan by name of one by address: sums by address, and then the name of each, so that names are looked up once for
-- an address and not for each row. Steps of a rollup within which an address changes its name are read from finer ones and
-- at last from rows, as far as these are kept; the rest goes to who held it at the step's end. If a change concerns keys
-- that a rollup need not list, whole steps are read from rows.
CREATE FUNCTION traffic_plan_names(
    plan traffic_plan, grouping_columns text[], by_columns text[], filters text, sources text[], steps interval[],
    lowers timestamptz[], uppers timestamptz[], by_src_name boolean, by_dst_name boolean, gateways text[], protos text[],
    ports integer[], src_names text[], dst_names text[])
RETURNS traffic_plan
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET datestyle = 'ISO'
SET intervalstyle = 'postgres' SET jit = off SET work_mem = '64MB' AS $$
DECLARE
    sides constant text[] := array_remove(ARRAY[CASE WHEN by_src_name THEN 'src' END, CASE WHEN by_dst_name THEN 'dst' END], NULL);
    counters constant text[] := '{src_packets,src_bytes,dst_packets,dst_bytes,connection_times,connection_count,'
        'open_connections,flow_count,unanswered_count}'::text[];
    columns constant text := array_to_string(grouping_columns || counters, ', ');
    keys constant text := array_to_string(ARRAY(
        SELECT DISTINCT name FROM unnest('{gateway}'::text[] || sides || by_columns) AS name
        WHERE name <> ALL ('{src_name,dst_name}'::text[])), ', ');
    by_address boolean;
    found_gateways text[];
    found_addresses inet[];
    changes_sides text[] := '{}'::text[];
    changes_gateways text[] := '{}'::text[];
    changes_addresses inet[] := '{}'::inet[];
    changes timestamptz[] := '{}'::timestamptz[];
    side text;
    parts text[] := '{}'::text[];
    source text;
    step interval;
    within text;
    finer_name text;
    finer_step interval;
    finer_from timestamptz;
    number integer := 0;
    in_steps text;
    in_split text;
    addresses_max constant integer := 1000;
BEGIN
    -- When any name changes.
    SELECT array_agg(DISTINCT moment ORDER BY moment) INTO plan.moments
    FROM (SELECT lower(valid) AS moment FROM @extschema@.traffic_names
          WHERE lower(valid) > plan.lower AND lower(valid) <= plan.upper AND (gateways IS NULL OR gateway = ANY (gateways))
          UNION ALL
          SELECT upper(valid) FROM @extschema@.traffic_names
          WHERE upper(valid) > plan.lower AND upper(valid) <= plan.upper AND (gateways IS NULL OR gateway = ANY (gateways))
          UNION ALL
          SELECT lower(valid) + interval '1 us' FROM @extschema@.traffic_mask_periods(plan.lower, plan.upper, gateways)
          WHERE lower(valid) > plan.lower) AS each;
    IF plan.moments IS NOT NULL THEN
        -- Whose, of those with traffic.
        FOREACH side IN ARRAY sides LOOP
            SELECT of_gateways, of_addresses INTO found_gateways, found_addresses FROM @extschema@.traffic_addresses(
                side, plan.lower, plan.upper, gateways, CASE side WHEN 'src' THEN plan.srcs ELSE plan.dsts END, 2000000000);
            IF found_gateways IS NULL THEN
                EXECUTE format('SELECT array_agg(gateway), array_agg(%1$I) FROM (SELECT DISTINCT gateway, %1$I FROM (%2$s) AS parts WHERE true%3$s) AS found',
                               side, array_to_string(sources, ' UNION ALL '), filters)
                USING plan.lower, plan.upper, gateways, plan.srcs, plan.dsts, protos, ports INTO found_gateways, found_addresses;
            END IF;
            SELECT changes_sides || array_agg(side), changes_gateways || array_agg(gateway),
                   changes_addresses || array_agg(address), changes || array_agg(change)
            INTO changes_sides, changes_gateways, changes_addresses, changes
            FROM (SELECT gateway, address, lower(valid) + CASE WHEN lower_inc(valid) THEN interval '0' ELSE interval '1 us' END AS change
                  FROM @extschema@.traffic_name_periods(plan.lower, plan.upper, found_gateways, found_addresses, side = 'src')) AS periods
            WHERE change > plan.lower AND change <= plan.upper;
        END LOOP;
        IF cardinality(changes) = 0 THEN plan.moments := NULL; END IF;
    END IF;
    by_address := cardinality(changes) = 0 OR NOT EXISTS (
        SELECT FROM @extschema@.traffic_unlisted AS held JOIN @extschema@.traffic_rollups AS each ON each.name = held.rollup
        WHERE each.grouping_columns = traffic_plan_names.grouping_columns AND one_key_bytes > 0
          AND time > plan.lower AND time < plan.upper + each.step);
    FOR part IN 1 .. cardinality(sources) LOOP
        source := sources[part];
        step := steps[part];
        within := '';
        LOOP
            number := number + 1;
            finer_name := NULL;
            in_steps := NULL;
            IF step > interval '1 ms' AND cardinality(changes) > 0 THEN
                SELECT * INTO finer_name, finer_step, finer_from
                FROM (SELECT 'traffic_' || name, each.step, kept_from
                      FROM @extschema@.traffic_rollups AS each JOIN @extschema@.traffic_tiers USING (tier)
                      WHERE by_address AND each.grouping_columns = traffic_plan_names.grouping_columns
                      UNION ALL
                      SELECT 'vpn_traffic', interval '1 us', kept_from FROM @extschema@.traffic_tiers WHERE tier = 'rows')
                     AS finer (name, finer_step, kept)
                WHERE finer.finer_step < step
                ORDER BY finer.finer_step DESC, greatest(kept, lowers[part]), finer.name LIMIT 1;
                SELECT plan.split_gateways || array_agg(gateway), plan.split_addresses || array_agg(address),
                       plan.split_ends || array_agg(ends), plan.split_parts || array_agg(of_part)
                INTO plan.split_gateways, plan.split_addresses, plan.split_ends, plan.split_parts
                FROM (SELECT DISTINCT gateway, CASE WHEN by_address THEN address END AS address,
                             CASE WHEN by_address THEN number || ' ' || of_side ELSE number::text END AS of_part,
                             date_bin(step, change - interval '1 us', 'epoch') + step AS ends
                      FROM unnest(changes_sides, changes_gateways, changes_addresses, changes) AS each (of_side, gateway, address, change)
                      WHERE change > lowers[part] AND change <= uppers[part]
                        AND date_bin(step, change - interval '1 us', 'epoch') >= finer_from) AS splits;
                -- Neighbouring steps together; if they are many, all that lies between.
                SELECT CASE WHEN count(*) <= 50 THEN string_agg(format('time > %L AND time <= %L', first - step, last), ' OR ')
                            ELSE format('time > %L AND time <= %L', min(first) - step, max(last)) END
                INTO in_steps
                FROM (SELECT min(ends) AS first, max(ends) AS last
                      FROM (SELECT ends, ends - row_number() OVER (ORDER BY ends) * step AS island
                            FROM (SELECT DISTINCT ends FROM unnest(plan.split_ends, plan.split_parts) AS split (ends, of_part)
                                  WHERE split_part(of_part, ' ', 1) = number::text) AS each) AS numbered
                      GROUP BY island) AS islands;
                -- First by what an index or a short list can say.
                SELECT string_agg(format(
                    '(%1$s(gateway, %%1$s%2$s) IN (SELECT of_gateway, ends%3$s FROM unnest($13, $14, $15, $16) AS split '
                    '(of_gateway, of_address, ends, of_part) WHERE of_part = %4$L))',
                    CASE WHEN cardinality(those) <= addresses_max THEN format('%I = ANY (%L) AND ', side_of, those) END,
                    ', ' || side_of, CASE WHEN side_of IS NOT NULL THEN ', of_address' END, of_part), ' OR ')
                INTO in_split
                FROM (SELECT of_part, nullif(split_part(of_part, ' ', 2), '') AS side_of,
                             array_agg(DISTINCT address) FILTER (WHERE address IS NOT NULL) AS those
                      FROM unnest(plan.split_addresses, plan.split_parts) AS split (address, of_part)
                      WHERE split_part(of_part, ' ', 1) = number::text GROUP BY of_part) AS of_sides;
            END IF;
            -- `begins`: a holder who came later, until `time`, has not held it for the whole step.
            parts := array_append(parts, format(
                'SELECT time, time - %L::interval AS begins, gateway, %s FROM (%s) AS part WHERE true%s%s%s',
                CASE WHEN step > interval '1 ms' THEN step ELSE interval '0' END, columns, source, filters, within,
                CASE WHEN in_steps IS NOT NULL THEN format(' AND NOT (' || in_split || ')', 'time') ELSE '' END));
            EXIT WHEN in_steps IS NULL;
            source := format('SELECT * FROM @extschema@.%I WHERE (%s)', finer_name, in_steps);
            IF finer_name = 'vpn_traffic' AND by_address THEN
                -- One read for each side and each stretch of neighbouring steps, with that side's addresses, so that the index
                -- of the rows finds origins. Rows that both sides want are read with the origins.
                WITH splits AS (
                    SELECT DISTINCT ends, split_part(of_part, ' ', 2) AS of_side
                    FROM unnest(plan.split_ends, plan.split_parts) AS split (ends, of_part)
                    WHERE split_part(of_part, ' ', 1) = number::text),
                islands AS (
                    SELECT of_side, min(ends) - step AS lower, max(ends) AS upper
                    FROM (SELECT of_side, ends, ends - row_number() OVER (PARTITION BY of_side ORDER BY ends) * step AS island
                          FROM splits) AS numbered
                    GROUP BY of_side, CASE WHEN (SELECT count(*) FROM splits) <= 50 THEN island END),
                addressed AS (
                    SELECT of_side, CASE WHEN count(DISTINCT address) <= addresses_max
                                         THEN format(' AND %I = ANY (%L)', of_side, array_agg(DISTINCT address)) ELSE '' END AS those
                    FROM unnest(plan.split_addresses, plan.split_parts) AS split (address, of_part)
                    CROSS JOIN LATERAL split_part(of_part, ' ', 2) AS of_side
                    WHERE split_part(of_part, ' ', 1) = number::text GROUP BY of_side),
                reads AS (
                    SELECT of_side, format('time > %L AND time <= %L%s', lower, upper, those) AS condition
                    FROM islands JOIN addressed USING (of_side))
                SELECT string_agg(concat(
                           'SELECT * FROM @extschema@.vpn_traffic WHERE ', condition, CASE WHEN of_side = 'dst' THEN
                               (SELECT ' AND NOT (' || string_agg(condition, ' OR ') || ')' FROM reads WHERE of_side = 'src') END), ' UNION ALL ')
                INTO source FROM reads;
            END IF;
            within := format(' AND (' || in_split || ')', format('date_bin(%1$L, time - interval ''1 us'', ''epoch'') + %1$L::interval', step));
            step := finer_step;
        END LOOP;
    END LOOP;
    plan.source := '(WITH sums AS MATERIALIZED (' || CASE
        WHEN plan.moments IS NULL AND plan.point <> '$2' AND plan.width = ALL (steps) AND grouping_columns <@ string_to_array(keys, ', ') THEN
            -- Each would be a sum of one row.
            format('SELECT time, begins, gateway, %s FROM (%s) AS parts', columns, array_to_string(parts, ' UNION ALL '))
        ELSE format(
            'SELECT %1$s, %2$s, %3$s FROM (%4$s) AS parts GROUP BY %5$s%2$s',
            CASE WHEN plan.moments IS NOT NULL THEN 'max(time) AS time, min(begins) AS begins' ELSE plan.point || ' AS time, NULL::timestamptz AS begins' END,
            keys, (SELECT string_agg(format('sum(%1$I::float8) AS %1$I', name), ', ') FROM unnest(counters) AS name),
            array_to_string(parts, ' UNION ALL '),
            concat(CASE WHEN plan.point <> '$2' THEN plan.point || ', ' END,
                   CASE WHEN plan.moments IS NOT NULL THEN 'width_bucket(time, $17), ' END)) END || ')';
    FOREACH side IN ARRAY sides LOOP
        plan.source := plan.source || format(
            ', %1$s_addresses AS MATERIALIZED (SELECT DISTINCT gateway, %1$s FROM sums), '
            '%1$s_holders AS MATERIALIZED (SELECT * FROM @extschema@.traffic_name_periods($1, $2, ARRAY(SELECT gateway FROM %1$s_addresses), '
            'ARRAY(SELECT %1$s FROM %1$s_addresses), %2$L) AS holders (gateway, %1$s, %1$s_name, %1$s_period))', side, side = 'src');
    END LOOP;
    plan.source := concat(plan.source, ' SELECT * FROM sums',
        CASE WHEN by_src_name THEN ' JOIN src_holders USING (gateway, src)' END,
        CASE WHEN by_dst_name THEN ' JOIN dst_holders USING (gateway, dst)' END,
        ' WHERE ', (SELECT string_agg(format('%I @> time', each || '_period'), ' AND ') FROM unnest(sides) AS each),
        CASE WHEN src_names IS NOT NULL THEN ' AND src_name = ANY ($18)' END,
        CASE WHEN dst_names IS NOT NULL THEN ' AND dst_name = ANY ($19)' END,
        ') AS named');
    IF plan.moments IS NOT NULL THEN
        plan.coarse := (SELECT string_agg(format('coalesce(bool_or(lower(%I) > begins), false)', each || '_period'), ' OR ') FROM unnest(sides) AS each);
    END IF;
    RETURN plan;
END $$;

CREATE FUNCTION traffic_make_plan(
    range_from timestamptz, range_to timestamptz, step interval, by_columns text[], gateways text[], srcs inet[],
    dsts inet[], protos text[], ports integer[], src_names text[] DEFAULT NULL, dst_names text[] DEFAULT NULL,
    zone text DEFAULT current_setting('TimeZone'))
RETURNS traffic_plan
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET datestyle = 'ISO'
SET intervalstyle = 'postgres' AS $$
DECLARE
    plan @extschema@.traffic_plan;
    -- Steps of days or months are those of the caller's time zone.
    months constant integer := coalesce((12 * extract(year FROM step) + extract(month FROM step))::integer, 0);
    days constant integer := coalesce(extract(day FROM step)::integer, 0);
    begins timestamp[];
    rollup @extschema@.traffic_rollups;
    rollup_step interval;
    level @extschema@.traffic_rollups;
    level_lower timestamptz;
    level_upper timestamptz;
    coarse @extschema@.traffic_rollups;
    coarse_lower timestamptz;
    coarse_upper timestamptz;
    part_lower timestamptz;
    part_upper timestamptz;
    times timestamptz[];
    steps_max constant integer := 1000;
    -- The 2 to 3 million rows of a busy gateway in this time can be read while somebody waits. Their sums for all addresses
    -- could not be made as fast.
    rows_range_max constant interval := interval '5 min';
    addresses_max constant integer := 1000;
    sources text[] := '{}'::text[];
    ranges text[] := '{}'::text[];
    part_steps interval[] := '{}'::interval[];
    part_lowers timestamptz[] := '{}'::timestamptz[];
    part_uppers timestamptz[] := '{}'::timestamptz[];
    filters text;
    by_src_name constant boolean := 'src_name' = ANY (by_columns) OR src_names IS NOT NULL;
    by_dst_name constant boolean := 'dst_name' = ANY (by_columns) OR dst_names IS NOT NULL;
    -- As constants: then the index finds a network as a range. Single addresses stay an array.
    in_networks constant text := ' OR %1$I <<= %2$L';
    src_networks text;
    dst_networks text;
    name_filters text := '';
    networks inet[];
BEGIN
    IF zone IS NULL THEN
        RAISE EXCEPTION 'zone must be a time zone' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF step <= interval '0' THEN
        RAISE EXCEPTION 'step must be positive' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF step <> make_interval(months => months) AND step <> make_interval(days => days) AND (months <> 0 OR days <> 0)
       OR months < 0 OR days < 0 THEN
        RAISE EXCEPTION 'step must be of months, or of days, or of hours and less' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF NOT by_columns <@ '{gateway,src,dst,proto,port,src_name,dst_name}'::text[] THEN
        RAISE EXCEPTION 'by_columns must be of gateway, src, dst, proto, port, src_name, dst_name'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    src_networks := (SELECT string_agg(format(in_networks, 'src', address), '') FROM unnest(srcs) AS address
                     WHERE address <> host(address)::inet);
    dst_networks := (SELECT string_agg(format(in_networks, 'dst', address), '') FROM unnest(dsts) AS address
                     WHERE address <> host(address)::inet);
    rollup := @extschema@.traffic_source(
        range_from, range_to, coalesce(step, (range_to - range_from) / 48),
        array_remove(array_remove(array_remove(by_columns, 'gateway'), 'src_name'), 'dst_name') ||
        CASE WHEN by_src_name THEN '{src}'::text[] ELSE '{}' END ||
        CASE WHEN by_dst_name THEN '{dst}'::text[] ELSE '{}' END ||
        CASE WHEN srcs IS NOT NULL THEN '{src}'::text[] ELSE '{}' END ||
        CASE WHEN dsts IS NOT NULL THEN '{dst}'::text[] ELSE '{}' END ||
        CASE WHEN protos IS NOT NULL THEN '{proto}'::text[] ELSE '{}' END ||
        -- The index of pairs by protocol begins with the protocol, and would not find an origin without it.
        CASE WHEN ports IS NOT NULL
                  OR coalesce(srcs::text[], src_names) IS NOT NULL AND protos IS NULL AND 'proto' = ANY (by_columns)
                     AND ('dst' = ANY (by_columns) OR dsts IS NOT NULL OR by_dst_name)
             THEN '{port}'::text[] ELSE '{}' END);

    -- Between two round times, such as midnights of a time zone that is not of whole hours: a finer rollup answers. Of one sum
    -- it is read only before the first and after the last whole step.
    IF (step IS NULL OR months > 0 OR days > 0)
       AND (date_bin(rollup.step, range_from, 'epoch') < range_from OR date_bin(rollup.step, range_to, 'epoch') < range_to) THEN
        SELECT finer.* INTO level
        FROM @extschema@.traffic_rollups AS finer JOIN @extschema@.traffic_tiers USING (tier)
        WHERE finer.grouping_columns = rollup.grouping_columns AND finer.step < rollup.step AND kept_from <= range_from
          AND date_bin(finer.step, range_from, 'epoch') = range_from AND date_bin(finer.step, range_to, 'epoch') = range_to
          AND date_bin('15 min', range_from, 'epoch') = range_from AND date_bin('15 min', range_to, 'epoch') = range_to
          AND (months = 0 AND days = 0 OR finer.range_max >= range_to - range_from)
        ORDER BY finer.step DESC LIMIT 1;
        IF FOUND THEN rollup := level; END IF;
    END IF;

    -- Where no rollup is as fine as asked for, as of pairs, the rows answer what an address did in a short range: all keys,
    -- each interval.
    IF coalesce(step, interval '1 us') < rollup.step AND range_to - range_from <= rows_range_max
       AND coalesce(srcs, dsts) IS NOT NULL
       AND (SELECT kept_from FROM @extschema@.traffic_tiers WHERE tier = 'rows') <= range_from THEN
        rollup.name := NULL;
        rollup.step := interval '1 us';
        rollup.tier := 'rows';
        rollup.room := NULL;
    END IF;

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
    plan.began := 'sums.time - $9';
    IF months > 0 OR days > 0 THEN
        plan.width := step;
        plan.began := format('timezone(%1$L, timezone(%1$L, sums.time) - $9)', zone);
        -- Weeks begin on Monday, quarters and years in January.
        plan.point := CASE WHEN months > 0 THEN format(
            'timezone(%1$L, date_trunc(''month'', timezone(%1$L, time - interval ''1 us'')) + interval ''1 month'' * (%2$s - mod('
            '(extract(year FROM timezone(%1$L, time - interval ''1 us'')) * 12 + extract(month FROM timezone(%1$L, '
            'time - interval ''1 us'')) - 1)::integer, %2$s)))', zone, months)
            ELSE format('timezone(%1$L, date_bin(%2$L, timezone(%1$L, time - interval ''1 us''), timestamp ''1970-01-05'') + %2$L::interval)',
                        zone, step) END;
        SELECT array_agg(CASE WHEN months > 0 THEN date_trunc('month', local) - interval '1 month' * mod(
                                   (extract(year FROM local) * 12 + extract(month FROM local) - 1)::integer, months)
                              ELSE date_bin(step, local, timestamp '1970-01-05') END ORDER BY number)
        INTO begins
        FROM unnest(ARRAY[timezone(zone, range_from), timezone(zone, range_to - interval '1 us')]) WITH ORDINALITY AS ends (local, number);
        plan.lower := timezone(zone, begins[1]);
        plan.upper := timezone(zone, begins[2] + step);
    ELSE
        plan.width := make_interval(secs => extract(epoch FROM rollup_step)::double precision *
            ceil(extract(epoch FROM coalesce(step, rollup_step)) / extract(epoch FROM rollup_step))::double precision);
        -- A time is the end of what it stands for.
        plan.point := format('date_bin(%1$L, time - interval ''1 us'', ''epoch'') + %1$L::interval', plan.width);
        plan.lower := date_bin(plan.width, range_from, 'epoch');
        plan.upper := date_bin(plan.width, range_to - interval '1 us', 'epoch') + plan.width;
    END IF;
    -- What retention has dropped makes the first point shorter.
    plan.lower := greatest(plan.lower, (SELECT kept_from FROM @extschema@.traffic_tiers WHERE tier = rollup.tier));
    IF step IS NULL THEN
        plan.width := plan.upper - plan.lower;
        plan.point := '$2';
    END IF;
    -- Names are looked for at the addresses that may have them.
    IF src_names IS NOT NULL AND srcs IS NULL THEN
        networks := @extschema@.traffic_networks_of(src_names, plan.lower, plan.upper);
        IF networks IS NOT NULL THEN
            SELECT addresses INTO srcs
            FROM @extschema@.traffic_addresses('src', plan.lower, plan.upper, gateways, networks, addresses_max);
            IF srcs IS NULL THEN name_filters := name_filters || @extschema@.traffic_within('src', networks); END IF;
        END IF;
    END IF;
    IF dst_names IS NOT NULL AND dsts IS NULL THEN
        networks := @extschema@.traffic_networks_of(dst_names, plan.lower, plan.upper);
        IF networks IS NOT NULL THEN
            SELECT addresses INTO dsts
            FROM @extschema@.traffic_addresses('dst', plan.lower, plan.upper, gateways, networks, addresses_max);
            IF dsts IS NULL THEN name_filters := name_filters || @extschema@.traffic_within('dst', networks); END IF;
        END IF;
    END IF;
    plan.srcs := srcs;
    plan.dsts := dsts;

    plan.rows_max := CASE WHEN step IS NULL AND 'port' = ANY (rollup.grouping_columns) AND rollup.room IS NULL
                               AND rollup.grouping_columns <@ by_columns AND rollup.name IS NOT NULL
                               AND NOT by_src_name AND NOT by_dst_name THEN 0::double precision END;
    -- One sum over all of the range needs fine steps only before the first and after the last coarse one.
    level := rollup;
    level_lower := plan.lower;
    level_upper := plan.upper;
    LOOP
        coarse := NULL;
        IF step IS NULL THEN
            SELECT candidate.* INTO coarse
            FROM @extschema@.traffic_rollups AS candidate JOIN @extschema@.traffic_tiers USING (tier)
            WHERE candidate.grouping_columns = rollup.grouping_columns AND candidate.step > level.step
              AND kept_from <= plan.lower
            ORDER BY candidate.step LIMIT 1;
        END IF;
        coarse_lower := date_bin(coarse.step, level_lower - interval '1 us', 'epoch') + coarse.step;
        coarse_upper := date_bin(coarse.step, level_upper, 'epoch');
        IF (coarse_lower < coarse_upper) IS NOT TRUE THEN
            coarse_lower := level_upper;
            coarse_upper := level_upper;
        END IF;
        FOR part_lower, part_upper IN
            SELECT * FROM (VALUES (level_lower, coarse_lower), (coarse_upper, level_upper)) AS parts (lower, upper)
            WHERE lower < upper OR cardinality(sources) = 0
        LOOP
            times := NULL;
            IF level.name IS NOT NULL AND (CASE rollup.grouping_columns[1] WHEN 'src' THEN srcs IS NOT NULL WHEN 'dst' THEN dsts IS NOT NULL
                   WHEN 'proto' THEN protos IS NOT NULL AND (ports IS NOT NULL OR 'src' = ANY (rollup.grouping_columns)) END) THEN
                -- The index of a rollup finds a few keys step by step; of a range it would read every key.
                times := CASE WHEN level.step > interval '1 ms'
                    THEN ARRAY(SELECT generate_series(date_bin(level.step, part_lower, 'epoch') + level.step, part_upper, level.step)
                               LIMIT steps_max + 1)
                    ELSE ARRAY(SELECT DISTINCT total.time FROM @extschema@.traffic_total AS total
                               WHERE total.time > part_lower AND total.time <= part_upper LIMIT steps_max + 1) END;
            END IF;
            sources := array_append(sources, format('SELECT * FROM @extschema@.%I WHERE %s', coalesce('traffic_' || level.name, 'vpn_traffic'),
                CASE WHEN cardinality(times) <= steps_max THEN format('time = ANY (%L::timestamptz[])', times)
                     ELSE format('time > %L AND time <= %L', part_lower, part_upper) END));
            plan.rows_max := plan.rows_max + CASE WHEN level.step > interval '1 ms'
                THEN extract(epoch FROM part_upper - part_lower) / extract(epoch FROM level.step)
                ELSE (SELECT count(DISTINCT total.time) FROM @extschema@.traffic_total AS total
                      WHERE total.time > part_lower AND total.time <= part_upper) END;
            ranges := array_append(ranges, format('rollup = %L AND time > %L AND time <= %L', level.name, part_lower,
                                                  part_upper));
            part_steps := array_append(part_steps, level.step);
            part_lowers := array_append(part_lowers, part_lower);
            part_uppers := array_append(part_uppers, part_upper);
        END LOOP;
        EXIT WHEN coarse_lower = coarse_upper;
        level := coarse;
        level_lower := coarse_lower;
        level_upper := coarse_upper;
    END LOOP;
    IF plan.rows_max IS NOT NULL AND 'gateway' <> ALL (by_columns) THEN
        plan.rows_max := plan.rows_max * coalesce(cardinality(gateways), (
            SELECT count(DISTINCT hour.gateway) FROM @extschema@.traffic_protocol_1h AS hour
            WHERE hour.time > plan.lower AND hour.time < plan.upper + interval '1 h'
            HAVING (SELECT kept_from FROM @extschema@.traffic_tiers WHERE tier = '1h') <= plan.lower));
    END IF;
    filters := concat(
        CASE WHEN gateways IS NOT NULL THEN ' AND gateway = ANY ($3)' END,
        CASE WHEN srcs IS NOT NULL THEN format(' AND (src = ANY ($4)%s)', src_networks) END,
        CASE WHEN dsts IS NOT NULL THEN format(' AND (dst = ANY ($5)%s)', dst_networks) END,
        CASE WHEN protos IS NOT NULL THEN ' AND proto = ANY ($6)' END,
        CASE WHEN ports IS NOT NULL THEN ' AND port = ANY ($7)' END);
    plan.source := format('(%s) AS parts WHERE true%s', array_to_string(sources, ' UNION ALL '), filters);
    -- Of the coarsest level, which is now the last one.
    IF plan.rows_max IS NOT NULL THEN
        plan.one_step := format('@extschema@.%I WHERE time > %L AND time <= %L%s', 'traffic_' || level.name,
            greatest(part_lowers[cardinality(sources)], part_uppers[cardinality(sources)] - level.step),
            part_uppers[cardinality(sources)], filters);
    END IF;
    IF by_src_name OR by_dst_name THEN
        plan := @extschema@.traffic_plan_names(
            plan, rollup.grouping_columns, by_columns, filters || name_filters, sources, part_steps, part_lowers, part_uppers,
            by_src_name, by_dst_name, gateways, protos, ports, src_names, dst_names);
    END IF;
    IF rollup.room IS NOT NULL AND ('dst' = ANY (by_columns) OR dsts IS NOT NULL OR by_dst_name) THEN
        plan.unlisted := format('(%s)%s', array_to_string(ranges, ' OR '),
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
                 (5, 'port', 'integer'), (6, 'src_name', 'text'), (7, 'dst_name', 'text')) AS columns (number, name, kind);
    RETURN plan;
END $$;

-- Sums between two moments, in points of `step` (NULL: one for the whole range), for each combination of by_columns (of
-- gateway, src, dst, proto, port), of the rows that pass the filters (NULL: all). An address in srcs or dsts may be a
-- network: it admits the addresses within it. Points of days or months are those of the time zone `zone`. The answer comes from
-- a rollup (or, of an address within minutes, from rows), so points may be wider than asked for, and
-- the range is widened to whole points: `time` is a point's end. `seconds` is what a rate is over: how much of the point
-- was observed, of several gateways by the one that observed most. Where that is not known (CSV files) it is the point's
-- length as far as there is data. Columns that by_columns does not name are NULL. Sums are exact up to 2^53, JSON's limit.
-- `largest` keeps only this number of sums, those with the most bytes; it needs a step of NULL.
-- If a rollup does not list all destinations (traffic_rollups.room), the others are one sum under 0.0.0.0 (::). Then the
-- sum of a destination can be too small, by at most `unlisted_bytes`, both directions together. 0: the sum is exact.
--
-- Settings: compiling such a query takes longer than running it; the memory avoids sorting on disk; a step's rows lie
-- together on disk, so reading them by the index is cheap. Nothing of it is looked up row by row: names and periods are
-- hashed, of which the planner knows too little.
CREATE FUNCTION traffic(
    range_from timestamptz, range_to timestamptz, step interval DEFAULT NULL, by_columns text[] DEFAULT '{}',
    gateways text[] DEFAULT NULL, srcs inet[] DEFAULT NULL, dsts inet[] DEFAULT NULL, protos text[] DEFAULT NULL,
    ports integer[] DEFAULT NULL, largest bigint DEFAULT NULL, src_names text[] DEFAULT NULL, dst_names text[] DEFAULT NULL,
    zone text DEFAULT current_setting('TimeZone'))
RETURNS TABLE ("time" timestamptz, gateway text, src inet, dst inet, proto text, port integer,
               src_packets double precision, src_bytes double precision, dst_packets double precision,
               dst_bytes double precision, connection_times double precision, connection_count double precision,
               flow_count double precision, unanswered_count double precision,
               seconds double precision, unlisted_bytes double precision, src_name text, dst_name text,
               coarse boolean)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET datestyle = 'ISO'
SET intervalstyle = 'postgres' SET jit = off SET work_mem = '64MB'
SET random_page_cost = 1.1 SET enable_nestloop = off SET enable_mergejoin = off SET enable_sort = off AS $$
DECLARE
    plan @extschema@.traffic_plan;
    newest timestamptz;
    by_gateway constant text := CASE WHEN 'gateway' = ANY (by_columns) THEN ', gateway' ELSE '' END;
    -- What was covered between them is read by half hours, before and after by intervals.
    halves_lower timestamptz;
    halves_upper timestamptz;
    bound double precision;
    large_protos text[];
    large_ports integer[];
BEGIN
    -- No row is older or newer than this.
    range_from := greatest(range_from, '1970-01-01 00:00+00');
    range_to := least(range_to, '2200-01-01 00:00+00');
    IF (range_from < range_to) IS NOT TRUE THEN RETURN; END IF;
    IF largest < 0 THEN
        RAISE EXCEPTION 'largest must not be negative' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF largest IS NOT NULL AND step IS NOT NULL THEN
        RAISE EXCEPTION 'largest needs one sum of the whole range: step must be NULL' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    plan := @extschema@.traffic_make_plan(range_from, range_to, step, by_columns, gateways, srcs, dsts, protos, ports, src_names,
                                         dst_names, zone);
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
    -- Most ports are too small for one of the largest sums, so their rows need not be summed. The largest rows of a step show
    -- how large these sums are at least. A sum of at most rows_max rows that reaches this bound has a row of at least
    -- bound / rows_max: ports without such a row are left out.
    IF largest * plan.rows_max <= 10000 THEN
        EXECUTE format(
            'SELECT min(bytes) / $9 * (1 - 1e-9) FROM ('
            '  SELECT max(bytes) AS bytes FROM ('
            '    SELECT %1$s, src_bytes::float8 + dst_bytes::float8 AS bytes FROM %2$s ORDER BY bytes DESC LIMIT ceil($8 * $9)) AS of_rows '
            '  GROUP BY %1$s ORDER BY 1 DESC LIMIT $8) AS of_keys HAVING count(*) = $8',
            substr(plan.grouped, 3), plan.one_step)
        USING plan.lower, plan.upper, gateways, plan.srcs, plan.dsts, protos, ports, largest, plan.rows_max INTO bound;
    END IF;
    IF bound IS NOT NULL THEN
        EXECUTE 'SELECT array_agg(DISTINCT proto), array_agg(DISTINCT port) FROM ' || plan.source ||
                ' AND src_bytes::float8 + dst_bytes::float8 >= $8'
        USING plan.lower, plan.upper, gateways, plan.srcs, plan.dsts, protos, ports, bound INTO large_protos, large_ports;
        IF cardinality(large_protos) * cardinality(large_ports) <= 1000 THEN
            protos := large_protos;
            ports := large_ports;
            plan := @extschema@.traffic_make_plan(range_from, range_to, step, by_columns, gateways, srcs, dsts, protos, ports,
                                                 src_names, dst_names, zone);
        END IF;
    END IF;
    RETURN QUERY EXECUTE format(
        'WITH sums (time, gateway, src, dst, proto, port, src_name, dst_name, src_packets, src_bytes, dst_packets, dst_bytes, '
        '           connection_times, connection_count, flow_count, unanswered_count, coarse) AS ('
        '  SELECT %1$s%2$s, sum(src_packets::float8), sum(src_bytes::float8), sum(dst_packets::float8), '
        '    sum(dst_bytes::float8), sum(connection_times::float8), sum(connection_count::float8), '
        '    sum(flow_count::float8), sum(unanswered_count::float8), %10$s '
        '  FROM %3$s GROUP BY %4$s%9$s), '
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
        'SELECT sums.time, sums.gateway, src, dst, proto, port, src_packets, src_bytes, dst_packets, dst_bytes, '
        '  connection_times, connection_count, flow_count, unanswered_count, coalesce(covered.seconds, '
        '  date_part(''epoch'', least(sums.time, $8) - greatest(%11$s, $1))), %7$s, src_name, dst_name, coarse '
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
        CASE WHEN plan.unlisted IS NOT NULL THEN format(' LEFT JOIN unlisted USING (time%s)', by_gateway) ELSE '' END,
        CASE WHEN largest IS NOT NULL THEN
            ' ORDER BY sum(src_bytes::float8) + sum(dst_bytes::float8) DESC' || plan.grouped || ' LIMIT $12' ELSE '' END,
        coalesce(plan.coarse, 'false'), plan.began)
    USING plan.lower, plan.upper, gateways, plan.srcs, plan.dsts, protos, ports, newest, plan.width, halves_lower, halves_upper, largest,
          plan.split_gateways, plan.split_addresses, plan.split_ends, plan.split_parts, plan.moments, src_names, dst_names;
END $$;
COMMENT ON FUNCTION traffic IS
    'Sums of a range in points of `step`, by some of gateway, src, dst, proto, port, filtered by them; srcs and '
    'dsts may be networks. For dashboards.';

-- The same for open connections. They are a level, not a sum over time: the average over a point's intervals, for each
-- gateway separately, since each has its own intervals.
CREATE FUNCTION traffic_open_connections(
    range_from timestamptz, range_to timestamptz, step interval DEFAULT NULL, by_columns text[] DEFAULT '{}',
    gateways text[] DEFAULT NULL, srcs inet[] DEFAULT NULL, dsts inet[] DEFAULT NULL, protos text[] DEFAULT NULL,
    ports integer[] DEFAULT NULL, src_names text[] DEFAULT NULL, dst_names text[] DEFAULT NULL,
    zone text DEFAULT current_setting('TimeZone'))
RETURNS TABLE ("time" timestamptz, gateway text, src inet, dst inet, proto text, port integer,
               open_connections double precision, src_name text, dst_name text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET datestyle = 'ISO'
SET intervalstyle = 'postgres' SET jit = off SET work_mem = '64MB'
SET random_page_cost = 1.1 SET enable_nestloop = off SET enable_mergejoin = off SET enable_sort = off AS $$
DECLARE
    plan @extschema@.traffic_plan;
BEGIN
    -- No row is older or newer than this.
    range_from := greatest(range_from, '1970-01-01 00:00+00');
    range_to := least(range_to, '2200-01-01 00:00+00');
    IF (range_from < range_to) IS NOT TRUE THEN RETURN; END IF;
    plan := @extschema@.traffic_make_plan(range_from, range_to, step, by_columns, gateways, srcs, dsts, protos, ports, src_names,
                                         dst_names, zone);
    RETURN QUERY EXECUTE format(
        'SELECT point, gateway, src, dst, proto, port, open, src_name, dst_name FROM ('
        'SELECT point%1$s, sum(open / intervals) FROM '
        '(SELECT %2$s AS point, gateway%3$s, sum(open_connections::float8) AS open '
        '  FROM %4$s GROUP BY 1, gateway%3$s) AS sums '
        'JOIN (SELECT %2$s AS point, gateway, count(*) AS intervals FROM @extschema@.traffic_total '
        '  WHERE time > $1 AND time <= $2 GROUP BY 1, 2) AS intervals USING (point, gateway) GROUP BY point%5$s) AS answer '
        '(point, gateway, src, dst, proto, port, src_name, dst_name, open)',
        plan.output, plan.point, replace(plan.grouped, ', gateway', ''), plan.source, plan.grouped)
    USING plan.lower, plan.upper, gateways, plan.srcs, plan.dsts, protos, ports, NULL, NULL, NULL, NULL, NULL,
          plan.split_gateways, plan.split_addresses, plan.split_ends, plan.split_parts, plan.moments, src_names, dst_names;
END $$;
COMMENT ON FUNCTION traffic_open_connections IS
    'Like traffic(): open connections, averaged over a point''s intervals.';

-- Bytes for people, as the report shows them: SI units, three digits.
CREATE FUNCTION traffic_bytes(bytes double precision) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET datestyle = 'ISO'
SET intervalstyle = 'postgres' AS $$
    SELECT round((bytes / 1000.0 ^ power)::numeric,
                 CASE WHEN power = 0 THEN 0 ELSE 2 - floor(log(greatest(bytes / 1000.0 ^ power, 1)))::integer END) || ' ' || unit
    FROM unnest('{B,kB,MB,GB,TB,PB,EB}'::text[], '{0,1,2,3,4,5,6}'::integer[]) AS units (unit, power)
    WHERE bytes < 999.5 * 1000.0 ^ power OR power = 6 ORDER BY power LIMIT 1
$$;
COMMENT ON FUNCTION traffic_bytes IS 'Bytes for people, in SI units: 1 kB is 1000 bytes.';
