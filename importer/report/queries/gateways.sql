-- Each gateway's traffic, how complete its intervals are, and how many are missing. A gateway is expected to send every
-- interval between its first one (in the range or in the week before it) and the end of the range, or the present time.
-- Of the filters only the gateway's applies to intervals.
, intervals AS (
    SELECT gateway, count(*) FILTER (WHERE time > plan.lower) AS intervals,
           count(*) FILTER (WHERE completeness = 'resynced' AND time > plan.lower) AS resynced,
           count(*) FILTER (WHERE completeness = 'partial' AND time > plan.lower) AS partial,
           sum(events_dropped) FILTER (WHERE time > plan.lower) AS events_dropped,
           sum(flows_lost) FILTER (WHERE time > plan.lower) AS flows_lost,
           extract(epoch FROM sum(covered) FILTER (WHERE time > plan.lower)) AS covered,
           -- The newest interval may be on its way.
           least(asked.upper, now() - max(interval_length) - interval '10 s') -
               greatest(asked.lower, min(time - interval_length)) -
               -- An interval that began late is there all the same; one after a pause stands for those passed.
               coalesce(sum(greatest(covered, interval_length))
                        FILTER (WHERE time > asked.lower AND time <= asked.upper), interval '0') AS unseen,
           max(time) AS newest, max(interval_length) AS interval_length,
           count(DISTINCT (src_mask, dst_mask, src_mask6, dst_mask6)) FILTER (WHERE time > plan.lower) AS masks
    FROM plan, asked, traffic_intervals
    WHERE time > plan.lower - interval '7 days' AND time <= plan.upper
      AND (gateways IS NULL OR gateway = ANY (gateways))
    GROUP BY gateway, asked.lower, asked.upper
)
SELECT json_build_object('from', from_ms, 'to', to_ms, 'gateways', coalesce((
    SELECT json_agg(json_build_array(
               gateway, coalesce(src_bytes, 0), coalesce(dst_bytes, 0), coalesce(src_packets, 0), coalesce(dst_packets, 0),
               coalesce(connection_count, 0), coalesce(connection_times, 0), coalesce(intervals, 0), coalesce(resynced, 0),
               coalesce(partial, 0), coalesce(events_dropped, 0), coalesce(flows_lost, 0),
               coalesce(covered, 0),
               coalesce(greatest(0, floor(extract(epoch FROM unseen) / extract(epoch FROM interval_length))), 0),
               round(extract(epoch FROM newest) * 1000), coalesce(masks, 0))
           ORDER BY src_bytes + dst_bytes DESC NULLS LAST, gateway)
    FROM points FULL JOIN intervals USING (gateway)), '[]'))
FROM plan
