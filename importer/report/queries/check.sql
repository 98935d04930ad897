-- Follows expected.sql: is anything missing, where, since when? One line of text each, and whether something is.
, newest AS (
    -- The newest of each gateway.
    SELECT gateway, began, ended, text, row_number() OVER (PARTITION BY gateway ORDER BY ended DESC, began DESC, text) AS place
    FROM troubles
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
