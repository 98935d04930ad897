-- Follows expected.sql: each gateway's traffic and how complete its intervals are.
SELECT json_build_object('from', from_ms, 'to', to_ms, 'gateways', coalesce((
    SELECT json_agg(json_build_array(
               gateway, coalesce(src_bytes, 0), coalesce(dst_bytes, 0), coalesce(src_packets, 0), coalesce(dst_packets, 0),
               coalesce(connection_count, 0), coalesce(connection_times, 0), coalesce(intervals, 0), coalesce(resynced, 0),
               coalesce(partial, 0), coalesce(events_dropped, 0), coalesce(flows_lost, 0),
               coalesce(extract(epoch FROM covered), 0), coalesce(missing, 0),
               round(extract(epoch FROM coalesce(quality.newest, retired.newest)) * 1000),
               round(extract(epoch FROM silent_from) * 1000), coalesce(expected, 0), coalesce(unlisted_bytes, 0))
           ORDER BY src_bytes + dst_bytes DESC NULLS LAST, gateway)
    FROM points FULL JOIN quality USING (gateway) FULL JOIN retired USING (gateway)), '[]'))
FROM plan
