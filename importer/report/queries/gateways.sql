-- Each gateway's traffic, and how complete it is. The filters do not apply to intervals, but for the gateway's.
, intervals AS (
    SELECT gateway, count(*) AS intervals, count(*) FILTER (WHERE completeness = 'resynced') AS resynced,
           count(*) FILTER (WHERE completeness = 'partial') AS partial, sum(events_dropped) AS events_dropped,
           sum(flows_lost) AS flows_lost, extract(epoch FROM sum(covered)) AS covered,
           count(DISTINCT (src_mask, dst_mask, src_mask6, dst_mask6)) AS masks
    FROM plan, asked, traffic_intervals
    WHERE time > plan.lower AND time <= plan.upper AND (gateways IS NULL OR gateway = ANY (gateways))
    GROUP BY gateway
)
SELECT json_build_object('from', from_ms, 'to', to_ms, 'gateways', coalesce((
    SELECT json_agg(json_build_array(
               gateway, coalesce(src_bytes, 0), coalesce(dst_bytes, 0), coalesce(src_packets, 0), coalesce(dst_packets, 0),
               coalesce(connection_count, 0), coalesce(connection_times, 0), coalesce(intervals, 0), coalesce(resynced, 0),
               coalesce(partial, 0), coalesce(events_dropped, 0), coalesce(flows_lost, 0),
               coalesce(covered, 0), coalesce(masks, 0))
           ORDER BY src_bytes + dst_bytes DESC NULLS LAST, gateway)
    FROM points FULL JOIN intervals USING (gateway)), '[]'))
FROM plan
