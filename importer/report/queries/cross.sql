-- Follows common.sql: who talks to whom over what, over time, for the page's filters. Keys that the page does not list are
-- "all others", whose place comes after the last one listed. Almost all of a page's size: cells are one array of numbers
-- without spaces, ten for each.
, origins AS MATERIALIZED (
    SELECT origin, place - 1 AS place
    FROM asked, json_array_elements_text(listed -> 'origins' -> 'keys') WITH ORDINALITY AS listed_one (origin, place)
), destinations AS MATERIALIZED (
    SELECT destination, place - 1 AS place
    FROM asked, json_array_elements_text(listed -> 'destinations' -> 'keys') WITH ORDINALITY AS listed_one (destination, place)
), services AS MATERIALIZED (
    SELECT service, place - 1 AS place
    FROM asked, json_array_elements_text(listed -> 'ports' -> 'keys') WITH ORDINALITY AS listed_one (service, place)
), cells AS MATERIALIZED (
    SELECT time, origins.place AS origin, destinations.place AS destination, services.place AS service,
           max(seconds) AS seconds, sum(src_bytes) AS src_bytes, sum(dst_bytes) AS dst_bytes, sum(src_packets) AS src_packets,
           sum(dst_packets) AS dst_packets, sum(connection_count) AS connection_count,
           sum(connection_times) AS connection_times, max(unlisted_bytes) AS unlisted_bytes
    FROM keyed LEFT JOIN origins USING (origin) LEFT JOIN destinations USING (destination) LEFT JOIN services USING (service)
    GROUP BY 1, 2, 3, 4
), times AS (
    SELECT time, row_number() OVER (ORDER BY time) - 1 AS place, max(seconds) AS seconds FROM cells GROUP BY time
)
SELECT json_build_object(
    'from', from_ms, 'to', to_ms, 'width', width_ms, 'ends', ends,
    'unlisted', (SELECT coalesce(max(unlisted_bytes), 0) > 0 FROM cells),
    'points', coalesce((
        SELECT json_agg(json_build_array(round(extract(epoch FROM time) * 1000), seconds) ORDER BY place) FROM times), '[]'),
    'cells', (
        SELECT '[' || coalesce(string_agg(concat_ws(
                   ',', times.place, coalesce(origin, (SELECT count(*) FROM origins)),
                   coalesce(destination, (SELECT count(*) FROM destinations)), coalesce(service, (SELECT count(*) FROM services)),
                   src_bytes, dst_bytes, src_packets, dst_packets, connection_count, connection_times), ',' ORDER BY times.place), '') || ']'
        FROM cells JOIN times USING (time))::json)
FROM plan
