-- audit.names: what subjects are shown by.

CREATE VIEW audit.names AS
SELECT subject, name, named_at FROM subject_names;

COMMENT ON VIEW audit.names IS
    'One row for each subject whose token says a name. Nothing is decided by it, and two subjects may have the same.';
COMMENT ON COLUMN audit.names.subject IS 'the sub of the token: a source, a recipient or an actor of the other views';
COMMENT ON COLUMN audit.names.name IS 'what the newest token says';
COMMENT ON COLUMN audit.names.named_at IS 'when a node last verified a token that says so';
