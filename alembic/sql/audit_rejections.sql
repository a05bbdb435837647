-- audit.rejections: streams that were rejected at the handshake; audit.rejection_counts: how many.

CREATE VIEW audit.rejections AS
SELECT id AS rejection, at, node_id AS node, remote_addr, path, reason, subject, origin, user_agent
FROM handshake_rejections;

CREATE VIEW audit.rejection_counts AS
SELECT hour, reason, sum(rejections)::bigint AS rejections FROM rejection_hours GROUP BY hour, reason;

COMMENT ON VIEW audit.rejections IS
    'Streams that were rejected at the handshake: a sample, of each address no more than its limit of'
    ' failed requests. audit.rejection_counts says how many there were.';
COMMENT ON COLUMN audit.rejections.rejection IS 'the rejection';
COMMENT ON COLUMN audit.rejections.at IS 'when it was rejected';
COMMENT ON COLUMN audit.rejections.node IS 'the node that rejected it';
COMMENT ON COLUMN audit.rejections.remote_addr IS 'the address of the client';
COMMENT ON COLUMN audit.rejections.path IS 'the requested path, without its query';
COMMENT ON COLUMN audit.rejections.reason IS
    'why, such as token_expired, scope_missing, connection_limit';
COMMENT ON COLUMN audit.rejections.subject IS
    'the subject of its token; null: it had no valid token';
COMMENT ON COLUMN audit.rejections.origin IS 'the web page that opened it, where a browser did';
COMMENT ON COLUMN audit.rejections.user_agent IS 'the User-Agent header of the client';

COMMENT ON VIEW audit.rejection_counts IS
    'How many streams were rejected at the handshake, by hour and reason. Each is counted; after a crash'
    ' of a node or a failover, those of its last moment may be missing. There are never more than there were.';
COMMENT ON COLUMN audit.rejection_counts.hour IS 'the start of the hour, in UTC';
COMMENT ON COLUMN audit.rejection_counts.reason IS 'why, as in audit.rejections';
COMMENT ON COLUMN audit.rejection_counts.rejections IS 'how many';
