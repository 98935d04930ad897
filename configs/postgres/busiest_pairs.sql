-- The busiest pairs of networks over all of vpn_traffic. "(others)": what the engine summed by origin because
-- an interval had more than -max-rows.
SELECT CASE WHEN others AND src = ANY ('{0.0.0.0,::}') THEN '(others)' ELSE host(src) END AS "source",
       CASE WHEN others THEN '(others)' ELSE host(dst) END AS "destination",
       traffic_bytes(sent) AS "sent", traffic_bytes(received) AS "received",
       to_char(packets, 'FM999,999,999,999') AS "packets", to_char(connections, 'FM999,999,999') AS "connections",
       CASE WHEN connections > 0 THEN to_char(connection_times / connections / 1000, 'FM999,990.00') || ' s' ELSE '' END
         AS "average time",
       to_char(100 * share, 'FM990.0') || ' %' AS "share"
FROM (SELECT src, dst, others, sum(src_bytes) AS sent, sum(dst_bytes) AS received, sum(src_packets + dst_packets) AS packets,
             sum(connection_count) AS connections, sum(connection_times) AS connection_times,
             sum(src_bytes + dst_bytes) / sum(sum(src_bytes + dst_bytes)) OVER () AS share
      FROM vpn_traffic, LATERAL (SELECT proto = '0' AND port = -1 AS others) AS row_kind
      GROUP BY src, dst, others ORDER BY sum(src_bytes + dst_bytes) DESC LIMIT 10) AS busiest
ORDER BY sent + received DESC;
