-- The group masks in use, with the time of each gateway's: as people write them after an address, and nothing after a host.
-- `csv`: some rows came from CSV files, which do not say their masks.
, used AS (
    SELECT gateway, src_mask, dst_mask, src_mask6, dst_mask6, min(interval_end - interval_length) AS first,
           max(interval_end) AS last
    FROM plan, asked, import_ledger
    WHERE interval_end > plan.lower AND interval_end <= plan.upper AND (gateways IS NULL OR gateway = ANY (gateways))
    GROUP BY gateway, src_mask, dst_mask, src_mask6, dst_mask6
), contiguous AS (
    SELECT host(netmask(set_masklen(none, length))) AS mask, CASE WHEN length = hosts THEN '' ELSE '/' || length END AS suffix
    FROM (VALUES (inet '0.0.0.0', 32), (inet '::', 128)) AS families (none, hosts), generate_series(0, hosts) AS length
)
SELECT json_build_object(
    'csv', EXISTS (SELECT FROM traffic_covered, plan, asked
                   WHERE covered IS NULL AND time > plan.lower AND time < plan.upper + interval '30 min'
                     AND (gateways IS NULL OR gateway = ANY (gateways))),
    'masks', coalesce((
        SELECT json_agg(json_build_array(
            gateway, round(extract(epoch FROM first) * 1000), round(extract(epoch FROM last) * 1000),
            (SELECT json_agg(coalesce(suffix, '/' || host(each)) ORDER BY number)
             FROM unnest(ARRAY[src_mask, dst_mask, src_mask6, dst_mask6]) WITH ORDINALITY AS masks (each, number)
             LEFT JOIN contiguous ON mask = host(each)))
            ORDER BY gateway, first, last)
        FROM used), '[]'))
