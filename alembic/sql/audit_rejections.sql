-- audit.rejections: streams that were rejected at the handshake.

CREATE VIEW audit.rejections AS
SELECT at, node_id AS node, remote_addr, path, reason, subject, origin, user_agent FROM handshake_rejections;

COMMENT ON VIEW audit.rejections IS 'One row for each stream that was refused at the handshake.';
COMMENT ON COLUMN audit.rejections.at IS 'when it was refused';
COMMENT ON COLUMN audit.rejections.node IS 'the serving process that refused it';
COMMENT ON COLUMN audit.rejections.remote_addr IS 'the address that it came from';
COMMENT ON COLUMN audit.rejections.path IS 'the path that was asked for, without its query';
COMMENT ON COLUMN audit.rejections.reason IS
    'why, such as token_expired, scope_missing, connection_limit';
COMMENT ON COLUMN audit.rejections.subject IS
    'the subject of its token; null: it had no token that could be believed';
COMMENT ON COLUMN audit.rejections.origin IS 'the web page that opened it, where a browser did';
COMMENT ON COLUMN audit.rejections.user_agent IS 'what the client said of itself';
