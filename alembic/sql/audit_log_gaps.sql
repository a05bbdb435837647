-- audit.log_gaps: holes in the log, which must not exist.

CREATE VIEW audit.log_gaps AS
-- The chain says where the log begins and ends, so that a hole at either end is found too.
WITH chain AS (SELECT min(first_seq) AS first_seq, max(last_seq) AS last_seq FROM log_chain)
SELECT after_seq, before_seq, before_seq - after_seq - 1 AS missing
FROM (
    SELECT first_seq - 1 AS after_seq, coalesce((SELECT min(seq) FROM events), last_seq + 1) AS before_seq
    FROM chain
    UNION ALL
    SELECT seq, lead(seq, 1, (SELECT last_seq + 1 FROM chain)) OVER (ORDER BY seq) FROM events
) AS neighbours
WHERE before_seq > after_seq + 1;

COMMENT ON VIEW audit.log_gaps IS
    'One row for each hole in the log. Any row is an error: the log is written without holes, and'
    ' retention removes events from its beginning only, with the links of the chain that cover them.';
COMMENT ON COLUMN audit.log_gaps.after_seq IS 'the last event before the hole';
COMMENT ON COLUMN audit.log_gaps.before_seq IS 'the first event after the hole';
COMMENT ON COLUMN audit.log_gaps.missing IS 'how many events are missing between them';
