-- Who talks to whom: a table of the busiest origins and destinations, and the busiest pairs.
, origins AS (
    SELECT origin, row_number() OVER (ORDER BY sum(src_bytes + dst_bytes) DESC, origin) AS line FROM keyed GROUP BY 1
), destinations AS (
    SELECT destination, row_number() OVER (ORDER BY sum(src_bytes + dst_bytes) DESC, destination) AS col
    FROM keyed GROUP BY 1
), cells AS (
    SELECT least(line, top + 1) AS line, least(col, top + 1) AS col, sum(src_bytes) AS src_bytes,
           sum(dst_bytes) AS dst_bytes
    FROM keyed JOIN origins USING (origin) JOIN destinations USING (destination), asked
    GROUP BY 1, 2
), busiest AS (
    SELECT * FROM keyed ORDER BY src_bytes + dst_bytes DESC, origin, destination LIMIT (SELECT top FROM asked)
)
SELECT json_build_object(
    'from', from_ms, 'to', to_ms,
    'origins', coalesce((SELECT json_agg(origin ORDER BY line) FROM origins WHERE line <= top), '[]'),
    'destinations', coalesce((SELECT json_agg(destination ORDER BY col) FROM destinations WHERE col <= top), '[]'),
    'other_origins', (SELECT count(*) FROM origins WHERE line > top),
    'other_destinations', (SELECT count(*) FROM destinations WHERE col > top),
    'count', (SELECT count(*) FROM keyed), 'unlisted', (SELECT coalesce(max(unlisted_bytes), 0) > 0 FROM keyed),
    'cells', coalesce((SELECT json_agg(json_build_array(line - 1, col - 1, src_bytes, dst_bytes)) FROM cells), '[]'),
    'busiest', coalesce((
        SELECT json_agg(json_build_array(origin, destination, src_bytes, dst_bytes, src_packets, dst_packets,
                                         connection_count, connection_times)
                        ORDER BY src_bytes + dst_bytes DESC, origin, destination)
        FROM busiest), '[]'))
FROM plan, asked
