-- What each question that has parameters begins with; it goes on with a comma and more of this WITH, or with its SELECT.
-- The expressions that it does not use cost nothing.
WITH asked AS (
    SELECT $1::timestamptz AS lower, $2::timestamptz AS upper, $3::text[] AS gateways, $4::inet[] AS srcs,
           $5::inet[] AS dsts, $6::text[] AS protos, $7::integer[] AS ports, $8::integer AS top,
           make_interval(secs => $9::double precision) AS step, $10::text[] AS columns
), plan AS (
    -- The range whose sums traffic() returns, also as the page counts: in milliseconds since the epoch.
    SELECT plan.lower, plan.upper, round(extract(epoch FROM plan.lower) * 1000) AS from_ms,
           round(extract(epoch FROM plan.upper) * 1000) AS to_ms, round(extract(epoch FROM plan.width) * 1000) AS width_ms
    FROM asked,
         traffic_make_plan(asked.lower, asked.upper, step, columns, gateways, srcs, dsts, protos, ports) AS plan
), points AS (
    SELECT point.*
    FROM asked, traffic(asked.lower, asked.upper, step, columns, gateways, srcs, dsts, protos, ports) AS point
)
