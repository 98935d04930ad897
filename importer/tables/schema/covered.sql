-- How much of the time was observed, so that a rate over weeks need not read the ledger.

CREATE TABLE traffic_covered (
    time timestamptz NOT NULL,
    covered interval,
    gateway text NOT NULL,
    PRIMARY KEY (time, gateway)
);
COMMENT ON TABLE traffic_covered IS
    'How much of each half hour a gateway''s engine observed, for traffic(). Of single intervals: traffic_intervals.';
COMMENT ON COLUMN traffic_covered.time IS 'End of the half hour. An interval belongs to the one in which it ends.';
COMMENT ON COLUMN traffic_covered.covered IS 'NULL: unknown, since some rows came from CSV files.';

-- Adds covered time. Every array has one element for each key; keys are sorted, so importers cannot deadlock. -1: unknown,
-- and so is the sum.
CREATE FUNCTION traffic_add_covered(half_hours timestamptz[], gateways text[], microseconds bigint[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET datestyle = 'ISO'
SET intervalstyle = 'postgres' AS $$
BEGIN
    IF -1 > ANY (microseconds) THEN
        RAISE EXCEPTION 'a covered time is negative' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    INSERT INTO @extschema@.traffic_covered AS held (time, gateway, covered)
    SELECT time, gateway, nullif(each, -1) * interval '1 us' FROM unnest(half_hours, gateways, microseconds) AS new (time, gateway, each)
    ON CONFLICT (time, gateway) DO UPDATE SET covered = held.covered + excluded.covered;
END $$;
REVOKE ALL ON FUNCTION traffic_add_covered FROM PUBLIC;
