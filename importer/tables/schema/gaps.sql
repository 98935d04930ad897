-- Gaps: which intervals are incomplete, why, and by how much.

CREATE TABLE traffic_gaps (
    began timestamptz NOT NULL,
    ended timestamptz NOT NULL CHECK (ended >= began),
    events_dropped bigint NOT NULL,
    flows_lost bigint NOT NULL,
    interval_end timestamptz NOT NULL,
    engine uuid NOT NULL,
    sequence bigint NOT NULL,
    number integer NOT NULL,
    cause text NOT NULL CHECK (cause IN ('overrun', 'allocation', 'restart', 'unreported', 'settings', 'renamed')),
    completeness text NOT NULL CHECK (completeness IN ('resynced', 'partial')),
    gateway text NOT NULL,
    PRIMARY KEY (engine, sequence, number)
);
COMMENT ON TABLE traffic_gaps IS
    'Stretches of time in which some traffic may not be recorded. One row for each gap and file that reports it; counts '
    'add up. Gaps of an hour: WHERE ended >= its beginning AND began <= its end.';
COMMENT ON COLUMN traffic_gaps.began IS 'The last moment known to be before the loss.';
COMMENT ON COLUMN traffic_gaps.ended IS 'The first moment known to be after the loss.';
COMMENT ON COLUMN traffic_gaps.cause IS
    'overrun: a receive buffer was full; allocation: the kernel had no memory for events; restart: no engine ran; '
    'unreported: the kernel did not report the end of flows; settings: nf_conntrack_acct, nf_conntrack_events or '
    'nf_conntrack_timestamp was off, or flows had no counters; renamed: the gateway was given another name.';
COMMENT ON COLUMN traffic_gaps.completeness IS
    'resynced: packets and bytes are exact, some closes may be missing; partial: some traffic may be missing.';
COMMENT ON COLUMN traffic_gaps.events_dropped IS 'Events that the kernel dropped, exact; 0 also if it is not known.';
COMMENT ON COLUMN traffic_gaps.flows_lost IS
    'Flows that ended in the gap and whose last traffic was not reported. A lower bound.';
COMMENT ON COLUMN traffic_gaps.interval_end IS 'Time of the rows in the file that reports the gap.';
COMMENT ON COLUMN traffic_gaps.sequence IS 'With engine, the file: import_ledger.';
COMMENT ON COLUMN traffic_gaps.number IS 'Within the file, from 1.';

CREATE INDEX traffic_gaps_ended ON traffic_gaps (ended, began);

CREATE VIEW traffic_intervals AS
SELECT gateway,
       interval_end AS time,
       max(interval_length) AS interval_length,
       sum(covered_to - covered_from) AS covered,
       CASE WHEN bool_or(completeness = 'partial') THEN 'partial'
            WHEN bool_or(completeness = 'resynced') THEN 'resynced'
            ELSE 'complete' END AS completeness,
       sum(events_dropped) AS events_dropped,
       sum(flows_lost) AS flows_lost,
       sum(row_count) AS row_count,
       CASE WHEN min(src_mask) = max(src_mask) THEN min(src_mask) END AS src_mask,
       CASE WHEN min(dst_mask) = max(dst_mask) THEN min(dst_mask) END AS dst_mask,
       CASE WHEN min(src_mask6) = max(src_mask6) THEN min(src_mask6) END AS src_mask6,
       CASE WHEN min(dst_mask6) = max(dst_mask6) THEN min(dst_mask6) END AS dst_mask6
FROM import_ledger
WHERE interval_end IS NOT NULL
GROUP BY gateway, interval_end;
COMMENT ON VIEW traffic_intervals IS
    'The data quality of each interval of a gateway. Joins with vpn_traffic on (gateway, time). Every interval of an '
    'engine that writes spool files is here, also without traffic: if one is missing, no engine ran or its file is not '
    'imported yet.';
COMMENT ON COLUMN traffic_intervals.covered IS
    'How much of the interval was observed, by all runs of the engine together. Rates are over this time.';
COMMENT ON COLUMN traffic_intervals.completeness IS 'The worst of the interval''s files; as in import_ledger.';
COMMENT ON COLUMN traffic_intervals.events_dropped IS
    'Sum over the interval''s files, like flows_lost and row_count.';
COMMENT ON COLUMN traffic_intervals.src_mask IS
    'The group mask of src for IPv4, as in import_ledger, like dst_mask, src_mask6 and dst_mask6. NULL: it was changed within '
    'the interval, whose rows are of both masks.';
COMMENT ON COLUMN traffic_intervals.flows_lost IS 'A lower bound.';

-- What each gateway should have sent in a range, and what it has. A gateway is expected to send every interval from its first
-- one, in the range or in the week before it, to the end of the range or the present. One that `gateways` names is expected
-- however old its newest interval is.
CREATE FUNCTION traffic_expected(range_from timestamptz, range_to timestamptz, gateways text[] DEFAULT NULL)
RETURNS TABLE (gateway text, expected bigint, missing bigint, intervals bigint, resynced bigint, partial bigint,
               events_dropped bigint, flows_lost bigint, covered interval, interval_length interval,
               newest timestamptz, silent_from timestamptz, holes tstzrange[])
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET datestyle = 'ISO'
SET intervalstyle = 'postgres' AS $$
    WITH files AS MATERIALIZED (
        -- As traffic_intervals, which would be of the whole ledger.
        SELECT file.gateway, interval_end AS time, max(file.interval_length) AS interval_length,
               sum(covered_to - covered_from) AS covered, bool_or(completeness = 'partial') AS partial,
               bool_or(completeness = 'resynced') AS resynced, sum(file.events_dropped) AS events_dropped,
               sum(file.flows_lost) AS flows_lost, bool_and(covered_to > covered_from) AS covered_known,
               count(*) > 1 AND sum(covered_to - covered_from) - (max(covered_to) - min(covered_from)) > max(file.interval_length) / 2 AS twice
        FROM @extschema@.import_ledger AS file
        WHERE interval_end > range_from AND interval_end <= range_to AND (gateways IS NULL OR file.gateway = ANY (gateways))
        GROUP BY file.gateway, interval_end
    ), sent AS MATERIALIZED (
        -- Between two others, an interval that was observed in part only lacks the file of one of two engines that shared it,
        -- or no engine was running for a while.
        SELECT files.*, coalesce(covered_known AND interval_length - covered > least(interval '1 s', interval_length / 10), false)
               AND EXISTS (SELECT FROM @extschema@.import_ledger AS other WHERE other.gateway = files.gateway
                             AND other.interval_end >= time - files.interval_length AND other.interval_end < time)
               AND EXISTS (SELECT FROM @extschema@.import_ledger AS other WHERE other.gateway = files.gateway
                             AND other.interval_end > time AND other.interval_end <= time + files.interval_length) AS short
        FROM files
    ), before AS (
        SELECT file.gateway, max(interval_end) AS time
        FROM @extschema@.import_ledger AS file
        WHERE gateways IS NULL AND interval_end > range_from - interval '7 days' AND interval_end <= range_from
        GROUP BY file.gateway
        UNION ALL
        SELECT name, time
        FROM (SELECT DISTINCT unnest(gateways) AS name) AS names, LATERAL (
            SELECT interval_end AS time FROM @extschema@.import_ledger AS file
            WHERE file.gateway = name AND interval_end <= range_from ORDER BY interval_end DESC LIMIT 1) AS newest
    ), sums AS (
        SELECT sent.gateway, count(*) AS intervals, count(*) FILTER (WHERE sent.resynced AND NOT (sent.partial OR sent.short OR sent.twice)) AS resynced,
               count(*) FILTER (WHERE sent.partial OR sent.short OR sent.twice) AS partial, sum(sent.events_dropped) AS events_dropped,
               sum(sent.flows_lost) AS flows_lost, sum(sent.covered) AS covered, min(time - sent.interval_length) AS first,
               max(time) AS newest, max(sent.interval_length) AS interval_length
        FROM sent GROUP BY sent.gateway
    ), known AS MATERIALIZED (
        SELECT each.*, -- The newest interval may be on its way.
               least(range_to, now() - each.interval_length - interval '10 s') AS ends
        FROM (
            SELECT gateway, sums.intervals, sums.resynced, sums.partial, sums.events_dropped, sums.flows_lost, sums.covered,
                   CASE WHEN before.time IS NULL THEN greatest(range_from, first) ELSE range_from END AS begins,
                   coalesce(sums.newest, before.time) AS newest,
                   coalesce(sums.interval_length, (SELECT max(file.interval_length) FROM @extschema@.import_ledger AS file
                                                   WHERE file.interval_end = before.time AND file.gateway = before.gateway)) AS interval_length
            FROM sums FULL JOIN before USING (gateway)
        ) AS each
    ), stretches AS (
        -- An interval that began late is there all the same; one after a pause stands for those passed.
        SELECT sent.gateway, sent.interval_length,
               coalesce(lag(time) OVER (PARTITION BY sent.gateway ORDER BY time), begins) AS began,
               least(time - greatest(sent.covered, sent.interval_length), ends) AS ended, false AS silence
        FROM sent JOIN known ON known.gateway = sent.gateway
        UNION ALL
        SELECT known.gateway, known.interval_length, greatest(known.newest, begins), ends, true FROM known
    ), missing AS (
        SELECT hole.gateway, sum(floor(extract(epoch FROM ended - began) / extract(epoch FROM hole.interval_length))) AS missing,
               min(began) FILTER (WHERE silence) AS silent_from, array_agg(tstzrange(began, ended) ORDER BY began) AS holes
        FROM (SELECT stretches.gateway, stretches.interval_length, greatest(began, range_from) AS began, ended, silence
              FROM stretches
              WHERE ended - greatest(began, range_from) >= stretches.interval_length
              UNION ALL
              -- Somewhere within its interval.
              SELECT sent.gateway, sent.interval_length, time - sent.interval_length, time - covered, false FROM sent WHERE short
             ) AS hole
        GROUP BY hole.gateway
    )
    SELECT known.gateway, (coalesce(known.intervals, 0) + coalesce(missing.missing, 0))::bigint,
           coalesce(missing.missing, 0)::bigint, coalesce(known.intervals, 0), coalesce(known.resynced, 0),
           coalesce(known.partial, 0), coalesce(known.events_dropped, 0)::bigint, coalesce(known.flows_lost, 0)::bigint,
           known.covered, known.interval_length, known.newest, missing.silent_from, coalesce(missing.holes, '{}')
    FROM known LEFT JOIN missing ON missing.gateway = known.gateway
    ORDER BY known.gateway
$$;
COMMENT ON FUNCTION traffic_expected IS
    'What each gateway should have sent with range_from < time <= range_to, and what it has: also one that sent nothing in the '
    'range, up to a week after its newest interval, or for ever if "gateways" names it. partial: also intervals between others '
    'that were observed in part only, since a file is missing or no engine was running; and those observed twice. holes: stretches without intervals, and '
    'what was not observed of those; silent_from: the beginning of the one that has not ended.';

CREATE VIEW traffic_gap_regions AS
SELECT gateway, began, ended,
       cause || ', ' || completeness || ': ' || events_dropped || ' events dropped' ||
         CASE WHEN flows_lost > 0 THEN ', at least ' || flows_lost || ' flows lost' ELSE '' END AS text
FROM traffic_gaps
UNION ALL
SELECT gateway, interval_end - interval_length, interval_end, completeness || ': ' || events_dropped || ' events dropped'
FROM import_ledger AS file
WHERE completeness <> 'complete'
  AND NOT EXISTS (SELECT FROM traffic_gaps AS gap WHERE gap.engine = file.engine AND gap.sequence = file.sequence);
COMMENT ON VIEW traffic_gap_regions IS
    'For a dashboard to shade: SELECT began AS time, ended AS timeend, text FROM traffic_gap_regions '
    'WHERE ended >= $__timeFrom() AND began <= $__timeTo(). Gaps, and incomplete intervals of files that report no gap.';
