-- The range that the database has data of, in milliseconds since the epoch.
SELECT round(extract(epoch FROM ends.first - coalesce(
           (SELECT max(interval_length) FROM import_ledger WHERE interval_end = ends.first), '15 s')) * 1000),
       round(extract(epoch FROM ends.last) * 1000)
FROM (SELECT min(time) AS first,
             -- An interval without traffic has no rows.
             greatest(max(time), (SELECT max(interval_end) FROM import_ledger)) AS last
      FROM traffic_total) AS ends
