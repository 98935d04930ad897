-- The origins with most unanswered flows, and over how many destinations. Of what -max-rows or a rollup's room folded only
-- the flows are known: each may have gone to another destination. Filters may leave them out: then `folded` is null.
, origins AS MATERIALIZED (
    SELECT origin.src, origin.flow_count, origin.unanswered_count
    FROM plan, asked, traffic(plan.lower, plan.upper, NULL, '{src}', gateways, srcs, dsts, protos, ports,
                 src_names => src_names, dst_names => dst_names) AS origin
    WHERE unanswered_count > 0
), five AS MATERIALIZED (
    SELECT * FROM origins WHERE src <> ALL ('{0.0.0.0,::}') ORDER BY unanswered_count DESC, src LIMIT 5
), destinations AS (
    SELECT pair.src, count(*) FILTER (WHERE dst <> ALL ('{0.0.0.0,::}')) AS listed,
           coalesce(sum(unanswered_count) FILTER (WHERE dst = ANY ('{0.0.0.0,::}')), 0) AS folded
    FROM plan, asked,
         traffic(plan.lower, plan.upper, NULL, '{src,dst}', gateways,
                 coalesce((SELECT array_agg(src) FROM five), '{}'), dsts, protos, ports,
                 src_names => src_names, dst_names => dst_names) AS pair
    WHERE unanswered_count > 0
    GROUP BY pair.src
)
SELECT json_build_object(
    'from', from_ms, 'to', to_ms, 'count', (SELECT count(*) FROM origins),
    'no_origin', (SELECT coalesce(sum(unanswered_count), 0) FROM origins WHERE src = ANY ('{0.0.0.0,::}')),
    'origins', coalesce((
        SELECT json_agg(json_build_array(host(src), flow_count, unanswered_count, coalesce(listed, 0),
                                         CASE WHEN coalesce(dsts::text, protos::text, ports::text, dst_names::text) IS NULL
                                              THEN coalesce(folded, 0) END)
                        ORDER BY unanswered_count DESC, src)
        FROM five LEFT JOIN destinations USING (src)), '[]'))
FROM plan, asked
