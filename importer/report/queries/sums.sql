-- Follows common.sql: one sum for each key, the largest first, all others as one. The report puts in the words
-- between @.
, summed AS (
    SELECT @KEYS@, sum(src_bytes) AS src_bytes, sum(dst_bytes) AS dst_bytes, sum(src_packets) AS src_packets,
           sum(dst_packets) AS dst_packets, sum(connection_count) AS connection_count,
           sum(connection_times) AS connection_times, sum(flow_count) AS flow_count,
           sum(unanswered_count) AS unanswered_count, sum(unlisted_bytes) AS unlisted_bytes, bool_or(coarse) AS coarse, @ADDRESSES@ AS addresses
    FROM points GROUP BY @GROUPED@
), ranked AS (
    SELECT row_number() OVER (ORDER BY src_bytes + dst_bytes DESC, @NAMES@) AS place, * FROM summed
), shown AS (
    SELECT place, @NAMES@, addresses, src_bytes, dst_bytes, src_packets, dst_packets, connection_count, connection_times,
           flow_count, unanswered_count, unlisted_bytes, coarse
    FROM ranked, asked WHERE place <= top AND src_bytes + dst_bytes > @OVER@
    UNION ALL
    SELECT max(place), @OTHERS@, NULL, sum(src_bytes), sum(dst_bytes), sum(src_packets), sum(dst_packets),
           sum(connection_count), sum(connection_times), sum(flow_count), sum(unanswered_count), sum(unlisted_bytes), bool_or(coarse)
    FROM ranked, asked WHERE place > top AND @OVER@ < 0 HAVING count(*) > 0
)
SELECT plan.lower AS began, plan.upper AS ended, @NAMES@, @ADDRESS_COLUMN@ (src_bytes + dst_bytes)::bigint AS bytes,
       src_bytes::bigint AS src_bytes, dst_bytes::bigint AS dst_bytes, src_packets::bigint AS src_packets,
       dst_packets::bigint AS dst_packets, connection_count::bigint AS connection_count,
       connection_times::bigint AS connection_times, flow_count::bigint AS flow_count,
       unanswered_count::bigint AS unanswered_count, unlisted_bytes::bigint AS unlisted_bytes, coarse
FROM shown, plan ORDER BY place
