-- By origin, destination or port: the busiest over time, all others as one.
, by_key AS (
    SELECT coalesce(origin, destination, service) AS key, keyed.*,
           CASE WHEN src_name IS NOT NULL THEN host(src) WHEN dst_name IS NOT NULL THEN host(dst) END AS address
    FROM keyed
), ranked AS (
    SELECT key, row_number() OVER (ORDER BY sum(src_bytes + dst_bytes) DESC, key) AS place,
           -- A name's addresses: three of them.
           CASE WHEN bool_or(starts_with(key, address)) IS NOT FALSE THEN ''
                ELSE array_to_string((array_agg(DISTINCT address))[1:3], ', ') ||
                     CASE WHEN count(DISTINCT address) > 3 THEN ', ...' ELSE '' END END AS beside
    FROM by_key GROUP BY key
), folded AS (
    SELECT time, least(place, top + 1) AS place, max(seconds) AS seconds, sum(src_bytes) AS src_bytes,
           sum(dst_bytes) AS dst_bytes, sum(src_packets) AS src_packets, sum(dst_packets) AS dst_packets,
           sum(connection_count) AS connection_count, sum(connection_times) AS connection_times
    FROM by_key JOIN ranked USING (key), asked
    GROUP BY 1, 2
)
SELECT json_build_object(
    'from', from_ms, 'to', to_ms, 'width', width_ms, 'ends', ends,
    'keys', coalesce((SELECT json_agg(key ORDER BY place) FROM ranked WHERE place <= top), '[]'),
    'beside', (SELECT json_agg(beside ORDER BY place) FROM ranked WHERE place <= top),
    'others', (SELECT count(*) FROM ranked WHERE place > top),
    'unlisted', (SELECT coalesce(max(unlisted_bytes), 0) > 0 FROM by_key),
    'points', coalesce((
        SELECT json_agg(json_build_array(round(extract(epoch FROM time) * 1000), seconds, place - 1, src_bytes, dst_bytes,
                                         src_packets, dst_packets, connection_count, connection_times)
                        ORDER BY time, place)
        FROM folded), '[]'))
FROM plan, asked
