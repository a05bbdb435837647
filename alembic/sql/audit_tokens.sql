-- audit.tokens: the tokens that opened connections, and the tokens that were revoked.
--
-- A revocation of a subject covers its tokens that were issued before a time. When a token was issued is
-- not stored, so only tokens that are certainly covered are shown as revoked: those last used before that
-- time, and those whose connections the revocation closed.

CREATE VIEW audit.tokens AS
WITH used AS (
    SELECT c.jti, c.recipient, count(*) AS connections,
           count(*) FILTER (WHERE c.closed_at IS NULL AND serving.id IS NOT NULL) AS open,
           min(c.opened_at) AS first_used_at, max(coalesce(c.closed_at, n.seen_at)) AS last_used_at,
           max(c.token_expires_at) AS expires_at,
           max(c.closed_at) FILTER (WHERE c.close_reason = 'token_revoked') AS revocation_closed_at
    FROM connections c
    JOIN nodes n ON n.id = c.node_id
    LEFT JOIN serving_nodes serving ON serving.id = c.node_id
    GROUP BY c.jti, c.recipient, CASE WHEN c.jti IS NULL THEN c.token_expires_at END
), token_revocation AS (
    SELECT DISTINCT ON (jti) * FROM revocations WHERE jti IS NOT NULL ORDER BY jti, id
)
SELECT coalesce(used.jti, token.jti) AS jti, used.recipient, coalesce(used.connections, 0) AS connections,
       coalesce(used.open, 0) AS open, used.first_used_at, used.last_used_at, used.expires_at,
       coalesce(token.revoked_at, subject.revoked_at) AS revoked_at,
       coalesce(token.revoked_by, subject.revoked_by) AS revoked_by,
       CASE WHEN token.id IS NULL THEN subject.reason ELSE token.reason END AS reason
FROM used FULL JOIN token_revocation token ON token.jti = used.jti
LEFT JOIN LATERAL (
    SELECT revoked_at, revoked_by, reason FROM revocations r
    WHERE r.subject = used.recipient
      AND (used.last_used_at < r.issued_before OR used.revocation_closed_at >= r.revoked_at)
    ORDER BY id LIMIT 1
) AS subject ON token.id IS NULL;

COMMENT ON VIEW audit.tokens IS
    'One row for each token and admin that connections were opened with, and each token that was'
    ' revoked by its jti. Tokens without a jti are distinguished by their expiry.';
COMMENT ON COLUMN audit.tokens.jti IS 'the jti of the token; null: it has none';
COMMENT ON COLUMN audit.tokens.recipient IS
    'the subject of the token; null: it was revoked and never used for a connection';
COMMENT ON COLUMN audit.tokens.connections IS 'the number of connections that it opened';
COMMENT ON COLUMN audit.tokens.open IS 'how many of these are open now';
COMMENT ON COLUMN audit.tokens.first_used_at IS 'when the first of them was opened; null: never';
COMMENT ON COLUMN audit.tokens.last_used_at IS
    'when the last of them ended, or was last known to be open; null: never';
COMMENT ON COLUMN audit.tokens.expires_at IS 'when the token expires; null: not known';
COMMENT ON COLUMN audit.tokens.revoked_at IS
    'when it was revoked; null: it was not, or the revocation is over because the token has expired';
COMMENT ON COLUMN audit.tokens.revoked_by IS
    'the subject of the token that requested the revocation';
COMMENT ON COLUMN audit.tokens.reason IS 'the reason that was given for the revocation';
