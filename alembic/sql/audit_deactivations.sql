-- audit.deactivations: who was deactivated, by whom, when and why, and who was reactivated.

CREATE VIEW audit.deactivations AS
SELECT subject AS recipient, CASE WHEN deactivated THEN 'deactivated' ELSE 'reactivated' END AS action,
       revoked_at AS at, revoked_by AS actor, reason,
       id = max(id) OVER (PARTITION BY subject) AS is_current
FROM revocations
WHERE deactivated IS NOT NULL;

COMMENT ON VIEW audit.deactivations IS
    'One row for each deactivation of a recipient, and for each reactivation. Those of the past are kept'
    ' for as long as a token may live that they revoked.';
COMMENT ON COLUMN audit.deactivations.recipient IS 'the recipient: the subject of their tokens';
COMMENT ON COLUMN audit.deactivations.action IS 'deactivated or reactivated';
COMMENT ON COLUMN audit.deactivations.at IS 'when';
COMMENT ON COLUMN audit.deactivations.actor IS 'the subject of the token that requested it';
COMMENT ON COLUMN audit.deactivations.reason IS 'the reason that was given';
COMMENT ON COLUMN audit.deactivations.is_current IS
    'whether it is the last one of the recipient, which says whether they are deactivated now';
