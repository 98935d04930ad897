-- Follows expected.sql: is anything missing, where, since when? One line of text each, and whether something is.
, newest AS (
    -- The newest stretches of each gateway: holes, and what is known of intervals that are not complete.
    SELECT gateway, began, ended, text, row_number() OVER (PARTITION BY gateway ORDER BY ended DESC, began DESC, text) AS place
    FROM (SELECT gateway, lower(hole) AS began, upper(hole) AS ended,
                 CASE WHEN upper(hole) - lower(hole) < interval_length
                      THEN format('%s s of an interval not observed: a file is missing, or no engine was running',
                                  round(extract(epoch FROM upper(hole) - lower(hole)), 1))
                      ELSE format('no intervals (%s)', floor(extract(epoch FROM upper(hole) - lower(hole)) / extract(epoch FROM interval_length)))
                 END AS text
          FROM quality, unnest(holes) AS hole
          UNION ALL
          SELECT gateway, min(time) - max(length), max(time), 'observed twice: two engines have this name, and what both see counts twice'
          FROM (SELECT file.gateway, interval_end AS time, max(interval_length) AS length
                FROM asked, import_ledger AS file
                WHERE interval_end > asked.lower AND interval_end <= asked.upper AND (gateways IS NULL OR file.gateway = ANY (gateways))
                GROUP BY file.gateway, interval_end
                HAVING count(*) > 1 AND sum(covered_to - covered_from) - (max(covered_to) - min(covered_from)) > max(interval_length) / 2) AS twice
          GROUP BY gateway
          UNION ALL
          SELECT DISTINCT gateway, began, ended, text
          FROM plan, asked, traffic_gap_regions
          WHERE ended >= plan.lower AND began <= plan.upper AND (gateways IS NULL OR gateway = ANY (gateways))) AS found
), lines (part, gateway, line, wrong, text) AS (
    SELECT 1, gateway, 0, missing + partial + resynced > 0,
           format('%s: %s; newest %s', gateway,
                  CASE WHEN missing + partial + resynced = 0 THEN format('complete, %s intervals', intervals)
                       ELSE concat_ws(', ', CASE WHEN silent_from IS NOT NULL THEN 'silent since ' || newest END,
                                CASE WHEN missing > 0 THEN format('%s of %s intervals missing', missing, expected) END,
                                CASE WHEN partial > 0 THEN partial || ' partial' END,
                                CASE WHEN resynced > 0 THEN resynced || ' resynced' END) END,
                  newest)
    FROM quality
    UNION ALL
    SELECT 1, gateway, place, true, format('    %s to %s: %s', date_trunc('second', began), date_trunc('second', ended), text) FROM newest WHERE place <= 3
    UNION ALL
    SELECT 1, gateway, 4, true, format('    and %s more before', count(*) - 3) FROM newest GROUP BY gateway HAVING count(*) > 3
    UNION ALL
    SELECT 2, gateway, 0, false, format('%s: not expected, it has sent nothing for a week before; newest about %s', gateway, newest)
    FROM retired
    UNION ALL
    -- Who was asked for by name.
    SELECT 1, name, 0, true, format('%s: no interval known', name)
    FROM asked, unnest(gateways) AS name WHERE NOT EXISTS (SELECT FROM quality WHERE gateway = name)
    UNION ALL
    SELECT 0, '', 0, true, 'No gateway has sent an interval in this range or in the week before it.'
    FROM asked WHERE gateways IS NULL AND NOT EXISTS (SELECT FROM quality)
)
SELECT text, wrong FROM lines ORDER BY part, gateway, line
