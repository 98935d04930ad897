
-- Renaming a gateway ---------------------------------------------------------------------------------------------------

-- Rows, sums, gaps, intervals and names of one gateway become those of another, which may have its own: a gateway was renamed
-- or replaced. Two that observed the same time are not one: then nothing is changed.
CREATE FUNCTION traffic_rename_gateway(old_name text, new_name text)
RETURNS TABLE (changed text, row_count bigint)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET datestyle = 'ISO'
SET intervalstyle = 'postgres' SET jit = off SET work_mem = '256MB' AS $$
DECLARE
    counters constant text[] := ARRAY['src_packets', 'src_bytes', 'dst_packets', 'dst_bytes', 'connection_times',
        'connection_count', 'open_connections', 'flow_count', 'unanswered_count', 'row_count'];
    additions text;
    sums @extschema@.traffic_rollups;
    key text;
    moment timestamptz;
    n bigint;
BEGIN
    IF (old_name <> new_name AND octet_length(new_name) BETWEEN 1 AND 255 AND new_name !~ '[[:cntrl:]]') IS NOT TRUE THEN
        RAISE EXCEPTION 'the new name must be another one, of 1 to 255 bytes without control characters'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    LOCK TABLE @extschema@.import_ledger, @extschema@.traffic_names IN SHARE ROW EXCLUSIVE MODE;
    IF NOT EXISTS (SELECT FROM @extschema@.import_ledger WHERE gateway = old_name) THEN
        RAISE EXCEPTION 'no file of a gateway % was imported', quote_literal(old_name) USING ERRCODE = 'invalid_parameter_value';
    END IF;
    -- An engine that was restarted under its new name begins to observe where it ended: at the beginning of its last dump,
    -- which the file before ends with.
    SELECT min(covered_from) INTO moment FROM (
        SELECT gateway, covered_from, covered_from + (covered_to - covered_from) / 2 AS middle,
               max(CASE WHEN gateway = old_name THEN covered_to END) OVER earlier AS old_to,
               max(CASE WHEN gateway = new_name THEN covered_to END) OVER earlier AS new_to
        FROM @extschema@.import_ledger WHERE gateway IN (old_name, new_name) AND covered_from < covered_to
        WINDOW earlier AS (ORDER BY covered_from, covered_to ROWS UNBOUNDED PRECEDING)) AS observed
    WHERE middle < CASE gateway WHEN old_name THEN new_to ELSE old_to END;
    -- CSV files do not say what was observed: then no rows may be of the same time.
    IF moment IS NULL AND EXISTS (SELECT FROM @extschema@.import_ledger
                                  WHERE gateway IN (old_name, new_name) AND covered_from IS NULL AND names_time IS NULL) THEN
        SELECT min(time) INTO moment FROM (
            SELECT time FROM @extschema@.traffic_total WHERE gateway IN (old_name, new_name)
            GROUP BY time HAVING min(gateway) <> max(gateway)) AS of_both;
    END IF;
    IF moment IS NOT NULL THEN
        RAISE EXCEPTION '% and % both observed %', quote_literal(old_name), quote_literal(new_name), moment
            USING ERRCODE = 'invalid_parameter_value';
    END IF;

    UPDATE @extschema@.vpn_traffic SET gateway = new_name WHERE gateway = old_name;
    GET DIAGNOSTICS n = ROW_COUNT;
    changed := 'vpn_traffic';
    row_count := n;
    RETURN NEXT;
    -- Both may have a part of the step in which one followed the other.
    SELECT string_agg(format('%1$I = least(held.%1$I::numeric + excluded.%1$I, 9223372036854775807)::bigint', name), ', ')
    INTO additions FROM unnest(counters) AS name;
    FOR sums IN SELECT * FROM @extschema@.traffic_rollups ORDER BY name LOOP
        key := array_to_string('{time}'::text[] || sums.grouping_columns, ', ');
        EXECUTE format(
            'WITH gone AS (DELETE FROM @extschema@.%1$I WHERE gateway = $1 RETURNING *) '
            'INSERT INTO @extschema@.%1$I AS held (%2$s, gateway, %3$s) SELECT %2$s, $2, %3$s FROM gone '
            'ON CONFLICT (%4$s) DO UPDATE SET %5$s',
            'traffic_' || sums.name, key, array_to_string(counters, ', '),
            array_to_string('{time,gateway}'::text[] || sums.grouping_columns, ', '), additions)
        USING old_name, new_name;
        GET DIAGNOSTICS n = ROW_COUNT;
        changed := 'traffic_' || sums.name;
        row_count := n;
        RETURN NEXT;
    END LOOP;
    -- What is missing from a key adds up: it may have been the same key.
    WITH gone AS (DELETE FROM @extschema@.traffic_unlisted WHERE gateway = old_name RETURNING *)
    INSERT INTO @extschema@.traffic_unlisted AS held (rollup, time, gateway, listed, one_key_bytes, all_bytes)
    SELECT gone.rollup, time, new_name, listed, one_key_bytes, all_bytes FROM gone
    ON CONFLICT (time, rollup, gateway) DO UPDATE SET listed = held.listed + excluded.listed,
        one_key_bytes = held.one_key_bytes + excluded.one_key_bytes, all_bytes = held.all_bytes + excluded.all_bytes;
    WITH gone AS (DELETE FROM @extschema@.traffic_covered WHERE gateway = old_name RETURNING *)
    INSERT INTO @extschema@.traffic_covered AS held (time, covered, gateway) SELECT time, covered, new_name FROM gone
    ON CONFLICT (time, gateway) DO UPDATE SET covered = held.covered + excluded.covered;
    UPDATE @extschema@.traffic_gaps SET gateway = new_name WHERE gateway = old_name;
    GET DIAGNOSTICS n = ROW_COUNT;
    changed := 'traffic_gaps';
    row_count := n;
    RETURN NEXT;
    UPDATE @extschema@.import_ledger SET gateway = new_name WHERE gateway = old_name;
    GET DIAGNOSTICS n = ROW_COUNT;
    changed := 'import_ledger';
    row_count := n;
    RETURN NEXT;
    -- Where both name a holder, the new one's is kept.
    WITH gone AS (DELETE FROM @extschema@.traffic_names WHERE gateway = old_name RETURNING *)
    INSERT INTO @extschema@.traffic_names (gateway, network, name, source, valid, first_seen)
    SELECT new_name, network, name, source, piece, first_seen FROM gone, LATERAL unnest(multirange(gone.valid) - coalesce((
        SELECT range_agg(valid) FROM @extschema@.traffic_names AS kept
        WHERE kept.gateway = new_name AND kept.network = gone.network AND kept.valid && gone.valid), '{}')) AS piece;
    GET DIAGNOSTICS n = ROW_COUNT;
    changed := 'traffic_names';
    row_count := n;
    RETURN NEXT;
END $$;
REVOKE ALL ON FUNCTION traffic_rename_gateway FROM PUBLIC;
COMMENT ON FUNCTION traffic_rename_gateway IS
    'Gives all records of a gateway to another name, in one transaction. Returns what it changed.';
