-- Which of my points are wrong, and by how much? The newest intervals that are not complete, with what was counted in them
-- and why. "resynced": packets and bytes of the flows that live on are right, some closed connections may be missing;
-- "partial": some traffic may be missing. A gap that began before its interval reaches back: the points between are wrong too, or
-- are missing. The causes:
--   overrun      a receive buffer was full and the kernel dropped events
--   allocation   the kernel had no memory for events
--   restart      no engine ran
--   unreported   the kernel did not report the end of flows
--   settings     nf_conntrack_acct, nf_conntrack_events or nf_conntrack_timestamp was off, or flows had no counters
--   renamed      the gateway was given another name
-- "covered" is how much of the interval was observed; rates are over that time.
WITH incomplete AS (
    SELECT * FROM traffic_intervals WHERE completeness <> 'complete' ORDER BY time DESC LIMIT 50
)
SELECT time - interval_length AS "from", time AS "to", gateway, completeness, covered,
       to_char(incomplete.events_dropped, 'FM999,999,999,999') AS "events dropped",
       to_char(incomplete.flows_lost, 'FM999,999,999,999') AS "flows lost, at least",
       coalesce(gaps.causes, 'not reported') AS "because of",
       coalesce(to_char(extract(epoch FROM gaps.seconds), 'FM999,999,990.000') || ' s', '') AS "gap of",
       gaps.began AS "since",
       traffic_bytes(coalesce(counted.src_bytes + counted.dst_bytes, 0)) AS "counted",
       to_char(coalesce(counted.connection_count, 0), 'FM999,999,999') AS "connections"
FROM incomplete
CROSS JOIN LATERAL (
    SELECT string_agg(DISTINCT gap.cause, ', ') AS causes, sum(gap.ended - gap.began) AS seconds,
           min(gap.began) AS began
    FROM import_ledger AS file JOIN traffic_gaps AS gap USING (engine, sequence)
    WHERE file.interval_end = incomplete.time AND file.gateway = incomplete.gateway
) AS gaps
LEFT JOIN traffic_total AS counted USING (time, gateway)
ORDER BY time DESC, gateway;
