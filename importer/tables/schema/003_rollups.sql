-- Version 3: vpn_traffic in partitions by time, and rollups of it: sums at coarser steps and for fewer columns, kept in
-- the same transaction as the rows that they sum.
--
-- Everything is driven by two small tables: traffic_rollups says which rollups there are, traffic_partitions which
-- partitions. The functions that write are SECURITY DEFINER, so that an importer needs no right but to insert rows and
-- to call them. The importer knows the rollups' names, columns and steps (importer/rollup.cc): both change together.

-- What the functions below search, for good. Temporary tables last: an importer could put its own before ours, and the
-- functions would do with the owner's rights what those say.
SELECT set_config('search_path', format('%I, pg_temp', current_schema()), true);

-- Days are days of UTC, whatever the server's time zone: also when clocks change.
SELECT set_config('timezone', 'UTC', true);

-- An importer of an older version may still be at work. Its files come before what follows, or not at all: it does not
-- know of rollups, so its rows would be in none. It fails for want of this column, and says then that there is a newer schema.
LOCK TABLE import_ledger IN SHARE ROW EXCLUSIVE MODE;
ALTER TABLE import_ledger ADD COLUMN rolled_up boolean NOT NULL DEFAULT true;
ALTER TABLE import_ledger ALTER COLUMN rolled_up DROP DEFAULT;
COMMENT ON COLUMN import_ledger.rolled_up IS 'Its rows are in the rollups, too: always true.';

CREATE TABLE traffic_rollups (
    name text PRIMARY KEY,
    grouping_columns text[] NOT NULL,
    step interval NOT NULL,
    tier text NOT NULL,
    partition_width interval NOT NULL,
    range_max interval NOT NULL
);

-- What retention has dropped: nothing is complete before kept_from.
CREATE TABLE traffic_tiers (
    tier text PRIMARY KEY,
    kept_from timestamptz NOT NULL DEFAULT '-infinity'
);
INSERT INTO traffic_tiers VALUES ('rows'), ('fine'), ('10m'), ('1h');

CREATE TABLE traffic_partitions (
    name text PRIMARY KEY,
    parent text NOT NULL,
    lower timestamptz NOT NULL,
    upper timestamptz NOT NULL,
    CHECK (lower < upper)
);
CREATE INDEX traffic_partitions_parent ON traffic_partitions (parent, upper, lower);

-- A step of 1 us stands for the interval as it was measured. How long a range a rollup is asked for (range_max) keeps a
-- query below about 200,000 of its rows where there are 100 origins and 100 destinations.
INSERT INTO traffic_rollups (name, grouping_columns, step, tier, partition_width, range_max) VALUES
    -- Few rows, and the number of intervals within a step is counted from it: kept as long as the coarsest.
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

-- What is there becomes one partition as it is, no row is copied. Views and rights would stay with it, so they are made
-- anew; of what else hangs on it nobody here knows whether that may be done twice.
DO $$
DECLARE
    facts constant regclass := 'vpn_traffic';
    views text[];
    others text;
    statement text;
BEGIN
    SELECT array_agg(DISTINCT format('CREATE OR REPLACE VIEW %s%s AS %s', view.oid::regclass,
                                     ' WITH (' || array_to_string(view.reloptions, ', ') || ')',
                                     pg_get_viewdef(view.oid)))
               FILTER (WHERE view.relkind = 'v' AND rule.rulename = '_RETURN'),
           string_agg(DISTINCT pg_describe_object(classid, objid, objsubid), ', ')
               FILTER (WHERE (view.relkind = 'v' AND rule.rulename = '_RETURN') IS NOT TRUE)
    INTO views, others
    FROM pg_depend LEFT JOIN pg_rewrite AS rule ON classid = 'pg_rewrite'::regclass AND rule.oid = objid
    LEFT JOIN pg_class AS view ON view.oid = rule.ev_class
    WHERE refclassid = 'pg_class'::regclass AND refobjid = facts
      AND classid IN ('pg_rewrite'::regclass, 'pg_trigger'::regclass, 'pg_policy'::regclass, 'pg_proc'::regclass,
                      'pg_publication_rel'::regclass);
    IF (SELECT relrowsecurity OR relforcerowsecurity FROM pg_class WHERE oid = facts) THEN
        others := concat_ws(', ', others, 'row level security');
    END IF;
    IF others IS NOT NULL THEN
        RAISE EXCEPTION
            'vpn_traffic gets partitions; drop what would see its old rows only, and make it anew afterwards: %', others
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    ALTER TABLE vpn_traffic RENAME TO vpn_traffic_unpartitioned;
    ALTER INDEX vpn_traffic_time RENAME TO vpn_traffic_unpartitioned_time;
    CREATE TABLE vpn_traffic (LIKE vpn_traffic_unpartitioned INCLUDING DEFAULTS INCLUDING COMMENTS)
        PARTITION BY RANGE (time);
    CREATE INDEX vpn_traffic_time ON vpn_traffic USING brin (time);
    -- Those that it had, not what default privileges add.
    FOR statement IN
        SELECT format('REVOKE ALL ON vpn_traffic FROM %s',
                      CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END)
        FROM pg_class, aclexplode(relacl) WHERE oid = to_regclass('vpn_traffic') AND grantee <> relowner
    LOOP
        EXECUTE statement;
    END LOOP;
    FOR statement IN
        SELECT format('GRANT %s %s ON vpn_traffic TO %s%s', privilege_type, columns,
                      CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END,
                      CASE WHEN is_grantable THEN ' WITH GRANT OPTION' END)
        FROM (SELECT coalesce(relacl, acldefault('r', relowner)) AS acl, '' AS columns FROM pg_class WHERE oid = facts
              UNION ALL
              SELECT attacl, format('(%I)', attname) FROM pg_attribute WHERE attrelid = facts) AS held,
             aclexplode(acl)
    LOOP
        EXECUTE statement;
    END LOOP;
    FOREACH statement IN ARRAY coalesce(views, '{}') LOOP
        EXECUTE statement;
    END LOOP;
END $$;
COMMENT ON TABLE vpn_traffic IS
    'What moved between two masked peers within one interval. How far a point is to be believed: traffic_intervals. '
    'Sums of it: traffic().';

-- No table of ours has a default partition: making another one would have to lock and search it.
DO $$
DECLARE
    rollup traffic_rollups;
    key text;
BEGIN
    FOR rollup IN SELECT * FROM traffic_rollups LOOP
        -- The gateway last: a dashboard seldom asks for one, and the index then finds an origin or a pair by itself.
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

-- Makes the partitions that hold these moments, of vpn_traffic and of all rollups, where they are missing. Attaching
-- takes no lock that a reader or another importer's COPY would wait for.
CREATE FUNCTION traffic_make_partitions(moments timestamptz[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET timezone = 'UTC' AS $$
DECLARE
    missing record;
    name_made text;
BEGIN
    -- Two importers must not make the same partition. Ours alone: the schema's lock (importer/database.cc) and one.
    PERFORM pg_advisory_xact_lock(109351501259637);
    FOR missing IN
        SELECT DISTINCT parent, width, fillfactor, date_bin(width, step_end, 'epoch') AS lower
        FROM (SELECT 'vpn_traffic' AS parent, interval '1 day' AS width, interval '1 us' AS step, 100 AS fillfactor
              UNION ALL
              -- Steps grow with each interval: with room for that within the page, an update leaves the index alone.
              SELECT 'traffic_' || name, partition_width, step, CASE WHEN step > '1 ms' THEN 50 ELSE 100 END
              FROM traffic_rollups) AS parents
        CROSS JOIN unnest(moments) AS moment
        CROSS JOIN date_bin(step, moment - interval '1 us', 'epoch') AS step_start
        CROSS JOIN LATERAL (SELECT step_start + step AS step_end) AS steps
        WHERE NOT EXISTS (SELECT FROM traffic_partitions AS partition
                          WHERE partition.parent = parents.parent AND partition.lower <= step_end
                            AND step_end < partition.upper)
        ORDER BY parent, lower
    LOOP
        name_made := format('%s_%s', missing.parent, to_char(missing.lower AT TIME ZONE 'UTC', 'YYYYMMDD'));
        -- Vacuum also summarizes new pages for BRIN: what it has not seen yet is read by every query of the day.
        EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL) WITH (fillfactor = %s, '
                       'autovacuum_vacuum_insert_scale_factor = 0.02)', name_made, missing.parent, missing.fillfactor);
        EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                       missing.parent, name_made, missing.lower, missing.lower + missing.width);
        INSERT INTO traffic_partitions VALUES (name_made, missing.parent, missing.lower, missing.lower + missing.width);
    END LOOP;
END $$;

-- Adds sums to a rollup. One element of every array for each key; those that are not the rollup's columns are ignored.
-- Sorted by key, or two importers may deadlock.
CREATE FUNCTION traffic_add(
    rollup_name text, times timestamptz[], gateways text[], srcs inet[], dsts inet[], protos text[], ports integer[],
    src_packets bigint[], src_bytes bigint[], dst_packets bigint[], dst_bytes bigint[], connection_times bigint[],
    connection_count bigint[], open_connections bigint[], row_count bigint[])
RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
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
    FROM traffic_rollups WHERE name = rollup_name;
    EXECUTE format(
        'INSERT INTO %1$I AS held (%2$s, %3$s) SELECT %2$s, %3$s '
        'FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) '
        'AS new (time, gateway, src, dst, proto, port, %3$s) ON CONFLICT (%2$s) DO UPDATE SET %4$s',
        'traffic_' || rollup_name, key, counters,
        (SELECT string_agg(format('%1$s = held.%1$s + excluded.%1$s', name), ', ')
         FROM regexp_split_to_table(counters, ', ') AS name))
    USING times, gateways, srcs, dsts, protos, ports, src_packets, src_bytes, dst_packets, dst_bytes, connection_times,
          connection_count, open_connections, row_count;
    GET DIAGNOSTICS added = ROW_COUNT;
    RETURN added;
END $$;

-- Adds all rows of a table or view that has vpn_traffic's columns to the rollups: for rows that no importer has loaded.
-- None of those have been held to what the importer takes (a counter of at most 2^50), so sums may not fit.
CREATE FUNCTION traffic_roll_up(source regclass) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT SET work_mem = '256MB' AS $$
DECLARE
    rollup traffic_rollups;
    key text;
    counters constant text[] := '{src_packets,src_bytes,dst_packets,dst_bytes,connection_times,connection_count,'
                                'open_connections}';
    sums text;
    additions text;
    -- Times are the ends of steps.
    step_end constant text := 'date_bin(%1$L, time - interval ''1 us'', ''epoch'') + %1$L::interval';
BEGIN
    SELECT string_agg(format('sum(%1$I) AS %1$I', name), ', '),
           string_agg(format('%1$I = held.%1$I + excluded.%1$I', name), ', ')
    INTO sums, additions FROM unnest(counters) AS name;
    additions := additions || ', row_count = held.row_count + excluded.row_count';
    -- What most rollups can be made of.
    EXECUTE format('CREATE TEMPORARY TABLE traffic_ten_minutes ON COMMIT DROP AS SELECT %s AS time, gateway, src, dst, '
                   'proto, port, %s, count(*) AS row_count FROM %s GROUP BY 1, 2, 3, 4, 5, 6',
                   format(step_end, interval '10 min'), sums, source);
    FOR rollup IN SELECT * FROM traffic_rollups ORDER BY name LOOP
        key := array_to_string('{gateway}'::text[] || rollup.grouping_columns, ', ');
        EXECUTE format(
            'INSERT INTO %1$I AS held (time, %2$s, %3$s, row_count) SELECT %4$s, %2$s, %5$s, %6$s FROM %7$s '
            'GROUP BY 1, %2$s ON CONFLICT (time, %2$s) DO UPDATE SET %8$s',
            'traffic_' || rollup.name, key, array_to_string(counters, ', '), format(step_end, rollup.step), sums,
            CASE WHEN rollup.step >= '10 min' THEN 'sum(row_count)' ELSE 'count(*)' END,
            CASE WHEN rollup.step >= '10 min' THEN 'pg_temp.traffic_ten_minutes' ELSE source::text END, additions);
    END LOOP;
    DROP TABLE pg_temp.traffic_ten_minutes;
EXCEPTION WHEN numeric_value_out_of_range THEN
    RAISE EXCEPTION 'sums of its rows do not fit into bigint; mend the rows with absurd counters first: WHERE '
        'greatest(src_packets, src_bytes, dst_packets, dst_bytes, connection_times) > 1125899906842624'
        USING ERRCODE = 'object_not_in_prerequisite_state';
END $$;

-- Takes over the rows of another table with the columns of the reference's vpn_traffic, whatever their types, in the
-- name of a gateway: how many. Once: the ledger remembers the table's name, and a second time nothing is done (NULL).
CREATE FUNCTION traffic_adopt(source regclass, gateway_name text) RETURNS bigint
LANGUAGE plpgsql SET search_path FROM CURRENT SET timezone = 'UTC' AS $$
DECLARE
    adopted bigint;
    source_name constant text := (SELECT format('%I.%I', relnamespace::regnamespace, relname) FROM pg_class
                                  WHERE oid = source);
BEGIN
    INSERT INTO import_ledger (engine, sequence, checksum, row_count, gateway, source_file, rolled_up)
    VALUES (md5('table ' || source_name)::uuid, 0, 0, 0, gateway_name, 'table ' || source_name, true) ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN RETURN NULL; END IF;
    -- Read more than once below, and each time the same.
    IF (SELECT relkind FROM pg_class WHERE oid = source) IN ('r', 'p') THEN
        EXECUTE format('LOCK TABLE %s IN SHARE MODE', source);
    END IF;
    EXECUTE format(
        'CREATE TEMPORARY VIEW traffic_adopted AS SELECT time::timestamptz AS time, src_packets::bigint, '
        'src_bytes::bigint, dst_packets::bigint, dst_bytes::bigint, coalesce(connection_times, 0)::bigint AS '
        'connection_times, coalesce(connection_count, 0)::integer AS connection_count, coalesce(open_connections, 0)'
        '::integer AS open_connections, port::integer, src::inet, dst::inet, proto::text, %L::text AS gateway FROM %s',
        gateway_name, source);
    PERFORM traffic_make_partitions(
        (SELECT array_agg(day) || array_agg(day + interval '1 day' - interval '1 us')
         FROM (SELECT DISTINCT date_bin('1 day', time, 'epoch') AS day FROM pg_temp.traffic_adopted) AS days));
    INSERT INTO vpn_traffic (time, src_packets, src_bytes, dst_packets, dst_bytes, connection_times, connection_count,
                             open_connections, port, src, dst, proto, gateway)
    SELECT * FROM pg_temp.traffic_adopted;
    GET DIAGNOSTICS adopted = ROW_COUNT;
    PERFORM traffic_roll_up('pg_temp.traffic_adopted');
    DROP VIEW traffic_adopted;  -- Not of pg_temp by name: Citus would not find that.
    UPDATE import_ledger SET row_count = adopted
    WHERE engine = md5('table ' || source_name)::uuid AND sequence = 0;
    RETURN adopted;
END $$;

-- What differs between the rows of a range and the rollups of it; nothing, if all is well. The range is widened to whole
-- steps. Reads all of the range.
CREATE FUNCTION traffic_check(range_from timestamptz, range_to timestamptz)
RETURNS TABLE (rollup text, "time" timestamptz, gateway text, in_rows bigint, in_rollup bigint, sums_differ boolean)
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
DECLARE
    each traffic_rollups;
    key text;
    counters constant text := 'sum(src_packets), sum(src_bytes), sum(dst_packets), sum(dst_bytes), '
        'sum(connection_times), sum(connection_count), sum(open_connections)';
    lower timestamptz;
    upper timestamptz;
    rows_from timestamptz;
    kept timestamptz;
BEGIN
    SELECT kept_from INTO rows_from FROM traffic_tiers WHERE tier = 'rows';
    FOR each IN SELECT * FROM traffic_rollups ORDER BY name LOOP
        key := array_to_string('{time,gateway}'::text[] || each.grouping_columns, ', ');
        lower := date_bin(each.step, range_from, 'epoch');
        upper := date_bin(each.step, range_to - interval '1 us', 'epoch') + each.step;
        -- Of what retention has dropped there is nothing to compare.
        kept := greatest(rows_from, (SELECT kept_from FROM traffic_tiers WHERE tier = each.tier));
        IF lower < kept THEN
            lower := date_bin(each.step, kept - interval '1 us', 'epoch') + each.step;
        END IF;
        RETURN QUERY EXECUTE format(
            'WITH facts AS (SELECT %1$s, count(*) AS n, ARRAY[%2$s] AS sums FROM (SELECT '
            '  date_bin(%3$L, time - interval ''1 us'', ''epoch'') + %3$L::interval AS time, gateway, src, dst, proto, '
            '  port, src_packets, src_bytes, dst_packets, dst_bytes, connection_times, connection_count, '
            '  open_connections FROM vpn_traffic WHERE time > $1 AND time <= $2) AS stepped GROUP BY %1$s), '
            'held AS (SELECT %1$s, sum(row_count)::bigint AS n, ARRAY[%2$s] AS sums FROM %4$I '
            '  WHERE time > $1 AND time <= $2 GROUP BY %1$s) '
            'SELECT %5$L::text, time, gateway, sum(coalesce(facts.n, 0))::bigint, sum(coalesce(held.n, 0))::bigint, '
            '  bool_or(facts.sums IS DISTINCT FROM held.sums) FROM facts FULL JOIN held USING (%1$s) '
            'WHERE facts.n IS DISTINCT FROM held.n OR facts.sums IS DISTINCT FROM held.sums '
            'GROUP BY time, gateway ORDER BY time, gateway',
            key, counters, each.step, 'traffic_' || each.name, each.name)
        USING lower, upper;
    END LOOP;
END $$;

-- Drops the oldest partition of a tier ('rows' or one of traffic_rollups) that ends at or before a moment, and says
-- which: no row if there is none. Rows only if the rollups have them all: else `dropped` is false and they stay. That
-- reads the whole partition, and the importer's files wait meanwhile. Waits two seconds for its lock, so that a long
-- query of a dashboard holds up neither it nor, behind it, anybody else.
CREATE FUNCTION traffic_drop_partition(tier_dropped text, before timestamptz, after text DEFAULT '')
RETURNS TABLE (partition text, dropped boolean)
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET lock_timeout = '2s' AS $$
DECLARE
    oldest traffic_partitions;
    differs boolean := false;
BEGIN
    IF tier_dropped NOT IN ('rows', 'fine', '10m', '1h') THEN
        RAISE EXCEPTION 'no such tier: %', tier_dropped USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT candidate.* INTO oldest FROM traffic_partitions AS candidate
    LEFT JOIN traffic_rollups AS rollup ON candidate.parent = 'traffic_' || rollup.name
    WHERE coalesce(rollup.tier, 'rows') = tier_dropped AND candidate.upper <= before AND candidate.name > after
    ORDER BY candidate.name LIMIT 1;
    IF NOT FOUND THEN RETURN; END IF;
    partition := oldest.name;
    IF tier_dropped = 'rows' THEN
        -- The rollups may have more: rows dropped before, when late ones have made their partition anew.
        EXECUTE format(
            'SELECT EXISTS (SELECT FROM (SELECT time, gateway, count(*) AS row_count, sum(src_packets) AS src_packets, '
            '  sum(src_bytes) AS src_bytes, sum(dst_packets) AS dst_packets, sum(dst_bytes) AS dst_bytes, '
            '  sum(connection_times) AS connection_times, sum(connection_count) AS connection_count FROM %I '
            '  GROUP BY time, gateway) AS facts '
            'LEFT JOIN traffic_total AS held USING (time, gateway) '
            'WHERE (held.row_count >= facts.row_count AND held.src_packets >= facts.src_packets AND held.src_bytes >= '
            '  facts.src_bytes AND held.dst_packets >= facts.dst_packets AND held.dst_bytes >= facts.dst_bytes AND '
            '  held.connection_times >= facts.connection_times AND held.connection_count >= facts.connection_count) '
            '  IS NOT TRUE)', oldest.name)
        INTO differs;
    END IF;
    dropped := NOT differs;
    IF dropped THEN
        EXECUTE format('DROP TABLE %I', oldest.name);
        DELETE FROM traffic_partitions WHERE name = oldest.name;
        UPDATE traffic_tiers SET kept_from = greatest(kept_from, oldest.upper) WHERE tier = tier_dropped;
    END IF;
    RETURN NEXT;
END $$;

-- Which rollup answers: the one with the fewest columns more than needed, and of those the coarsest that is fine enough,
-- else the finest. Not one that is too large for the range, and not one whose beginning retention has dropped, if there
-- is another.
CREATE FUNCTION traffic_source(
    range_from timestamptz, range_to timestamptz, wanted interval, columns_needed text[])
RETURNS traffic_rollups
LANGUAGE sql STABLE SET search_path FROM CURRENT AS $$
    SELECT rollup FROM traffic_rollups AS rollup JOIN traffic_tiers USING (tier)
    WHERE grouping_columns @> columns_needed AND range_max >= range_to - range_from
    ORDER BY kept_from > range_from AND rollup.tier <> '1h', cardinality(grouping_columns), step > wanted,
             CASE WHEN step > wanted THEN step ELSE -step END
    LIMIT 1
$$;

-- How traffic() and traffic_open_connections() ask their rollup.
CREATE TYPE traffic_plan AS (
    lower timestamptz, upper timestamptz, width interval, point text, source text, grouped text, output text);

CREATE FUNCTION traffic_make_plan(
    range_from timestamptz, range_to timestamptz, step interval, by_columns text[], gateways text[], srcs inet[],
    dsts inet[], protos text[], ports integer[])
RETURNS traffic_plan
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT SET timezone = 'UTC' AS $$
DECLARE
    plan traffic_plan;
    rollup traffic_rollups;
    rollup_step interval;
    coarse traffic_rollups;
    coarse_lower timestamptz;
    coarse_upper timestamptz;
BEGIN
    IF step <= interval '0' THEN
        RAISE EXCEPTION 'step must be positive' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF NOT by_columns <@ '{gateway,src,dst,proto,port}'::text[] THEN
        RAISE EXCEPTION 'by_columns must be of gateway, src, dst, proto, port'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    rollup := traffic_source(
        range_from, range_to, coalesce(step, (range_to - range_from) / 48),
        array_remove(by_columns, 'gateway') ||
        CASE WHEN srcs IS NOT NULL THEN '{src}'::text[] ELSE '{}' END ||
        CASE WHEN dsts IS NOT NULL THEN '{dst}'::text[] ELSE '{}' END ||
        CASE WHEN protos IS NOT NULL THEN '{proto}'::text[] ELSE '{}' END ||
        CASE WHEN ports IS NOT NULL THEN '{port}'::text[] ELSE '{}' END);

    -- Points are whole steps of the rollup: of the interval as it was measured, where it has no other.
    rollup_step := rollup.step;
    IF rollup_step < interval '1 ms' THEN
        -- Gateways may differ: what the longest tells is not to be taken for a rate of the shortest.
        SELECT max(interval_length) INTO rollup_step
        FROM (SELECT interval_length FROM import_ledger WHERE interval_end > range_from AND interval_end <= range_to
              ORDER BY interval_end DESC LIMIT 200) AS latest;
        rollup_step := coalesce(nullif(rollup_step, interval '0'), interval '15 s');
    END IF;
    plan.width := make_interval(secs => extract(epoch FROM rollup_step)::double precision *
        ceil(extract(epoch FROM coalesce(step, rollup_step)) / extract(epoch FROM rollup_step))::double precision);
    plan.lower := date_bin(plan.width, range_from, 'epoch');
    plan.upper := date_bin(plan.width, range_to - interval '1 us', 'epoch') + plan.width;
    -- A point that begins before is shorter than others.
    plan.lower := greatest(plan.lower, (SELECT kept_from FROM traffic_tiers WHERE tier = rollup.tier));
    IF step IS NULL THEN
        plan.width := plan.upper - plan.lower;
        plan.point := '$2';
    ELSE
        -- A time is the end of what it stands for.
        plan.point := format('date_bin(%1$L, time - interval ''1 us'', ''epoch'') + %1$L::interval', plan.width);
    END IF;

    -- One sum over all of the range: fine steps only before the first and after the last coarse one.
    IF step IS NULL THEN
        SELECT candidate.* INTO coarse FROM traffic_rollups AS candidate JOIN traffic_tiers USING (tier)
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
        string_agg(format('SELECT * FROM %I WHERE %s', 'traffic_' || name,
            CASE WHEN part_step > interval '1 ms' AND part_upper - part_lower <= 1000 * part_step
                      AND (srcs IS NOT NULL AND rollup.grouping_columns[1] = 'src' OR
                           dsts IS NOT NULL AND rollup.grouping_columns[1] = 'dst')
                 -- Step by step the index leads to them; a range would be all that is within.
                 THEN format('time = ANY (%L::timestamptz[])',
                             ARRAY(SELECT generate_series(part_lower + part_step, part_upper, part_step)))
                 ELSE format('time > %L AND time <= %L', part_lower, part_upper) END), ' UNION ALL '),
        CASE WHEN gateways IS NOT NULL THEN ' AND gateway = ANY ($3)' END,
        CASE WHEN srcs IS NOT NULL THEN ' AND src = ANY ($4)' END,
        CASE WHEN dsts IS NOT NULL THEN ' AND dst = ANY ($5)' END,
        CASE WHEN protos IS NOT NULL THEN ' AND proto = ANY ($6)' END,
        CASE WHEN ports IS NOT NULL THEN ' AND port = ANY ($7)' END)
    INTO plan.source
    FROM (VALUES (1, rollup.name, rollup.step, plan.lower, coarse_lower),
                 (2, coarse.name, coarse.step, coarse_lower, coarse_upper),
                 (3, rollup.name, rollup.step, coarse_upper, plan.upper))
         AS part (number, name, part_step, part_lower, part_upper)
    WHERE part_lower < part_upper OR number = 1;
    SELECT string_agg(CASE WHEN name = ANY (by_columns) THEN ', ' || name ELSE ', NULL::' || kind END, '' ORDER BY number),
           coalesce(string_agg(', ' || name, '' ORDER BY number) FILTER (WHERE name = ANY (by_columns)), '')
    INTO plan.output, plan.grouped
    FROM (VALUES (1, 'gateway', 'text'), (2, 'src', 'inet'), (3, 'dst', 'inet'), (4, 'proto', 'text'),
                 (5, 'port', 'integer')) AS columns (number, name, kind);
    RETURN plan;
END $$;

-- The one question of a dashboard. Sums between two moments, in points of `step` (NULL: one for the whole range), for
-- each combination of the columns in by_columns (of gateway, src, dst, proto, port), of what passes the filters (NULL:
-- everything). Answers from a rollup, so points may be wider than was asked for, and the range is widened to whole
-- points: `time` is a point's end, `seconds` its length, as far as there is data yet and retention has left it. Columns
-- that by_columns does not name are NULL. Sums are exact up to 2^53, as far as JSON goes. Compiling such a query would take
-- longer than to run it; the memory keeps it from sorting on disk; and a step's rows lie together, so its index is worth
-- to be followed.
CREATE FUNCTION traffic(
    range_from timestamptz, range_to timestamptz, step interval DEFAULT NULL, by_columns text[] DEFAULT '{}',
    gateways text[] DEFAULT NULL, srcs inet[] DEFAULT NULL, dsts inet[] DEFAULT NULL, protos text[] DEFAULT NULL,
    ports integer[] DEFAULT NULL)
RETURNS TABLE ("time" timestamptz, gateway text, src inet, dst inet, proto text, port integer,
               src_packets double precision, src_bytes double precision, dst_packets double precision,
               dst_bytes double precision, connection_times double precision, connection_count double precision,
               seconds double precision)
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT SET timezone = 'UTC' SET jit = off SET work_mem = '64MB'
SET random_page_cost = 1.1 AS $$
DECLARE
    plan traffic_plan;
    newest timestamptz;
BEGIN
    IF (range_from < range_to) IS NOT TRUE THEN RETURN; END IF;
    plan := traffic_make_plan(range_from, range_to, step, by_columns, gateways, srcs, dsts, protos, ports);
    SELECT max(total.time) INTO newest FROM traffic_total AS total
    WHERE total.time > plan.lower AND total.time <= plan.upper;
    RETURN QUERY EXECUTE format(
        'SELECT %1$s%2$s, sum(src_packets::float8), sum(src_bytes::float8), sum(dst_packets::float8), '
        '  sum(dst_bytes::float8), sum(connection_times::float8), sum(connection_count::float8), '
        '  date_part(''epoch'', least(%1$s, $8) - greatest(%1$s - $9, $1)) '
        'FROM %3$s GROUP BY %4$s',
        plan.point, plan.output, plan.source,
        CASE WHEN step IS NOT NULL THEN plan.point || plan.grouped
             -- Without the one point: a constant among the keys would be hashed with each row.
             ELSE coalesce(nullif(substr(plan.grouped, 3), ''), '1') END)
    USING plan.lower, plan.upper, gateways, srcs, dsts, protos, ports, newest, plan.width;
END $$;

-- The same for connections that are open: a level, not a sum over time. The average over a point's intervals; of each
-- gateway by itself, since each has its own intervals.
CREATE FUNCTION traffic_open_connections(
    range_from timestamptz, range_to timestamptz, step interval DEFAULT NULL, by_columns text[] DEFAULT '{}',
    gateways text[] DEFAULT NULL, srcs inet[] DEFAULT NULL, dsts inet[] DEFAULT NULL, protos text[] DEFAULT NULL,
    ports integer[] DEFAULT NULL)
RETURNS TABLE ("time" timestamptz, gateway text, src inet, dst inet, proto text, port integer,
               open_connections double precision)
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT SET timezone = 'UTC' SET jit = off SET work_mem = '64MB'
SET random_page_cost = 1.1 AS $$
DECLARE
    plan traffic_plan;
BEGIN
    IF (range_from < range_to) IS NOT TRUE THEN RETURN; END IF;
    plan := traffic_make_plan(range_from, range_to, step, by_columns, gateways, srcs, dsts, protos, ports);
    RETURN QUERY EXECUTE format(
        'SELECT point%1$s, sum(open / intervals) FROM '
        '(SELECT %2$s AS point, gateway%3$s, sum(open_connections::float8) AS open '
        '  FROM %4$s GROUP BY 1, gateway%3$s) AS sums '
        'JOIN (SELECT %2$s AS point, gateway, count(*) AS intervals FROM traffic_total '
        '  WHERE time > $1 AND time <= $2 GROUP BY 1, 2) AS intervals USING (point, gateway) GROUP BY point%5$s',
        plan.output, plan.point, replace(plan.grouped, ', gateway', ''), plan.source, plan.grouped)
    USING plan.lower, plan.upper, gateways, srcs, dsts, protos, ports;
END $$;

REVOKE ALL ON FUNCTION traffic_make_partitions, traffic_add, traffic_drop_partition, traffic_roll_up, traffic_adopt
FROM PUBLIC;

DO $$
DECLARE
    last timestamptz;
    upper timestamptz;
    rollup traffic_rollups;
    rollup_upper timestamptz;
BEGIN
    SELECT max(time), date_bin('1 day', least(max(time), now()), 'epoch') + interval '1 day' INTO last, upper
    FROM vpn_traffic_unpartitioned;
    IF last IS NULL THEN
        DROP TABLE vpn_traffic_unpartitioned;
        RETURN;
    END IF;
    IF last = 'infinity' THEN
        RAISE EXCEPTION 'mend the rows that have no end of an interval first: WHERE time = ''infinity'''
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    -- Rows of a clock that was wrong, in years to come: all that arrives until then would have to go where they are.
    CREATE TEMPORARY TABLE traffic_ahead (LIKE vpn_traffic) ON COMMIT DROP;
    IF last >= upper THEN
        WITH ahead AS (DELETE FROM vpn_traffic_unpartitioned WHERE time >= upper RETURNING *)
        INSERT INTO pg_temp.traffic_ahead SELECT * FROM ahead;
    END IF;
    ALTER TABLE vpn_traffic_unpartitioned ALTER COLUMN gateway DROP DEFAULT;
    EXECUTE format('ALTER TABLE vpn_traffic ATTACH PARTITION vpn_traffic_unpartitioned FOR VALUES FROM (MINVALUE) TO (%L)',
                   upper);
    INSERT INTO traffic_partitions VALUES ('vpn_traffic_unpartitioned', 'vpn_traffic', '-infinity', upper);
    -- Likewise the rollups: one partition each for all that is old, however many days. A server has room for the locks of
    -- some thousand tables in one transaction.
    FOR rollup IN SELECT * FROM traffic_rollups LOOP
        rollup_upper := date_bin(rollup.partition_width, upper, 'epoch') + rollup.partition_width;
        EXECUTE format('CREATE TABLE %1$I PARTITION OF %2$I FOR VALUES FROM (MINVALUE) TO (%3$L)',
                       'traffic_' || rollup.name || '_before', 'traffic_' || rollup.name, rollup_upper);
        INSERT INTO traffic_partitions
        VALUES ('traffic_' || rollup.name || '_before', 'traffic_' || rollup.name, '-infinity', rollup_upper);
    END LOOP;
    PERFORM traffic_make_partitions(
        (SELECT array_agg(day) || array_agg(day + interval '1 day' - interval '1 us')
         FROM (SELECT DISTINCT date_bin('1 day', time, 'epoch') AS day FROM pg_temp.traffic_ahead) AS days));
    INSERT INTO vpn_traffic SELECT * FROM pg_temp.traffic_ahead;
    PERFORM traffic_roll_up('vpn_traffic');
END $$;

COMMENT ON TABLE traffic_rollups IS
    'The rollups of vpn_traffic: table traffic_<name> each. Read them through traffic() and traffic_open_connections().';
COMMENT ON COLUMN traffic_rollups.step IS 'Width of its points; 1 us: the interval as it was measured.';
COMMENT ON COLUMN traffic_rollups.tier IS 'With which others retention drops it.';
COMMENT ON COLUMN traffic_rollups.range_max IS
    'The longest range that traffic() asks it for; yours to change if your tables are smaller or larger.';
COMMENT ON TABLE traffic_tiers IS 'What retention has dropped: nothing is complete before kept_from.';
COMMENT ON TABLE traffic_partitions IS 'The partitions that traffic_make_partitions() has made: lower <= time < upper.';
COMMENT ON FUNCTION traffic IS
    'Sums of a range in points of `step`, by some of gateway, src, dst, proto, port, filtered by them. For dashboards.';
COMMENT ON FUNCTION traffic_open_connections IS 'As traffic(): connections open, on average over a point''s intervals.';
COMMENT ON FUNCTION traffic_check IS 'Where rollups differ from rows; no row if they are equal.';
