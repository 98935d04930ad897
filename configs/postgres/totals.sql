-- One line on all of vpn_traffic.
SELECT to_char(count(*), 'FM999,999,999,999') || ' rows over ' || count(DISTINCT time) || ' intervals, '
       || count(DISTINCT (src, dst)) FILTER (WHERE NOT (proto = '0' AND port = -1)) || ' pairs, '
       || pg_size_pretty(sum(src_bytes + dst_bytes)) || ' in '
       || to_char(sum(src_packets + dst_packets), 'FM999,999,999,999') || ' packets, '
       || to_char(sum(connection_count), 'FM999,999,999') || ' connections closed'
       || coalesce('; of the bytes, ' || pg_size_pretty(sum(src_bytes + dst_bytes)
                   FILTER (WHERE proto = '0' AND port = -1)) || ' in rows summed as one (-max-rows)', '')
FROM vpn_traffic;
