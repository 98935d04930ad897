-- Follows common.sql: what each gateway has sent in the range, what is missing, and why. Of the filters only the gateway's applies.
, quality AS MATERIALIZED (
    SELECT expected.* FROM plan, asked, traffic_expected(plan.lower, plan.upper, gateways) AS expected
), retired AS (
    -- Silent for longer: only named.
    SELECT gateway, max(time) AS newest FROM traffic_covered, asked
    WHERE covered IS NOT NULL AND time <= upper AND (gateways IS NULL OR gateway = ANY (gateways))
      AND NOT EXISTS (SELECT FROM quality WHERE quality.gateway = traffic_covered.gateway)
    GROUP BY gateway
), troubles AS MATERIALIZED (
    -- Stretches: holes, and what is known of intervals that are not complete.
    SELECT gateway, lower(hole) AS began, upper(hole) AS ended,
           CASE WHEN upper(hole) - lower(hole) < interval_length
                THEN format('%s s of an interval not observed: a file is missing, or no engine was running',
                            round(extract(epoch FROM upper(hole) - lower(hole)), 1))
                ELSE format('no intervals (%s)', floor(extract(epoch FROM upper(hole) - lower(hole)) / extract(epoch FROM interval_length)))
           END AS text
    FROM quality, unnest(holes) AS hole
    UNION ALL
    SELECT gateway, min(time) - max(length), max(time), 'observed twice: two engines have this name, and what both see counts twice'
    FROM (SELECT file.gateway, interval_end AS time, max(interval_length) AS length
          FROM asked, import_ledger AS file
          WHERE interval_end > asked.lower AND interval_end <= asked.upper AND (gateways IS NULL OR file.gateway = ANY (gateways))
          GROUP BY file.gateway, interval_end
          HAVING count(*) > 1 AND sum(covered_to - covered_from) - (max(covered_to) - min(covered_from)) > max(interval_length) / 2) AS twice
    GROUP BY gateway
    UNION ALL
    SELECT DISTINCT gateway, began, ended, text
    FROM plan, asked, traffic_gap_regions
    WHERE ended >= plan.lower AND began <= plan.upper AND (gateways IS NULL OR gateway = ANY (gateways))
)
