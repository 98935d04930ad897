-- The newest gaps. The filters do not apply, but for the gateway's.
, found AS (
    SELECT DISTINCT gateway, began, ended, text
    FROM plan, asked, traffic_gap_regions
    WHERE ended >= plan.lower AND began <= plan.upper AND (gateways IS NULL OR gateway = ANY (gateways))
), newest AS (
    SELECT * FROM found ORDER BY ended DESC, began DESC, gateway, text LIMIT 500
)
SELECT json_build_object('count', (SELECT count(*) FROM found), 'gaps', coalesce((
    SELECT json_agg(json_build_array(gateway, round(extract(epoch FROM began) * 1000),
                                     round(extract(epoch FROM ended) * 1000), text)
                    ORDER BY began, ended, gateway, text)
    FROM newest), '[]'))
