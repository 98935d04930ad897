-- A game as a report shows it: HOURS hours of 24 teams that attack each other's services through two gateways, in both
-- families, with an overrun and a restart in between. Made up, the same each time. Into tables that the importer has made,
-- and empty.
CREATE FUNCTION pg_temp.chance(VARIADIC numbers bigint[]) RETURNS double precision LANGUAGE sql IMMUTABLE AS $$
    SELECT (hash_array_extended(numbers, 7) & 1048575) / 1048576.0
$$;

CREATE TEMPORARY TABLE sample ON COMMIT PRESERVE ROWS AS
WITH settings AS (
    SELECT timestamptz '2026-11-21 12:00Z' AS began, (240 * HOURS)::bigint AS intervals
), services (place, proto, port, request, reply, duration, since) AS (
    VALUES (1, 'tcp', 8000, 4200, 17000, 180, 0.0), (2, 'tcp', 443, 7400, 31000, 350, 0.0), (3, 'tcp', 5005, 2300, 3900, 60, 0.1),
           (4, 'udp', 9999, 220, 480, 0, 0.25), (5, 'tcp', 22, 9200, 6800, 41000, 0.0), (6, 'tcp', 3306, 1700, 27000, 900, 0.55),
           (7, 'udp', 53, 80, 160, 0, 0.0), (8, 'icmp', 0, 84, 84, 0, 0.0), (9, 'tcp', -1, 400, 300, 20, 0.3)
), busy AS (
    SELECT i, i::double precision / intervals AS share, origin, destination, services.*,
           -- Strong teams do more; everybody's work comes in waves; an exploit lasts until it is patched.
           pow(origin % 24 + 1, -0.55) * (1 + 0.6 * sin(i / (90.0 + 7 * origin) + origin))
             * (0.6 + 0.6 * pg_temp.chance(i, origin, destination, place))
             * CASE WHEN pg_temp.chance(origin, destination, place, 1) > 0.93
                     AND i::double precision / intervals
                         BETWEEN pg_temp.chance(origin, place, 2) AND pg_temp.chance(origin, place, 2) + 0.2
                    THEN 5 ELSE 1 END
             * CASE WHEN destination = 7 AND place = 2 THEN 3 ELSE 1 END AS weight
    FROM settings, generate_series(1, intervals) AS i, generate_series(1, 24) AS origin,
         generate_series(1, 24) AS destination, services
    WHERE origin <> destination AND i::double precision / intervals >= since
      AND pg_temp.chance(origin, destination, 3) > 0.55
      AND pg_temp.chance(i, origin, destination, place, 4) < 0.09 * pow(destination % 24 + 1, -0.3)
      -- No engine ran.
      AND i::double precision / intervals NOT BETWEEN 0.62 AND 0.635
)
SELECT began + i * interval '15 s' AS time, ceil(weight * 40)::bigint AS requests, 10 * ceil(weight * 40)::bigint AS src_packets,
       ceil(weight * 40)::bigint * request * 9 AS src_bytes, ceil(weight * 40)::bigint * (4 + reply / 1300) AS dst_packets,
       ceil(weight * 40)::bigint * reply * 9 AS dst_bytes, duration, port, proto,
       -- Nobody answers what scans, nor where a service is down.
       CASE WHEN origin = 2 AND place = 4 THEN ceil(weight * 30)
            WHEN destination = 5 AND place = 1 AND share > 0.8 THEN ceil(weight * 35)
            ELSE ceil(weight) END::bigint AS unanswered,
       (CASE WHEN place IN (2, 3, 6) AND (origin + destination) % 2 = 0
             THEN '2001:db8:32:' || origin || '::' ELSE '10.32.' || origin || '.0' END)::inet AS src,
       (CASE WHEN place IN (2, 3, 6) AND (origin + destination) % 2 = 0
             THEN '2001:db8:33:' || destination || '::' ELSE '10.33.' || destination || '.0' END)::inet AS dst,
       CASE WHEN destination % 3 = 0 THEN 'gw-north' ELSE 'gw-south' END AS gateway
FROM busy, settings;

SELECT traffic_make_partitions((SELECT array_agg(DISTINCT date_bin('1 day', time, 'epoch')) ||
                                       array_agg(DISTINCT date_bin('1 day', time, 'epoch') + interval '23 h') FROM sample));
INSERT INTO vpn_traffic (time, src_packets, src_bytes, dst_packets, dst_bytes, connection_times, connection_count,
                         open_connections, flow_count, unanswered_count, port, src, dst, proto, gateway)
SELECT time, src_packets, src_bytes, dst_packets, dst_bytes, CASE WHEN proto = 'tcp' THEN requests * duration ELSE 0 END,
       CASE WHEN proto = 'tcp' THEN requests ELSE 0 END, CASE WHEN proto = 'tcp' THEN requests * duration / 15000 ELSE 0 END,
       requests, unanswered, port, src, dst, proto, gateway
FROM sample;
SELECT traffic_roll_up('vpn_traffic');

INSERT INTO import_ledger (engine, sequence, checksum, row_count, events_dropped, flows_lost, interval_end, interval_length,
                           completeness, gateway, source_file, src_mask, dst_mask, src_mask6, dst_mask6)
SELECT md5(gateway)::uuid, row_number() OVER (PARTITION BY gateway ORDER BY time), 0, count(*),
       CASE WHEN overrun THEN 4711 ELSE 0 END, CASE WHEN restart THEN 1893 ELSE 0 END, time, '15 s',
       CASE WHEN restart THEN 'partial' WHEN overrun THEN 'resynced' ELSE 'complete' END, gateway, 'sample',
       '255.255.255.0', '255.255.255.0', 'ffff:ffff:ffff:ffff::', 'ffff:ffff:ffff:ffff::'
FROM (SELECT time, gateway,
             gateway = 'gw-north' AND time > timestamptz '2026-11-21 12:00Z' + 0.31 * interval 'HOURS h'
               AND time <= timestamptz '2026-11-21 12:00Z' + 0.31 * interval 'HOURS h' + interval '1 min' AS overrun,
             time = (SELECT min(time) FROM sample WHERE time > timestamptz '2026-11-21 12:00Z' + 0.63 * interval 'HOURS h') AS restart
      FROM sample) AS marked
GROUP BY time, gateway, overrun, restart;

INSERT INTO traffic_gaps (began, ended, events_dropped, flows_lost, interval_end, engine, sequence, number, cause,
                          completeness, gateway)
SELECT CASE completeness WHEN 'partial' THEN before.time ELSE interval_end - interval '13 s' END,
       interval_end - interval '2 s', events_dropped, flows_lost, interval_end, engine, sequence, 1,
       CASE completeness WHEN 'partial' THEN 'restart' ELSE 'overrun' END, completeness, gateway
FROM import_ledger AS file, LATERAL (SELECT max(time) AS time FROM sample WHERE time < interval_end) AS before
WHERE completeness <> 'complete';
