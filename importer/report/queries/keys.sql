-- How many keys of the largest rollup cross.sql would read, counted up to $4.
SELECT count(*)
FROM (SELECT FROM traffic_pair_port_1h
      WHERE time > $1 AND time < $2::timestamptz + interval '1 h' AND ($3::text[] IS NULL OR gateway = ANY ($3))
      LIMIT $4) AS keys
