-- Gaps: which intervals are incomplete, why, and by how much.

CREATE TABLE traffic_gaps (
    began timestamptz NOT NULL,
    ended timestamptz NOT NULL CHECK (ended >= began),
    events_dropped bigint NOT NULL,
    flows_lost bigint NOT NULL,
    interval_end timestamptz NOT NULL,
    engine uuid NOT NULL,
    sequence bigint NOT NULL,
    number integer NOT NULL,
    cause text NOT NULL CHECK (cause IN ('overrun', 'allocation', 'restart', 'unreported', 'settings', 'renamed')),
    completeness text NOT NULL CHECK (completeness IN ('resynced', 'partial')),
    gateway text NOT NULL,
    PRIMARY KEY (engine, sequence, number)
);
COMMENT ON TABLE traffic_gaps IS
    'Stretches of time in which some traffic may not be recorded. One row for each gap and file that reports it; counts '
    'add up. Gaps of an hour: WHERE ended >= its beginning AND began <= its end.';
COMMENT ON COLUMN traffic_gaps.began IS 'The last moment known to be before the loss.';
COMMENT ON COLUMN traffic_gaps.ended IS 'The first moment known to be after the loss.';
COMMENT ON COLUMN traffic_gaps.cause IS
    'overrun: a receive buffer was full; allocation: the kernel had no memory for events; restart: no engine ran; '
    'unreported: the kernel did not report the end of flows; settings: nf_conntrack_acct, nf_conntrack_events or '
    'nf_conntrack_timestamp was off, or flows had no counters; renamed: the gateway was given another name.';
COMMENT ON COLUMN traffic_gaps.completeness IS
    'resynced: packets and bytes are exact, some closes may be missing; partial: some traffic may be missing.';
COMMENT ON COLUMN traffic_gaps.events_dropped IS 'Events that the kernel dropped, exact; 0 also if it is not known.';
COMMENT ON COLUMN traffic_gaps.flows_lost IS
    'Flows that ended in the gap and whose last traffic was not reported. A lower bound.';
COMMENT ON COLUMN traffic_gaps.interval_end IS 'Time of the rows in the file that reports the gap.';
COMMENT ON COLUMN traffic_gaps.sequence IS 'With engine, the file: import_ledger.';
COMMENT ON COLUMN traffic_gaps.number IS 'Within the file, from 1.';

CREATE INDEX traffic_gaps_ended ON traffic_gaps (ended, began);

CREATE VIEW traffic_intervals AS
SELECT gateway,
       interval_end AS time,
       max(interval_length) AS interval_length,
       sum(covered_to - covered_from) AS covered,
       CASE WHEN bool_or(completeness = 'partial') THEN 'partial'
            WHEN bool_or(completeness = 'resynced') THEN 'resynced'
            ELSE 'complete' END AS completeness,
       sum(events_dropped) AS events_dropped,
       sum(flows_lost) AS flows_lost,
       sum(row_count) AS row_count,
       CASE WHEN min(src_mask) = max(src_mask) THEN min(src_mask) END AS src_mask,
       CASE WHEN min(dst_mask) = max(dst_mask) THEN min(dst_mask) END AS dst_mask,
       CASE WHEN min(src_mask6) = max(src_mask6) THEN min(src_mask6) END AS src_mask6,
       CASE WHEN min(dst_mask6) = max(dst_mask6) THEN min(dst_mask6) END AS dst_mask6
FROM import_ledger
WHERE interval_end IS NOT NULL
GROUP BY gateway, interval_end;
COMMENT ON VIEW traffic_intervals IS
    'The data quality of each interval of a gateway. Joins with vpn_traffic on (gateway, time). Every interval of an '
    'engine that writes spool files is here, also without traffic: if one is missing, no engine ran or its file is not '
    'imported yet.';
COMMENT ON COLUMN traffic_intervals.covered IS
    'How much of the interval was observed, by all runs of the engine together. Rates are over this time.';
COMMENT ON COLUMN traffic_intervals.completeness IS 'The worst of the interval''s files; as in import_ledger.';
COMMENT ON COLUMN traffic_intervals.events_dropped IS
    'Sum over the interval''s files, like flows_lost and row_count.';
COMMENT ON COLUMN traffic_intervals.src_mask IS
    'The group mask of src for IPv4, as in import_ledger, like dst_mask, src_mask6 and dst_mask6. NULL: it was changed within '
    'the interval, whose rows are of both masks.';
COMMENT ON COLUMN traffic_intervals.flows_lost IS 'A lower bound.';

CREATE VIEW traffic_gap_regions AS
SELECT gateway, began, ended,
       cause || ', ' || completeness || ': ' || events_dropped || ' events dropped' ||
         CASE WHEN flows_lost > 0 THEN ', at least ' || flows_lost || ' flows lost' ELSE '' END AS text
FROM traffic_gaps
UNION ALL
SELECT gateway, interval_end - interval_length, interval_end, completeness || ': ' || events_dropped || ' events dropped'
FROM import_ledger AS file
WHERE completeness <> 'complete'
  AND NOT EXISTS (SELECT FROM traffic_gaps AS gap WHERE gap.engine = file.engine AND gap.sequence = file.sequence);
COMMENT ON VIEW traffic_gap_regions IS
    'For a dashboard to shade: SELECT began AS time, ended AS timeend, text FROM traffic_gap_regions '
    'WHERE ended >= $__timeFrom() AND began <= $__timeTo(). Gaps, and incomplete intervals of files that report no gap.';
