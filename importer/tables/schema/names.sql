-- Names: who held which network of a gateway, and when.

-- Equal gateways are ranges that overlap: so the exclusion constraint below needs no extension.
CREATE TYPE traffic_gateway_range AS RANGE (subtype = text, collation = "C");

CREATE TABLE traffic_names (
    gateway text NOT NULL,
    network cidr NOT NULL,
    name text NOT NULL,
    source text NOT NULL CHECK (source IN ('file', 'wireguard', 'openvpn')),
    valid tstzrange NOT NULL CHECK (NOT isempty(valid)),
    first_seen timestamptz NOT NULL,
    CONSTRAINT traffic_names_one_holder EXCLUDE USING gist (
        network inet_ops WITH =, traffic_gateway_range(gateway, gateway, '[]') WITH &&, valid WITH &&)
);
COMMENT ON TABLE traffic_names IS
    'Who held a network of a gateway, and when: one name at a time. Networks may be nested; the longest that contains an '
    'address names it: traffic_name(). Written by the importer from names files.';
COMMENT ON COLUMN traffic_names.source IS 'Where `names` learned it: file, wireguard or openvpn.';
COMMENT ON COLUMN traffic_names.valid IS 'Traffic of an interval belongs to the name that was valid at the interval''s end.';
COMMENT ON COLUMN traffic_names.first_seen IS 'Time of the first snapshot that contained it.';

-- When names change within a range.
CREATE INDEX traffic_names_begin ON traffic_names (lower(valid));
CREATE INDEX traffic_names_end ON traffic_names (upper(valid));
-- The networks of a name.
CREATE INDEX traffic_names_name ON traffic_names (name);

-- The entries of a names file on their way. Empty but for transactions that run: traffic_load_names() takes them out.
CREATE UNLOGGED TABLE traffic_names_arriving (
    writer uuid NOT NULL,
    sequence bigint NOT NULL,
    network cidr NOT NULL,
    name text NOT NULL,
    source text NOT NULL,
    began timestamptz,
    ended timestamptz
);
COMMENT ON TABLE traffic_names_arriving IS 'Entries of names files that are being loaded.';

-- Loads the snapshot whose ledger row and entries the caller has written in this transaction. The holders at any time
-- are those of the newest snapshot at or before it. So a snapshot decides from its time until the time of the next newer
-- one that has been loaded; an entry with a beginning of its own also decides from there on, and one that has ended ends
-- what older snapshots said of the same holder. Nothing is taken from what newer snapshots say. Returns the number of rows changed, and until when the snapshot decides (NULL: it is the newest).
CREATE FUNCTION traffic_load_names(writer_loaded uuid, sequence_loaded bigint, OUT changed bigint, OUT until timestamptz)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET datestyle = 'ISO'
SET intervalstyle = 'postgres' SET jit = off SET work_mem = '64MB' SET enable_nestloop = off AS $$
DECLARE
    its_gateway text;
    its_time timestamptz;
    earliest timestamptz;
    gone tid[];
    come @extschema@.traffic_names[];
BEGIN
    SELECT file.gateway, file.names_time INTO STRICT its_gateway, its_time FROM @extschema@.import_ledger AS file
    WHERE file.engine = writer_loaded AND file.sequence = sequence_loaded AND file.names_time IS NOT NULL;
    -- One file of a gateway at a time. The first number is "name" in ASCII.
    PERFORM pg_advisory_xact_lock(1851878757, hashtext(its_gateway));
    LOCK TABLE @extschema@.traffic_names IN ROW EXCLUSIVE MODE;
    SELECT min(file.names_time) INTO until FROM @extschema@.import_ledger AS file
    WHERE file.gateway = its_gateway AND file.names_time > its_time;
    SELECT least(min(began), its_time) INTO earliest FROM @extschema@.traffic_names_arriving
    WHERE writer = writer_loaded AND sequence = sequence_loaded;
    WITH new AS MATERIALIZED (
        SELECT network, name, source, tstzrange(coalesce(began, its_time), least(ended, until)) AS valid
        FROM @extschema@.traffic_names_arriving
        WHERE writer = writer_loaded AND sequence = sequence_loaded
          AND coalesce(began, its_time) < least(ended, until, 'infinity')
    ), old AS MATERIALIZED (
        -- With those that end where something new may begin.
        SELECT ctid AS place, network, name, source, valid, first_seen, first_seen >= until IS TRUE AS newer
        FROM @extschema@.traffic_names
        WHERE gateway = its_gateway AND valid && tstzrange(earliest - interval '1 us', until, '[]')
    ), ended AS (
        -- Older snapshots did not know that it would end.
        SELECT place, tstzrange(min(upper(new.valid)), its_time) AS rest FROM old JOIN new USING (network, name)
        WHERE upper(new.valid) <= its_time AND old.valid @> upper(new.valid) GROUP BY place
    ), pieces AS MATERIALIZED (
        -- What older snapshots said stays but for the time of this one. What they still say after it, the next one says.
        SELECT network, name, source, piece AS valid, CASE WHEN lower(piece) >= until THEN until ELSE first_seen END AS first_seen
        FROM old LEFT JOIN ended USING (place)
        LEFT JOIN (SELECT network, range_agg(valid) AS said FROM new GROUP BY network) AS this USING (network),
             unnest(multirange(valid) - multirange(tstzrange(its_time, until)) - multirange(coalesce(rest, 'empty')) -
                    coalesce(said, '{}')) AS piece
        WHERE NOT newer
        UNION ALL
        SELECT network, name, source, valid, first_seen FROM old WHERE newer
        UNION ALL
        SELECT network, name, source, piece, its_time
        FROM new LEFT JOIN (SELECT network, range_agg(valid) AS said FROM old WHERE newer GROUP BY network) AS others
             USING (network), unnest(multirange(valid) - coalesce(said, '{}')) AS piece
    ), wanted AS MATERIALIZED (
        SELECT network, name, source, merged.valid, min(first_seen) AS first_seen
        FROM (SELECT network, name, source, unnest(range_agg(valid)) AS valid FROM pieces GROUP BY network, name, source) AS merged
        JOIN (SELECT network, name, source, valid, first_seen FROM pieces
              UNION ALL SELECT network, name, source, valid, first_seen FROM old) AS parts USING (network, name, source)
        WHERE parts.valid && merged.valid
        GROUP BY network, name, source, merged.valid
    )
    SELECT (SELECT array_agg(place) FROM old LEFT JOIN wanted USING (network, name, source, valid, first_seen)
            WHERE wanted.network IS NULL),
           (SELECT array_agg(ROW(its_gateway, network, name, source, valid, first_seen)::@extschema@.traffic_names
                             ORDER BY network, valid)
            FROM wanted LEFT JOIN old USING (network, name, source, valid, first_seen) WHERE old.network IS NULL)
    INTO gone, come;
    DELETE FROM @extschema@.traffic_names WHERE ctid = ANY (gone);
    INSERT INTO @extschema@.traffic_names SELECT (each).* FROM unnest(come) AS each;
    DELETE FROM @extschema@.traffic_names_arriving WHERE writer = writer_loaded AND sequence = sequence_loaded;
    changed := (coalesce(cardinality(gone), 0) + coalesce(cardinality(come), 0))::bigint;
END $$;
REVOKE ALL ON FUNCTION traffic_load_names FROM PUBLIC;

-- NULL: nobody is known to have held it.
CREATE FUNCTION traffic_name(gateway_asked text, address inet, moment timestamptz) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET datestyle = 'ISO'
SET intervalstyle = 'postgres' AS $$
    SELECT name FROM @extschema@.traffic_names
    WHERE network >>= address AND valid @> moment AND gateway = gateway_asked
    ORDER BY masklen(network) DESC LIMIT 1
$$;
COMMENT ON FUNCTION traffic_name IS 'Who held an address of a gateway at a time: the name of the longest network that contains it.';

-- The number of leading ones of a group mask.
CREATE FUNCTION traffic_mask_length(mask inet) RETURNS integer
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET datestyle = 'ISO'
SET intervalstyle = 'postgres' AS $$
DECLARE
    length integer := masklen(mask);
BEGIN
    WHILE (mask & netmask(set_masklen(mask, length))) <> netmask(set_masklen(mask, length)) LOOP length := length - 1; END LOOP;
    RETURN length;
END $$;

-- The group masks of these gateways (NULL: of all), and for which times of rows. If an interval has files of several masks,
-- the shortest.
CREATE FUNCTION traffic_mask_periods(range_from timestamptz, range_to timestamptz, gateways text[])
RETURNS TABLE (gateway text, src_mask inet, dst_mask inet, src_mask6 inet, dst_mask6 inet, valid tstzrange)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET datestyle = 'ISO'
SET intervalstyle = 'postgres' SET enable_nestloop = on SET enable_seqscan = off SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
    several text[];
BEGIN
    IF gateways IS NULL THEN
        -- From one entry of the index to the next other one.
        gateways := ARRAY(
            WITH RECURSIVE each AS (
                SELECT min(gateway) AS name FROM @extschema@.import_ledger WHERE interval_end IS NOT NULL
                UNION ALL
                SELECT (SELECT min(gateway) FROM @extschema@.import_ledger WHERE interval_end IS NOT NULL AND gateway > each.name)
                FROM each WHERE name IS NOT NULL)
            SELECT name FROM each WHERE name IS NOT NULL);
    END IF;
    several := ARRAY(
        SELECT name FROM unnest(gateways) AS name
        CROSS JOIN LATERAL (SELECT src_mask, dst_mask, src_mask6, dst_mask6 FROM @extschema@.import_ledger
            WHERE interval_end IS NOT NULL AND gateway = name ORDER BY gateway, src_mask, dst_mask, src_mask6, dst_mask6 LIMIT 1) AS first
        CROSS JOIN LATERAL (SELECT src_mask, dst_mask, src_mask6, dst_mask6 FROM @extschema@.import_ledger
            WHERE interval_end IS NOT NULL AND gateway = name
            ORDER BY gateway DESC, src_mask DESC, dst_mask DESC, src_mask6 DESC, dst_mask6 DESC LIMIT 1) AS last
        WHERE first IS DISTINCT FROM last);
    RETURN QUERY
        SELECT name, first.*, tstzrange(NULL, NULL) FROM unnest(gateways) AS name
        CROSS JOIN LATERAL (SELECT src_mask, dst_mask, src_mask6, dst_mask6 FROM @extschema@.import_ledger
            WHERE interval_end IS NOT NULL AND gateway = name ORDER BY gateway, src_mask, dst_mask, src_mask6, dst_mask6 LIMIT 1) AS first
        WHERE name <> ALL (several);
    IF several = '{}'::text[] THEN RETURN; END IF;
    RETURN QUERY WITH ends AS (
        SELECT gateway, interval_end, min(src_mask) AS src_mask, min(dst_mask) AS dst_mask, min(src_mask6) AS src_mask6,
               min(dst_mask6) AS dst_mask6
        FROM @extschema@.import_ledger
        WHERE interval_end > range_from AND interval_end <= range_to AND gateway = ANY (several)
        GROUP BY gateway, interval_end
    ), changes AS (
        SELECT *, (src_mask, dst_mask, src_mask6, dst_mask6) IS DISTINCT FROM
                  lag((src_mask, dst_mask, src_mask6, dst_mask6)) OVER by_time AS is_first
        FROM ends WINDOW by_time AS (PARTITION BY gateway ORDER BY interval_end)
    ), numbered AS (
        SELECT *, count(*) FILTER (WHERE is_first) OVER (PARTITION BY gateway ORDER BY interval_end) AS number FROM changes
    ), periods AS (
        SELECT gateway, number, src_mask, dst_mask, src_mask6, dst_mask6, max(interval_end) AS last
        FROM numbered GROUP BY 1, 2, 3, 4, 5, 6
    )
    SELECT gateway, src_mask, dst_mask, src_mask6, dst_mask6,
           tstzrange(lag(last) OVER by_number, CASE WHEN lead(last) OVER by_number IS NOT NULL THEN last END, '(]')
    FROM periods WINDOW by_number AS (PARTITION BY gateway ORDER BY number);
END $$;

-- What to call each of these addresses of a gateway, and for which times of rows; all times are covered. A single address:
-- the name of the longest network that contains it. A group of addresses: the name of the longest network that contains
-- all of it, unless there are names within it: then it is not known whose traffic it is, and the group is shown with
-- their number. Without a name: the address, or the group's network. Destinations that are summed (0.0.0.0 and ::) have
-- no name. The index finds the names of an address in some microseconds, however many names there are.
CREATE FUNCTION traffic_name_periods(
    range_from timestamptz, range_to timestamptz, gateways text[], addresses inet[], of_src boolean)
RETURNS TABLE (gateway text, address inet, label text, valid tstzrange)
LANGUAGE plpgsql STABLE ROWS 1000 SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET datestyle = 'ISO'
SET intervalstyle = 'postgres' SET jit = off SET work_mem = '64MB' SET enable_nestloop = on SET enable_seqscan = off
SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
    whole constant tstzrange := tstzrange(range_from, range_to, '[]');
    -- Of each address and of each of its gateway's masks; without a label if it changes or needs a closer look.
    asked_gateways text[];
    asked_addresses inet[];
    asked_masks inet[];
    asked_lengths integer[];
    asked_periods tstzrange[];
    asked_shown text[];
    labels text[];
BEGIN
    WITH masks AS MATERIALIZED (
        SELECT gateway, family, mask, @extschema@.traffic_mask_length(mask) AS length, valid
        FROM @extschema@.traffic_mask_periods(range_from, range_to, ARRAY(SELECT DISTINCT name FROM unnest(gateways) AS name)),
             LATERAL (VALUES (4, CASE WHEN of_src THEN src_mask ELSE dst_mask END),
                             (6, CASE WHEN of_src THEN src_mask6 ELSE dst_mask6 END)) AS of_family (family, mask)
    ), asked AS (
        SELECT each.gateway, each.address, masks.mask, coalesce(masks.length, masklen(each.address)) AS length,
               coalesce(masks.valid, '(,)') AS period, each.address = ANY ('{0.0.0.0,::,0.0.0.1,100::1}') AS is_nobody,
               CASE WHEN each.address = ANY ('{0.0.0.1,100::1}') THEN 'forgotten'  -- traffic_forget()
                    WHEN masks.length IS NULL OR masks.length = masklen(each.address) OR
                         each.address = ANY ('{0.0.0.0,::}') AND masks.length > 0 THEN host(each.address)
                    WHEN masks.mask = netmask(set_masklen(masks.mask, masks.length))
                         THEN host(each.address & masks.mask) || '/' || masks.length
                    ELSE host(each.address & masks.mask) || '/' || host(masks.mask) END AS shown
        FROM unnest(gateways, addresses) AS each (gateway, address)
        LEFT JOIN masks ON masks.gateway = each.gateway AND masks.family = family(each.address)
    )
    SELECT array_agg(gateway), array_agg(address), array_agg(mask), array_agg(length), array_agg(period), array_agg(shown),
           array_agg(CASE WHEN period = '(,)' AND (is_nobody OR is_constant IS NOT FALSE)
                          THEN CASE WHEN is_nobody THEN shown ELSE coalesce(holder, shown) END END)
    INTO asked_gateways, asked_addresses, asked_masks, asked_lengths, asked_periods, asked_shown, labels
    FROM asked LEFT JOIN LATERAL (
        SELECT name AS holder, masklen(network) <= asked.length AND names.valid @> whole AS is_constant
        FROM @extschema@.traffic_names AS names
        WHERE network && set_masklen(asked.address, asked.length) AND names.gateway = asked.gateway AND names.valid && whole
        ORDER BY masklen(network) DESC LIMIT 1
    ) AS found ON true;
    RETURN QUERY SELECT named.* FROM unnest(asked_gateways, asked_addresses, labels, asked_periods) AS named (gateway, address, label, period)
    WHERE label IS NOT NULL;
    IF array_position(labels, NULL) IS NULL THEN RETURN; END IF;
    RETURN QUERY WITH asked AS MATERIALIZED (
        SELECT each.* FROM unnest(asked_gateways, asked_addresses, asked_masks, asked_lengths, asked_periods, asked_shown, labels)
                           AS each (gateway, address, mask, length, period, shown, label)
        WHERE label IS NULL
    ), found AS MATERIALIZED (
        SELECT asked.gateway, asked.address, period, shown, names.name, masklen(names.network) AS length,
               masklen(names.network) <= asked.length AS holds, names.valid * period AS valid
        FROM asked JOIN @extschema@.traffic_names AS names
          ON names.gateway = asked.gateway AND names.network && set_masklen(asked.address, asked.length)
        WHERE names.valid && whole AND names.valid && period
          AND asked.address <> ALL ('{0.0.0.0,::,0.0.0.1,100::1}')
          AND (masklen(names.network) <= asked.length OR
               (set_masklen(names.network::inet, masklen(asked.address)) & mask & netmask(names.network)) =
               (asked.address & netmask(names.network)))
    ), groups AS MATERIALIZED (
        SELECT DISTINCT gateway, address, period FROM found WHERE NOT holds
    ), moments AS (
        SELECT gateway, address, period, moment,
               lead(moment) OVER (PARTITION BY gateway, address, period ORDER BY moment) AS next
        FROM (SELECT gateway, address, period, coalesce(lower(valid), '-infinity') AS moment FROM found JOIN groups USING (gateway, address, period)
              UNION SELECT gateway, address, period, coalesce(upper(valid), 'infinity') FROM found JOIN groups USING (gateway, address, period)) AS ends
    ), pieces AS MATERIALIZED (
        -- A shorter network names what is left of the time of the longer ones.
        SELECT gateway, address, period, name AS label, piece
        FROM (SELECT *, range_agg(valid) OVER (PARTITION BY gateway, address, period ORDER BY length DESC
                                               GROUPS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS longer
              FROM found WHERE (gateway, address, period) NOT IN (SELECT * FROM groups)) AS holders,
             unnest(multirange(valid) - coalesce(longer, '{}')) AS piece
        UNION ALL
        SELECT gateway, address, period,
               CASE WHEN within > 0 THEN shown || ' (' || within || CASE within WHEN 1 THEN ' name)' ELSE ' names)' END ELSE holder END,
               piece
        FROM (SELECT moments.gateway, moments.address, moments.period, shown,
                     count(DISTINCT name) FILTER (WHERE NOT holds) AS within,
                     (array_agg(name ORDER BY length DESC) FILTER (WHERE holds))[1] AS holder,
                     tstzrange(nullif(moment, '-infinity'), nullif(next, 'infinity')) * moments.period AS piece
              FROM moments JOIN found ON found.gateway = moments.gateway AND found.address = moments.address
                AND found.period = moments.period AND found.valid @> (tstzrange(nullif(moment, '-infinity'), nullif(next, 'infinity')) * moments.period)
              WHERE next IS NOT NULL
              GROUP BY moments.gateway, moments.address, moments.period, shown, moment, next) AS counted
        WHERE NOT isempty(piece)
    )
    SELECT gateway, address, label, unnest(range_agg(piece)) FROM pieces GROUP BY gateway, address, label
    UNION ALL
    SELECT gateway, address, shown, rest
    FROM asked LEFT JOIN (SELECT gateway, address, period, range_agg(piece) AS named FROM pieces
                          GROUP BY gateway, address, period) AS taken USING (gateway, address, period),
         unnest(multirange(period) - coalesce(named, '{}')) AS rest;
END $$;
