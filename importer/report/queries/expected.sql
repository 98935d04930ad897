-- Follows common.sql: what each gateway has sent in the range, and what is missing. A gateway is expected to send
-- every interval between its first one (in the range or in the week before it) and the end of the range, or the present time.
-- One that the filter names is expected however old its last interval is. Of the filters only the gateway's applies.
, sent AS MATERIALIZED (
    -- As traffic_intervals, which would be of the whole ledger.
    SELECT gateway, interval_end AS time, max(interval_length) AS interval_length,
           sum(covered_to - covered_from) AS covered, bool_or(completeness = 'partial') AS partial,
           bool_or(completeness = 'resynced') AS resynced, sum(events_dropped) AS events_dropped, sum(flows_lost) AS flows_lost
    FROM plan, asked, import_ledger
    WHERE interval_end > plan.lower AND interval_end <= plan.upper AND (gateways IS NULL OR gateway = ANY (gateways))
    GROUP BY gateway, interval_end
), before AS (
    SELECT gateway, max(interval_end) AS time
    FROM plan, asked, import_ledger
    WHERE gateways IS NULL AND interval_end > plan.lower - interval '7 days' AND interval_end <= plan.lower
    GROUP BY gateway
    UNION ALL
    SELECT name, time
    FROM plan, (SELECT DISTINCT unnest(gateways) AS name FROM asked) AS names, LATERAL (
        SELECT interval_end AS time FROM import_ledger
        WHERE gateway = name AND interval_end <= plan.lower ORDER BY interval_end DESC LIMIT 1) AS newest
), sums AS (
    SELECT gateway, count(*) AS intervals, count(*) FILTER (WHERE resynced AND NOT partial) AS resynced,
           count(*) FILTER (WHERE partial) AS partial, sum(events_dropped) AS events_dropped, sum(flows_lost) AS flows_lost,
           sum(covered) AS covered, min(time - interval_length) AS first, max(time) AS newest,
           max(interval_length) AS interval_length
    FROM sent GROUP BY gateway
), expected AS MATERIALIZED (
    SELECT known.*, -- The newest interval may be on its way.
           least(upper, now() - interval_length - interval '10 s') AS ends
    FROM asked, (
        SELECT gateway, coalesce(intervals, 0) AS intervals, coalesce(resynced, 0) AS resynced, coalesce(partial, 0) AS partial,
               coalesce(events_dropped, 0) AS events_dropped, coalesce(flows_lost, 0) AS flows_lost, covered,
               CASE WHEN before.time IS NULL THEN greatest(lower, first) ELSE lower END AS begins,
               coalesce(newest, before.time) AS newest,
               coalesce(interval_length, (SELECT max(file.interval_length) FROM import_ledger AS file
                                          WHERE file.interval_end = before.time AND file.gateway = before.gateway)) AS interval_length
        FROM asked, sums FULL JOIN before USING (gateway)
    ) AS known
), stretches AS (
    -- An interval that began late is there all the same; one after a pause stands for those passed.
    SELECT gateway, sent.interval_length, coalesce(lag(time) OVER (PARTITION BY gateway ORDER BY time), begins) AS began,
           least(time - greatest(sent.covered, sent.interval_length), ends) AS ended, false AS silence
    FROM sent JOIN expected USING (gateway)
    UNION ALL
    SELECT gateway, interval_length, greatest(newest, begins), ends, true FROM expected
), holes AS MATERIALIZED (
    SELECT gateway, greatest(began, lower) AS began, ended, silence,
           floor(extract(epoch FROM ended - greatest(began, lower)) / extract(epoch FROM interval_length)) AS missing
    FROM stretches, asked
    WHERE ended - greatest(began, lower) >= interval_length
), quality AS MATERIALIZED (
    SELECT expected.*, coalesce(missing, 0) AS missing,
           (SELECT began FROM holes WHERE holes.gateway = expected.gateway AND silence) AS silent_from
    FROM expected LEFT JOIN (SELECT gateway, sum(missing) AS missing FROM holes GROUP BY gateway) AS of_gateway USING (gateway)
), retired AS (
    -- Silent for longer: only named.
    SELECT gateway, max(time) AS newest FROM traffic_covered, asked
    WHERE covered IS NOT NULL AND time <= upper AND (gateways IS NULL OR gateway = ANY (gateways))
      AND NOT EXISTS (SELECT FROM expected WHERE expected.gateway = traffic_covered.gateway)
    GROUP BY gateway
)
