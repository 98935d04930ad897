-- Follows common.sql: the rows themselves. Parameters, not `asked`: partitions and index are chosen by them. OFFSET 0: on
-- Citus the workers find the rows, and the coordinator, which has the names, does the rest.
, held AS NOT MATERIALIZED (
    SELECT * FROM vpn_traffic
    WHERE time > $1::timestamptz AND time <= $2::timestamptz AND ($3::text[] IS NULL OR gateway = ANY ($3::text[]))
      -- The index finds origins between two addresses, not within networks.
      AND ($4::inet[] IS NULL OR src <<= ANY ($4::inet[])
           AND src >= (SELECT min(network(each)) FROM unnest($4::inet[]) AS each)
           AND src <= (SELECT max(host(broadcast(each))::inet) FROM unnest($4::inet[]) AS each))
      AND ($5::inet[] IS NULL OR dst <<= ANY ($5::inet[]))
      AND ($6::text[] IS NULL OR proto = ANY ($6::text[])) AND ($7::integer[] IS NULL OR port = ANY ($7::integer[]))
    OFFSET 0
), found AS (
    SELECT *, traffic_name(gateway, src, time) AS src_name, traffic_name(gateway, dst, time) AS dst_name FROM held
)
SELECT time, gateway, host(src) AS src, src_name, host(dst) AS dst, dst_name, proto, port, src_bytes, dst_bytes, src_packets,
       dst_packets, connection_count, connection_times, open_connections, flow_count, unanswered_count
FROM found
WHERE ($11::text[] IS NULL OR coalesce(src_name, host(src)) = ANY ($11::text[]))
  AND ($12::text[] IS NULL OR coalesce(dst_name, host(dst)) = ANY ($12::text[]))
ORDER BY time, src_bytes + dst_bytes DESC, gateway, src, dst, proto, port
LIMIT 1000001
