-- All traffic: throughput and connections over time.
, opened AS (
    SELECT time, open_connections
    FROM asked,
         traffic_open_connections(asked.lower, asked.upper, step, columns, gateways, srcs, dsts, protos, ports,
                                  src_names, dst_names)
)
SELECT json_build_object(
    'from', from_ms, 'to', to_ms, 'width', width_ms, 'ends', ends,
    'unlisted', (SELECT coalesce(max(unlisted_bytes), 0) > 0 FROM points),
    'open', (SELECT coalesce(max(open_connections), 0) > 0 FROM opened),
    'points', coalesce((
        SELECT json_agg(json_build_array(round(extract(epoch FROM time) * 1000), seconds, src_bytes, dst_bytes,
                                         src_packets, dst_packets, connection_count, connection_times,
                                         round(open_connections::numeric, 1),
                                         round(extract(epoch FROM greatest(time - plan.width, plan.lower)) * 1000), unlisted_bytes) ORDER BY time)
        FROM points LEFT JOIN opened USING (time)), '[]'))
FROM plan
