-- Follows expected.sql: the newest gaps, and stretches without intervals.
, newest AS (
    SELECT * FROM troubles ORDER BY ended DESC, began DESC, gateway, text LIMIT 500
)
SELECT json_build_object('count', (SELECT count(*) FROM troubles), 'gaps', coalesce((
    SELECT json_agg(json_build_array(gateway, round(extract(epoch FROM began) * 1000),
                                     round(extract(epoch FROM ended) * 1000), text)
                    ORDER BY began, ended, gateway, text)
    FROM newest), '[]'))
