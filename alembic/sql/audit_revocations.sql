-- audit.revocations: revoked tokens, subjects and connections.

CREATE VIEW audit.revocations AS
SELECT id AS revocation, token_id, subject, issued_before, connection_id AS connection, reason, revoked_by, revoked_at,
       expires_at
FROM revocations;

COMMENT ON VIEW audit.revocations IS
    'One row for each revocation of a token, of a subject, or of a stream, until what it covers'
    ' has expired.';
COMMENT ON COLUMN audit.revocations.revocation IS 'its number, in the order of the commits';
COMMENT ON COLUMN audit.revocations.token_id IS 'the jti of the token that was revoked';
COMMENT ON COLUMN audit.revocations.subject IS 'the subject whose tokens were revoked';
COMMENT ON COLUMN audit.revocations.issued_before IS
    'of a subject: the tokens that were issued before this';
COMMENT ON COLUMN audit.revocations.connection IS 'the stream that was closed';
COMMENT ON COLUMN audit.revocations.reason IS 'why, as it was given';
COMMENT ON COLUMN audit.revocations.revoked_by IS 'the subject of the token that asked for it';
COMMENT ON COLUMN audit.revocations.revoked_at IS 'when';
COMMENT ON COLUMN audit.revocations.expires_at IS
    'until when it is kept: what it covers has expired by itself by then';
