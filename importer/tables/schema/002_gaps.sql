-- Version 2: gaps. Which points of vpn_traffic are not the whole truth, why, and by how much.

ALTER TABLE import_ledger ADD COLUMN flows_lost bigint NOT NULL DEFAULT 0;

-- For traffic_intervals: an hour out of a season without reading the season.
CREATE INDEX import_ledger_interval ON import_ledger (interval_end, gateway) WHERE interval_end IS NOT NULL;
-- For traffic_gap_regions: the few that are not complete.
CREATE INDEX import_ledger_incomplete ON import_ledger (interval_end) WHERE completeness <> 'complete';

CREATE TABLE traffic_gaps (
    began timestamptz NOT NULL,
    ended timestamptz NOT NULL CHECK (ended >= began),
    events_dropped bigint NOT NULL,
    flows_lost bigint NOT NULL,
    interval_end timestamptz NOT NULL,
    engine uuid NOT NULL,
    sequence bigint NOT NULL,
    number integer NOT NULL,
    cause text NOT NULL CHECK (cause IN ('overrun', 'allocation', 'restart')),
    completeness text NOT NULL CHECK (completeness IN ('resynced', 'partial')),
    gateway text NOT NULL,
    PRIMARY KEY (engine, sequence, number)
);

CREATE INDEX traffic_gaps_ended ON traffic_gaps (ended, began);

CREATE VIEW traffic_intervals AS
SELECT gateway,
       interval_end AS time,
       max(interval_length) AS interval_length,
       CASE WHEN bool_or(completeness = 'partial') THEN 'partial'
            WHEN bool_or(completeness = 'resynced') THEN 'resynced'
            ELSE 'complete' END AS completeness,
       sum(events_dropped) AS events_dropped,
       sum(flows_lost) AS flows_lost,
       sum(row_count) AS row_count
FROM import_ledger
WHERE interval_end IS NOT NULL
GROUP BY gateway, interval_end;

CREATE VIEW traffic_gap_regions AS
SELECT gateway, began, ended,
       cause || ', ' || completeness || ': ' || events_dropped || ' events dropped, ' || flows_lost || ' flows lost'
         AS text
FROM traffic_gaps
UNION ALL
SELECT gateway, interval_end - interval_length, interval_end, completeness || ': ' || events_dropped || ' events dropped'
FROM import_ledger AS file
WHERE completeness <> 'complete'
  AND NOT EXISTS (SELECT FROM traffic_gaps AS gap WHERE gap.engine = file.engine AND gap.sequence = file.sequence);

COMMENT ON TABLE ctacct_schema IS 'Versions of the schema that the importer has applied.';

COMMENT ON TABLE vpn_traffic IS
    'What moved between two masked peers within one interval. How far a point is to be believed: traffic_intervals.';
COMMENT ON COLUMN vpn_traffic.time IS 'End of the interval.';
COMMENT ON COLUMN vpn_traffic.src IS 'Who opened the connection, masked.';
COMMENT ON COLUMN vpn_traffic.dst IS 'To whom, masked.';
COMMENT ON COLUMN vpn_traffic.port IS 'Destination port; -1: not on the port list; 0: the protocol has none.';
COMMENT ON COLUMN vpn_traffic.src_packets IS 'Packets in the original direction; dst_packets: replies. Bytes likewise.';
COMMENT ON COLUMN vpn_traffic.connection_count IS 'Connections closed within the interval (TCP, DCCP, SCTP).';
COMMENT ON COLUMN vpn_traffic.connection_times IS 'Sum of their durations, milliseconds.';
COMMENT ON COLUMN vpn_traffic.open_connections IS 'Connections open at the interval''s end; 0 where it was not tracked.';

COMMENT ON TABLE import_ledger IS
    'One row for each file whose rows are in vpn_traffic, written in the same transaction as they are.';
COMMENT ON COLUMN import_ledger.engine IS 'Run of the engine; for CSV files made of a hash of gateway and contents.';
COMMENT ON COLUMN import_ledger.sequence IS 'Number of the file within that run; 0 for CSV files.';
COMMENT ON COLUMN import_ledger.interval_end IS 'NULL for CSV files, which do not say; so the next two.';
COMMENT ON COLUMN import_ledger.completeness IS
    'complete; resynced: totals of living flows are right, connection counts may lack; partial: traffic is missing.';
COMMENT ON COLUMN import_ledger.events_dropped IS 'By the kernel, within the interval.';
COMMENT ON COLUMN import_ledger.flows_lost IS 'Sum over the file''s gaps.';
COMMENT ON COLUMN import_ledger.source_file IS 'The file''s name, unusual bytes escaped.';

COMMENT ON TABLE traffic_gaps IS
    'Stretches of time in which something may have moved that no row of vpn_traffic tells. One row for each gap and file '
    'that tells of it; counts add up. Gaps of an hour: WHERE ended >= its beginning AND began <= its end.';
COMMENT ON COLUMN traffic_gaps.began IS 'The last moment before which nothing can have been lost.';
COMMENT ON COLUMN traffic_gaps.ended IS 'The first moment after which nothing was.';
COMMENT ON COLUMN traffic_gaps.cause IS
    'overrun: a receive buffer was full; allocation: the kernel had no memory for events; restart: no engine ran.';
COMMENT ON COLUMN traffic_gaps.completeness IS
    'resynced: totals of living flows are right, connection counts may lack; partial: traffic is missing.';
COMMENT ON COLUMN traffic_gaps.events_dropped IS 'By the kernel, exact; 0 also where it is not known.';
COMMENT ON COLUMN traffic_gaps.flows_lost IS 'Flows that lived before and not after, whose last traffic nobody told.';
COMMENT ON COLUMN traffic_gaps.interval_end IS 'Time of the rows in the file that tells of the gap.';
COMMENT ON COLUMN traffic_gaps.sequence IS 'With engine, the file: import_ledger.';
COMMENT ON COLUMN traffic_gaps.number IS 'Within the file, from 1.';

COMMENT ON VIEW traffic_intervals IS
    'One row for each interval of a gateway whose rows are in vpn_traffic: how far they are to be believed. Joins with '
    'vpn_traffic on (gateway, time). An interval without traffic and without gaps has no file, so no row here.';
COMMENT ON COLUMN traffic_intervals.completeness IS 'The worst of the interval''s files; as in import_ledger.';
COMMENT ON COLUMN traffic_intervals.events_dropped IS 'Sum over the interval''s files; so flows_lost and row_count.';

COMMENT ON VIEW traffic_gap_regions IS
    'For a dashboard to shade: SELECT began AS time, ended AS timeend, text FROM traffic_gap_regions '
    'WHERE ended >= $__timeFrom() AND began <= $__timeTo(). Gaps, and incomplete intervals of files that tell none.';
