-- audit.resume_points: where the streams of each admin resume that come without a cursor.

CREATE VIEW audit.resume_points AS
SELECT p.recipient, nullif(p.consumer, '') AS consumer, p.topics, p.min_severity, p.seq,
       (SELECT count(*) FROM events e
        WHERE e.seq > p.seq AND event_matches((SELECT topic_likes(p.topics)), p.min_severity, p.recipient,
                                              e.topic, e.severity, e.recipients)) AS behind,
       p.created_at, p.used_at
FROM resume_points p;

COMMENT ON VIEW audit.resume_points IS
    'One row for each filter that an admin used without naming a consumer, and for each consumer and filter:'
    ' where a stream of it resumes that comes without a cursor.';
COMMENT ON COLUMN audit.resume_points.recipient IS 'the admin';
COMMENT ON COLUMN audit.resume_points.consumer IS
    'the name that the client gives; null: it gives none, and resumes by its filter';
COMMENT ON COLUMN audit.resume_points.topics IS
    'its filter: patterns of topics, narrowed to those that the token covers';
COMMENT ON COLUMN audit.resume_points.min_severity IS 'its filter: nothing less severe than this';
COMMENT ON COLUMN audit.resume_points.seq IS
    'the position in the log up to which it acknowledged everything, or where it began';
COMMENT ON COLUMN audit.resume_points.behind IS
    'how many events after it pass the filter: a stream without a cursor would be sent these first. A client that'
    ' keeps a cursor of its own, as the console does, may have them already';
COMMENT ON COLUMN audit.resume_points.created_at IS 'when it was used first';
COMMENT ON COLUMN audit.resume_points.used_at IS
    'when a stream of it last opened, ended or acknowledged anything';
