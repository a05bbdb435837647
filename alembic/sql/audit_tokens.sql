-- audit.tokens: the tokens that opened connections, and the tokens that were revoked.
--
-- Of a subject's tokens those are revoked that were issued before a time. When a token was issued is
-- not known here, so only the tokens that are sure to be among them are shown as revoked: all their use
-- was before that time, or the revocation ended it.

CREATE VIEW audit.tokens AS
WITH used AS (
    SELECT c.token_jti AS token_id, c.recipient, count(*) AS connections,
           -- As in audit.presence.
           count(*) FILTER (WHERE closed_at IS NULL AND n.ended_at IS NULL
                            AND n.seen_at >= now() - make_interval(secs => n.lease_seconds)) AS open,
           min(c.opened_at) AS first_used_at, max(coalesce(c.closed_at, n.seen_at)) AS last_used_at,
           max(c.token_expires_at) AS expires_at,
           max(c.closed_at) FILTER (WHERE c.close_reason = 'token_revoked') AS cut_off_at
    FROM connections c JOIN nodes n ON n.id = c.node_id
    GROUP BY c.token_jti, c.recipient, CASE WHEN c.token_jti IS NULL THEN c.token_expires_at END
), one AS (
    SELECT DISTINCT ON (token_id) * FROM revocations WHERE token_id IS NOT NULL ORDER BY token_id, id
)
SELECT coalesce(used.token_id, one.token_id) AS token_id, used.recipient,
       coalesce(used.connections, 0) AS connections, coalesce(used.open, 0) AS open, used.first_used_at,
       used.last_used_at, used.expires_at, coalesce(one.revoked_at, every.revoked_at) AS revoked_at,
       coalesce(one.revoked_by, every.revoked_by) AS revoked_by,
       CASE WHEN one.id IS NULL THEN every.reason ELSE one.reason END AS reason
FROM used FULL JOIN one ON one.token_id = used.token_id
LEFT JOIN LATERAL (
    SELECT revoked_at, revoked_by, reason FROM revocations
    WHERE subject = used.recipient
      AND (used.last_used_at < issued_before OR used.cut_off_at >= revoked_at) ORDER BY id LIMIT 1
) AS every ON one.id IS NULL;

COMMENT ON VIEW audit.tokens IS
    'One row for each token and admin that connections were opened with, and each token that was'
    ' revoked by its jti. Tokens without a jti are told apart by when they expire.';
COMMENT ON COLUMN audit.tokens.token_id IS 'the jti of the token; null: it has none';
COMMENT ON COLUMN audit.tokens.recipient IS
    'the subject of the token; null: it was revoked and never used for a connection';
COMMENT ON COLUMN audit.tokens.connections IS 'how many connections it served, or serves';
COMMENT ON COLUMN audit.tokens.open IS 'how many of these are open now';
COMMENT ON COLUMN audit.tokens.first_used_at IS 'when the first of them was opened; null: never';
COMMENT ON COLUMN audit.tokens.last_used_at IS
    'when the last of them ended, or was last known to be open; null: never';
COMMENT ON COLUMN audit.tokens.expires_at IS 'when the token expires; null: not known';
COMMENT ON COLUMN audit.tokens.revoked_at IS
    'when it was revoked; null: it was not, or the revocation is over because the token has expired';
COMMENT ON COLUMN audit.tokens.revoked_by IS
    'the subject of the token that asked for the revocation';
COMMENT ON COLUMN audit.tokens.reason IS 'why it was revoked, as it was given';
