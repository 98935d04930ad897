-- Version 1. Run by the importer in one transaction, under its advisory lock.

-- Columns of eight bytes first, then of four, then those of variable length: no padding between them. About 120 bytes a
-- row, of which 28 are PostgreSQL's own.
CREATE TABLE vpn_traffic (
    time timestamptz NOT NULL,                    -- End of the interval.
    src_packets bigint NOT NULL,                  -- Original direction; dst_*: replies.
    src_bytes bigint NOT NULL,
    dst_packets bigint NOT NULL,
    dst_bytes bigint NOT NULL,
    connection_times bigint NOT NULL,             -- Milliseconds.
    connection_count integer NOT NULL DEFAULT 0,  -- Closed within the interval.
    open_connections integer NOT NULL DEFAULT 0,  -- Open at its end.
    port integer NOT NULL,                        -- -1: not on the port list.
    src inet NOT NULL,
    dst inet NOT NULL,
    proto text NOT NULL,
    gateway text NOT NULL DEFAULT ''
);

-- Rows arrive in the order of time, so block ranges find an interval; btrees would cost more than the rows.
CREATE INDEX vpn_traffic_time ON vpn_traffic USING brin (time);

-- One row for each file whose rows are in vpn_traffic. It is written in the same transaction as they are: what is here
-- is loaded, what is not here is not.
CREATE TABLE import_ledger (
    engine uuid NOT NULL,                -- Run of the engine; for CSV files made of a hash of gateway and contents.
    sequence bigint NOT NULL,            -- Within that run; 0 for CSV files.
    checksum bigint NOT NULL,            -- 64 bits, as a signed number.
    row_count bigint NOT NULL,
    interval_end timestamptz,            -- This and the next two: NULL for CSV files, which do not say.
    interval_length interval,
    completeness text CHECK (completeness IN ('complete', 'resynced', 'partial')),
    events_dropped bigint NOT NULL DEFAULT 0,
    imported_at timestamptz NOT NULL DEFAULT now(),
    gateway text NOT NULL,
    source_file text NOT NULL,           -- Its name, unusual bytes escaped.
    PRIMARY KEY (engine, sequence)
);
