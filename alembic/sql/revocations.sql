-- Follow every row of revocations, whoever inserts it, and list who is deactivated.
--
-- A row gets its id under a lock that is held to the commit, so that a higher id is never visible
-- before a lower one: nodes read on from the last id that they know. A trigger of the statement takes
-- the lock before the first row of it gets its id.

CREATE FUNCTION lock_revocations() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    LOCK TABLE locks.revocations IN EXCLUSIVE MODE;
    RETURN NULL;
END $$;

CREATE FUNCTION notify_revocations() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM notify_nodes('tocsin_revocations', '');
    RETURN NULL;
END $$;

CREATE TRIGGER lock_revocations BEFORE INSERT ON revocations EXECUTE FUNCTION lock_revocations();
CREATE TRIGGER notify_revocations AFTER INSERT ON revocations EXECUTE FUNCTION notify_revocations();

-- Whatever session_replication_role is.
ALTER TABLE revocations ENABLE ALWAYS TRIGGER lock_revocations, ENABLE ALWAYS TRIGGER notify_revocations;

-- Who is deactivated: nobody waits for them, and no token of theirs is accepted.
CREATE VIEW deactivated_recipients AS
SELECT last.subject AS recipient, last.revoked_at AS deactivated_at, last.revoked_by AS deactivated_by, last.reason
FROM (
    SELECT DISTINCT ON (subject) * FROM revocations WHERE deactivated IS NOT NULL ORDER BY subject, id DESC
) AS last
WHERE last.deactivated;
