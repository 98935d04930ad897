-- What each question that has parameters begins with; a comma and more of this WITH follow, or its SELECT.
-- The expressions that it does not use cost nothing.
WITH asked AS (
    SELECT $1::timestamptz AS lower, $2::timestamptz AS upper, $3::text[] AS gateways, $4::inet[] AS srcs,
           $5::inet[] AS dsts, $6::text[] AS protos, $7::integer[] AS ports, $8::integer AS top,
           $9::interval AS step, $10::text[] AS columns, $11::text[] AS src_names,
           $12::text[] AS dst_names, $13::json AS listed
), plan AS (
    -- The range whose sums traffic() returns, also as the page counts: in milliseconds since the epoch.
    SELECT plan.lower, plan.upper, plan.width, round(extract(epoch FROM plan.lower) * 1000) AS from_ms,
           round(extract(epoch FROM plan.upper) * 1000) AS to_ms, round(extract(epoch FROM plan.width) * 1000) AS width_ms,
           -- The ends of points that are days or months: these are not all of one length.
           CASE WHEN step >= interval '1 day' THEN (
               SELECT json_agg(round(extract(epoch FROM point) * 1000) ORDER BY point)
               FROM generate_series(plan.upper, plan.lower + interval '1 us', -step) AS point) END AS ends
    FROM asked,
         traffic_make_plan(asked.lower, asked.upper, step, columns, gateways, srcs, dsts, protos, ports, src_names, dst_names) AS plan
), points AS (
    SELECT point.*
    FROM asked, traffic(asked.lower, asked.upper, step, columns, gateways, srcs, dsts, protos, ports,
                        src_names => src_names, dst_names => dst_names) AS point
), keyed AS (
    -- With what the page calls an origin, a destination, and a protocol with its port; NULL without its columns.
    SELECT coalesce(src_name, host(src)) AS origin, coalesce(dst_name, host(dst)) AS destination,
           CASE WHEN proto = '0' AND port = -1 THEN '(folded by -max-rows)'
                WHEN port = -1 THEN proto || '/other'
                WHEN port = 0 THEN proto
                ELSE proto || '/' || port END AS service, points.*
    FROM points
)
