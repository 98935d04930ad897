-- The busiest pairs of networks over all of vpn_traffic. "(others)": what the engine summed as one row because an
-- interval had more than -max-rows.
SELECT CASE WHEN others THEN '(others)' ELSE host(src) END AS "source",
       CASE WHEN others THEN '(others)' ELSE host(dst) END AS "destination",
       pg_size_pretty(sum(src_bytes)) AS "sent", pg_size_pretty(sum(dst_bytes)) AS "received",
       to_char(sum(src_packets + dst_packets), 'FM999,999,999,999') AS "packets",
       to_char(sum(connection_count), 'FM999,999,999') AS "connections",
       CASE WHEN sum(connection_count) > 0
            THEN to_char(sum(connection_times) / sum(connection_count) / 1000, 'FM999,990.00') || ' s' ELSE '' END
         AS "average time",
       to_char(100 * sum(src_bytes + dst_bytes) / sum(sum(src_bytes + dst_bytes)) OVER (), 'FM990.0') || ' %' AS "share"
FROM vpn_traffic, LATERAL (SELECT proto = '0' AND port = -1 AS others) AS row_kind
GROUP BY src, dst, others
ORDER BY sum(src_bytes + dst_bytes) DESC
LIMIT 10;
