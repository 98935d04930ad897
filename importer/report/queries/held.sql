-- The range that the database has data of, in milliseconds since the epoch. Materialized: a Citus coordinator cannot
-- join the sums, which its workers have, with the ledger in one step.
WITH ends AS MATERIALIZED (SELECT min(time) AS first, max(time) AS last FROM traffic_total)
SELECT round(extract(epoch FROM ends.first - coalesce(
           (SELECT max(interval_length) FROM import_ledger WHERE interval_end = ends.first), '15 s')) * 1000),
       -- An interval without traffic has no rows.
       round(extract(epoch FROM greatest(ends.last, (SELECT max(interval_end) FROM import_ledger))) * 1000)
FROM ends
