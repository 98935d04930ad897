-- Forgetting a customer.

-- Anonymises the rows and sums of a name, or of a network of all gateways, with from < time <= to: their address becomes
-- 0.0.0.1 (IPv6: 100::1), which nobody can have, and the name "forgotten". Sums stay, also those of rollups. What a group
-- mask has joined with others stays as it is. Beyond the rows, it is whole steps of rollups by their end. Importers wait.
-- Returns what was changed: tables, and rows of each.
CREATE FUNCTION traffic_forget(whom text, range_from timestamptz, range_to timestamptz)
RETURNS TABLE (changed text, row_count bigint)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET datestyle = 'ISO'
SET intervalstyle = 'postgres' SET jit = off SET work_mem = '256MB' SET enable_nestloop = off AS $$
DECLARE
    is_name constant boolean := EXISTS (SELECT FROM @extschema@.traffic_names WHERE name = whom);
    span tstzrange;
    networks cidr[];
    rows_from constant timestamptz := (SELECT kept_from FROM @extschema@.traffic_tiers WHERE tier = 'rows');
    counters constant text[] := ARRAY['src_packets', 'src_bytes', 'dst_packets', 'dst_bytes', 'connection_times',
        'connection_count', 'open_connections', 'flow_count', 'unanswered_count', 'row_count'];
    anonymous constant text := 'CASE family(%1$I) WHEN 4 THEN inet ''0.0.0.1'' ELSE inet ''100::1'' END';
    additions text;
    sums text;
    side text;
    rollup @extschema@.traffic_rollups;
    key text;
    within text;
    their_gateways text[];
    their_addresses inet[];
    held_gateways text[];
    held_addresses inet[];
    held_times tstzrange[];
    split_gateways text[];
    split_ends timestamptz[];
    moments timestamptz[] := '{}'::timestamptz[];
    moment_gateways text[] := '{}'::text[];
    old_names @extschema@.traffic_names[];
    n bigint;
BEGIN
    IF (range_from < range_to) IS NOT TRUE THEN
        RAISE EXCEPTION 'the range is empty' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    -- What holds for ever is within an infinite range.
    span := tstzrange(nullif(range_from, '-infinity'), nullif(range_to, 'infinity'), '(]');
    LOCK TABLE @extschema@.import_ledger, @extschema@.traffic_names IN SHARE ROW EXCLUSIVE MODE;
    BEGIN
        networks := ARRAY[network(whom::inet)]::cidr[];
    EXCEPTION WHEN invalid_text_representation THEN
        networks := NULL;
    END;
    IF is_name AND networks IS NOT NULL THEN
        RAISE EXCEPTION '% is a name and a network: %', quote_literal(whom),
            CASE WHEN whom LIKE '%/%' THEN 'name the customer''s networks one by one' ELSE format('write %s for the network', networks[1]) END
            USING ERRCODE = 'ambiguous_parameter';
    ELSIF is_name THEN
        SELECT array_agg(DISTINCT network) INTO networks FROM @extschema@.traffic_names
        WHERE name = whom AND valid && span;
    ELSIF networks IS NULL THEN
        RAISE EXCEPTION '% is neither a name in traffic_names nor a network', quote_literal(whom)
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT string_agg(format('%1$I = least(held.%1$I::numeric + excluded.%1$I, 9223372036854775807)::bigint', name), ', '),
           string_agg(format('least(sum(%1$I), 9223372036854775807)::bigint AS %1$I', name), ', ')
    INTO additions, sums FROM unnest(counters) AS name;
    FOREACH side IN ARRAY '{src,dst}'::text[] LOOP
        -- Which addresses, and when.
        SELECT string_agg(format('%I <<= %L', side, network), ' OR ') INTO within FROM unnest(networks) AS network;
        CONTINUE WHEN within IS NULL;
        EXECUTE (SELECT format('SELECT array_agg(gateway), array_agg(address) FROM (%s) AS found', string_agg(format(
                     'SELECT gateway, %1$I AS address FROM @extschema@.%2$I WHERE time > %3$L AND time <= %4$L AND (%5$s)',
                     side, source, range_from, date_bin(step, greatest(least(range_to, '2200-01-01'), '1970-01-01') - interval '1 us', 'epoch') + step, within), ' UNION '))
                 FROM (SELECT 'vpn_traffic' AS source, interval '1 us' AS step
                       UNION ALL SELECT 'traffic_' || name, traffic_rollups.step FROM @extschema@.traffic_rollups WHERE side = ANY (grouping_columns)) AS sources)
        INTO their_gateways, their_addresses;
        CONTINUE WHEN their_gateways IS NULL;
        IF is_name THEN
            SELECT array_agg(gateway), array_agg(address), array_agg(valid * span)
            INTO held_gateways, held_addresses, held_times
            FROM @extschema@.traffic_name_periods(range_from, range_to, their_gateways, their_addresses, side = 'src')
            WHERE label = whom AND valid && span;
        ELSE
            held_gateways := their_gateways;
            held_addresses := their_addresses;
            held_times := array_fill(span, ARRAY[cardinality(their_gateways)]);
        END IF;
        CONTINUE WHEN held_gateways IS NULL;
        SELECT moments || array_agg(moment), moment_gateways || array_agg(gateway) INTO moments, moment_gateways
        FROM unnest(held_gateways, held_times) AS held (gateway, valid), unnest(ARRAY[lower(valid), upper(valid)]) AS moment
        WHERE isfinite(moment);
        -- Not by UPDATE: Citus does not change the column that says where a row lies.
        EXECUTE format('WITH gone AS (DELETE FROM @extschema@.vpn_traffic AS traffic USING unnest($1, $2, $3) AS held (gateway, address, valid) '
                       '  WHERE traffic.gateway = held.gateway AND traffic.%1$I = held.address AND held.valid @> traffic.time '
                       '  AND traffic.time > $4 AND traffic.time <= $5 RETURNING traffic.*) '
                       'INSERT INTO @extschema@.vpn_traffic SELECT %2$s FROM gone', side,
                       (SELECT string_agg(CASE WHEN attname = side THEN format(anonymous, side) ELSE quote_ident(attname) END, ', ' ORDER BY attnum)
                        FROM pg_attribute WHERE attrelid = '@extschema@.vpn_traffic'::regclass AND attnum > 0 AND NOT attisdropped))
        USING held_gateways, held_addresses, held_times, range_from, range_to;
        GET DIAGNOSTICS n = ROW_COUNT;
        changed := format('vpn_traffic, %s', side);
        row_count := n;
        RETURN NEXT;
        FOR rollup IN SELECT * FROM @extschema@.traffic_rollups WHERE side = ANY (grouping_columns) ORDER BY name LOOP
            -- Whole steps of one holder change their key. What is not whole follows below.
            key := array_to_string('{time,gateway}'::text[] || rollup.grouping_columns, ', ');
            EXECUTE format(
                'WITH gone AS (DELETE FROM @extschema@.%1$I AS rollup USING unnest($1, $2, $3) AS held (of_gateway, of_address, valid) '
                '  WHERE gateway = of_gateway AND %2$I = of_address AND valid @> time AND time > $4 AND time <= $5 RETURNING rollup.*) '
                'INSERT INTO @extschema@.%1$I AS held (%3$s, %4$s) SELECT %5$s, %6$s FROM (SELECT %7$s, %4$s FROM gone) AS renamed '
                'GROUP BY %3$s ON CONFLICT (%3$s) DO UPDATE SET %8$s',
                'traffic_' || rollup.name, side, key, array_to_string(counters, ', '), key, sums,
                (SELECT string_agg(CASE WHEN name = side THEN format(anonymous, side) || ' AS ' || side ELSE name END, ', ')
                 FROM regexp_split_to_table(key, ', ') AS name), additions)
            USING held_gateways, held_addresses, held_times, range_from, range_to;
            GET DIAGNOSTICS n = ROW_COUNT;
            changed := format('traffic_%s, %s', rollup.name, side);
            row_count := n;
            RETURN NEXT;
        END LOOP;
    END LOOP;
    -- Steps in the middle of which it begins or ends are rebuilt from their rows, as far as these are kept.
    FOR rollup IN SELECT * FROM @extschema@.traffic_rollups
                  WHERE grouping_columns && '{src,dst}'::text[] AND step > interval '1 ms' ORDER BY name LOOP
        SELECT array_agg(gateway), array_agg(ends) INTO split_gateways, split_ends
        FROM (SELECT DISTINCT gateway, date_bin(rollup.step, moment - interval '1 us', 'epoch') + rollup.step AS ends
              FROM unnest(moment_gateways, moments) AS each (gateway, moment)) AS steps
        WHERE ends - rollup.step >= rows_from;
        CONTINUE WHEN split_gateways IS NULL;
        key := array_to_string('{gateway}'::text[] || rollup.grouping_columns, ', ');
        EXECUTE format('DELETE FROM @extschema@.%I USING unnest($1, $2) AS split (of_gateway, ends) '
                       'WHERE gateway = of_gateway AND time = ends', 'traffic_' || rollup.name)
        USING split_gateways, split_ends;
        EXECUTE format(
            'INSERT INTO @extschema@.%1$I (time, %2$s, %3$s) SELECT ends, %2$s, %4$s FROM (SELECT *, 1 AS row_count FROM @extschema@.vpn_traffic) AS rows '
            'JOIN unnest($1, $2) AS split (of_gateway, ends) ON gateway = of_gateway AND time > ends - %5$L::interval AND time <= ends '
            'WHERE time > $3 AND time <= $4 GROUP BY ends, %2$s',
            'traffic_' || rollup.name, key, array_to_string(counters, ', '), sums, rollup.step)
        USING split_gateways, split_ends, (SELECT min(ends) - rollup.step FROM unnest(split_ends) AS ends),
              (SELECT max(ends) FROM unnest(split_ends) AS ends);
        GET DIAGNOSTICS n = ROW_COUNT;
        -- All of these keys are listed now.
        UPDATE @extschema@.traffic_unlisted AS held SET listed = greatest(listed, rollup.room), one_key_bytes = 0, all_bytes = 0
        FROM unnest(split_gateways, split_ends) AS split (of_gateway, ends)
        WHERE held.rollup = rollup.name AND held.gateway = of_gateway AND held.time = ends;
        changed := format('traffic_%s, rebuilt', rollup.name);
        row_count := n;
        RETURN NEXT;
    END LOOP;
    -- The names themselves.
    WITH gone AS (
        DELETE FROM @extschema@.traffic_names AS names
        WHERE valid && span AND CASE WHEN is_name THEN name = whom ELSE network <<= networks[1] END RETURNING names.*
    )
    SELECT array_agg(gone::@extschema@.traffic_names) INTO old_names FROM gone;
    INSERT INTO @extschema@.traffic_names
    SELECT old.gateway, old.network, CASE WHEN piece <@ span THEN 'forgotten' ELSE old.name END, old.source, piece, old.first_seen
    FROM unnest(old_names) AS old, LATERAL (
        SELECT valid * span AS piece UNION ALL SELECT unnest(multirange(valid) - multirange(span))) AS pieces;
    changed := 'traffic_names';
    row_count := coalesce(cardinality(old_names), 0)::bigint;
    RETURN NEXT;
END $$;
REVOKE ALL ON FUNCTION traffic_forget FROM PUBLIC;
COMMENT ON FUNCTION traffic_forget IS
    'Anonymises the rows and sums of a name or network with from < time <= to, in one transaction; sums stay. Returns what it changed.';
