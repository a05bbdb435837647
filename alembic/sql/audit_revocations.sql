-- audit.revocations: revoked tokens, subjects and connections.

CREATE VIEW audit.revocations AS
SELECT id AS revocation, jti, subject, issued_before, connection_id AS connection, reason, revoked_by,
       revoked_at, expires_at
FROM revocations;

COMMENT ON VIEW audit.revocations IS
    'One row for each revocation of a token, of a subject, or of a connection, until what it covers'
    ' has expired.';
COMMENT ON COLUMN audit.revocations.revocation IS 'its number, in the order of the commits';
COMMENT ON COLUMN audit.revocations.jti IS 'the jti of the token that was revoked';
COMMENT ON COLUMN audit.revocations.subject IS 'the subject whose tokens were revoked';
COMMENT ON COLUMN audit.revocations.issued_before IS
    'of a subject: its tokens that were issued before this time';
COMMENT ON COLUMN audit.revocations.connection IS 'the connection that was closed';
COMMENT ON COLUMN audit.revocations.reason IS 'the reason that was given';
COMMENT ON COLUMN audit.revocations.revoked_by IS
    'the subject of the token that requested it';
COMMENT ON COLUMN audit.revocations.revoked_at IS 'when it was revoked';
COMMENT ON COLUMN audit.revocations.expires_at IS
    'until when the row is kept: what it covers has expired by then';
