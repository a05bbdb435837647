-- audit.rejections: streams that were rejected at the handshake.

CREATE VIEW audit.rejections AS
SELECT id AS rejection, at, node_id AS node, remote_addr, path, reason, subject, origin, user_agent
FROM handshake_rejections;

COMMENT ON VIEW audit.rejections IS
    'One row for each stream that was rejected at the handshake.';
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
