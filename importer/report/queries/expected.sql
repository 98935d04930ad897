-- Follows common.sql: what each gateway has sent in the range, and what is missing. Of the filters only the gateway's applies.
, quality AS MATERIALIZED (
    SELECT expected.* FROM plan, asked, traffic_expected(plan.lower, plan.upper, gateways) AS expected
), retired AS (
    -- Silent for longer: only named.
    SELECT gateway, max(time) AS newest FROM traffic_covered, asked
    WHERE covered IS NOT NULL AND time <= upper AND (gateways IS NULL OR gateway = ANY (gateways))
      AND NOT EXISTS (SELECT FROM quality WHERE quality.gateway = traffic_covered.gateway)
    GROUP BY gateway
)
