-- The busiest services over all of vpn_traffic. "(others)": as in busiest_pairs.sql.
SELECT CASE WHEN proto = '0' AND port = -1 THEN '(others)' ELSE proto END AS "protocol",
       CASE port WHEN -1 THEN CASE proto WHEN '0' THEN '' ELSE 'others' END WHEN 0 THEN '' ELSE port::text END AS "port",
       pg_size_pretty(sum(src_bytes)) AS "sent", pg_size_pretty(sum(dst_bytes)) AS "received",
       to_char(sum(src_packets + dst_packets), 'FM999,999,999,999') AS "packets",
       to_char(sum(connection_count), 'FM999,999,999') AS "connections"
FROM vpn_traffic
GROUP BY proto, port
ORDER BY sum(src_bytes + dst_bytes) DESC
LIMIT 10;
