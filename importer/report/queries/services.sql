-- The services whose answered share fell: in the range's last quarter it is at least 20 percentage points lower than before,
-- and at least 20 flows ended in each part. First those with most flows that would have been answered before.
, quarter AS (
    SELECT last.lower
    FROM plan, asked,
         traffic_make_plan(plan.upper - (plan.upper - plan.lower) / 4, plan.upper, NULL, columns, gateways, srcs, dsts,
                           protos, ports,
                 src_names => src_names, dst_names => dst_names) AS last
), split AS (
    -- Whole steps of both parts' rollups: nothing is in both.
    SELECT before.upper AS moment
    FROM plan, asked, quarter,
         traffic_make_plan(plan.lower, greatest(quarter.lower, plan.lower + interval '1 us'), NULL, columns, gateways, srcs,
                           dsts, protos, ports,
                 src_names => src_names, dst_names => dst_names) AS before
), before AS (
    SELECT part.*
    FROM plan, asked, split, traffic(plan.lower, moment, NULL, columns, gateways, srcs, dsts, protos, ports,
                 src_names => src_names, dst_names => dst_names) AS part
    WHERE flow_count >= 20
), last AS (
    SELECT part.*
    FROM plan, asked, split, traffic(moment, plan.upper, NULL, columns, gateways, srcs, dsts, protos, ports,
                 src_names => src_names, dst_names => dst_names) AS part
), fallen AS (
    SELECT dst, proto, port, before.flow_count AS flows_before, before.unanswered_count AS unanswered_before,
           last.flow_count AS flows_last, last.unanswered_count AS unanswered_last,
           last.unanswered_count - last.flow_count * before.unanswered_count / before.flow_count AS more_unanswered
    FROM before JOIN last USING (dst, proto, port)
    WHERE last.flow_count >= 20 AND dst <> ALL ('{0.0.0.0,::}')
      -- Whole numbers: 20 points are not a little less by rounding.
      AND 100 * (last.unanswered_count * before.flow_count - before.unanswered_count * last.flow_count)
          >= 20 * last.flow_count * before.flow_count
)
SELECT json_build_object(
    'from', from_ms, 'to', to_ms,
    'split', (SELECT round(extract(epoch FROM moment) * 1000) FROM split WHERE moment < plan.upper),
    'unlisted', (SELECT coalesce(max(unlisted_bytes), 0) > 0 FROM last), 'count', (SELECT count(*) FROM fallen),
    'services', coalesce((
        SELECT json_agg(json_build_array(host(dst), CASE WHEN port = -1 THEN proto || '/other' WHEN port = 0 THEN proto
                                                         ELSE proto || '/' || port END,
                                         flows_before, unanswered_before, flows_last, unanswered_last)
                        ORDER BY more_unanswered DESC, dst, proto, port)
        FROM (SELECT * FROM fallen ORDER BY more_unanswered DESC, dst, proto, port LIMIT (SELECT top FROM asked)) AS shown), '[]'))
FROM plan, asked
