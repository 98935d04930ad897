-- One line on all of vpn_traffic.
SELECT to_char(row_count, 'FM999,999,999,999') || ' rows over ' || intervals || ' intervals, ' || pairs || ' pairs, '
       || traffic_bytes(bytes) || ' in ' || to_char(packets, 'FM999,999,999,999') || ' packets, '
       || to_char(connections, 'FM999,999,999') || ' connections closed'
       || coalesce('; of the bytes, ' || traffic_bytes(folded) || ' in rows summed by origin (-max-rows)', '')
FROM (SELECT count(*) AS row_count, count(DISTINCT time) AS intervals,
             count(DISTINCT (src, dst)) FILTER (WHERE NOT (proto = '0' AND port = -1)) AS pairs,
             sum(src_bytes + dst_bytes) AS bytes, sum(src_packets + dst_packets) AS packets, sum(connection_count) AS connections,
             sum(src_bytes + dst_bytes) FILTER (WHERE proto = '0' AND port = -1) AS folded
      FROM vpn_traffic) AS sums;
