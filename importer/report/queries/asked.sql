-- What the report is of.
SELECT json_build_object(
    'from', round(extract(epoch FROM lower) * 1000), 'to', round(extract(epoch FROM upper) * 1000), 'gateways', gateways,
    'srcs', (SELECT json_agg(src) FROM unnest(srcs) AS src),
    'dsts', (SELECT json_agg(dst) FROM unnest(dsts) AS dst), 'protos', protos, 'ports', ports, 'names', columns <> '{}', 'src_names', src_names, 'dst_names', dst_names,
    'top', top, 'zone', current_setting('TimeZone'),
    'server', current_setting('server_version'))
FROM asked
