-- audit.connections: every connection, open or closed.

CREATE VIEW audit.connections AS
SELECT c.id AS connection, c.node_id AS node, n.host, c.recipient, c.transport,
       nullif(c.consumer, '') AS consumer, c.topics, c.min_severity,
       c.remote_addr, c.user_agent, c.jti, c.token_expires_at, c.opened_at, c.closed_at,
       coalesce(c.closed_at, now()) - c.opened_at AS duration, c.close_code, c.close_reason, c.after_seq,
       coalesce(c.sent_seq, n.sent_seq) AS sent_seq,
       (SELECT max(seq) FROM receipts WHERE connection_id = c.id) AS received_seq
FROM connections c JOIN nodes n ON n.id = c.node_id;

COMMENT ON VIEW audit.connections IS
    'One row for each connection of an admin: a WebSocket, an event stream, or a series of long'
    ' polls.';
COMMENT ON COLUMN audit.connections.connection IS 'the connection';
COMMENT ON COLUMN audit.connections.node IS 'the node that held it';
COMMENT ON COLUMN audit.connections.host IS 'the machine or container that the node ran on';
COMMENT ON COLUMN audit.connections.recipient IS
    'the admin: the subject of the token that opened it';
COMMENT ON COLUMN audit.connections.transport IS 'its transport, such as websocket';
COMMENT ON COLUMN audit.connections.consumer IS
    'the name by which its client resumes; null: it gave none';
COMMENT ON COLUMN audit.connections.topics IS
    'its filter: patterns of topics, narrowed to those that the token covers';
COMMENT ON COLUMN audit.connections.min_severity IS 'its filter: nothing less severe than this';
COMMENT ON COLUMN audit.connections.remote_addr IS 'the address of the client';
COMMENT ON COLUMN audit.connections.user_agent IS 'the User-Agent header of the client';
COMMENT ON COLUMN audit.connections.jti IS
    'the jti of its token, the newest where it was renewed; null: the token has none';
COMMENT ON COLUMN audit.connections.token_expires_at IS 'when that token expires';
COMMENT ON COLUMN audit.connections.opened_at IS 'when it was accepted';
COMMENT ON COLUMN audit.connections.closed_at IS 'when it ended; null: it is open';
COMMENT ON COLUMN audit.connections.duration IS
    'from opened_at to closed_at, or until now while it is open';
COMMENT ON COLUMN audit.connections.close_code IS
    'the WebSocket close code; null: open, or the node was lost';
COMMENT ON COLUMN audit.connections.close_reason IS
    'why it ended, such as token_expired, slow_consumer, node_lost';
COMMENT ON COLUMN audit.connections.after_seq IS 'the position in the log after which it began';
COMMENT ON COLUMN audit.connections.sent_seq IS
    'the position in the log up to which it was sent everything that matches';
COMMENT ON COLUMN audit.connections.received_seq IS
    'the position up to which the client confirmed receipt; null: it confirmed nothing';
