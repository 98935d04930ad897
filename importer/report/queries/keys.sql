-- How many keys of the largest rollup cross.sql would read, counted up to $3. Those of all gateways: the index does not help
-- to find those of one.
SELECT count(*)
FROM (SELECT 1 FROM traffic_pair_port_1h
      WHERE time > $1 AND time < $2::timestamptz + interval '1 h'
      LIMIT $3) AS keys
