-- The busiest services over all of vpn_traffic. "(others)": as in busiest_pairs.sql.
SELECT CASE WHEN proto = '0' AND port = -1 THEN '(others)' ELSE proto END AS "protocol",
       CASE port WHEN -1 THEN CASE proto WHEN '0' THEN '' ELSE 'others' END WHEN 0 THEN '' ELSE port::text END AS "port",
       traffic_bytes(sent) AS "sent", traffic_bytes(received) AS "received",
       to_char(packets, 'FM999,999,999,999') AS "packets", to_char(connections, 'FM999,999,999') AS "connections"
FROM (SELECT proto, port, sum(src_bytes) AS sent, sum(dst_bytes) AS received, sum(src_packets + dst_packets) AS packets,
             sum(connection_count) AS connections
      FROM vpn_traffic GROUP BY proto, port ORDER BY sum(src_bytes + dst_bytes) DESC LIMIT 10) AS busiest
ORDER BY sent + received DESC;
