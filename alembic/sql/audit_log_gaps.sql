-- audit.log_gaps: holes in the log, which there must never be.

CREATE VIEW audit.log_gaps AS
WITH chain AS (SELECT min(first_seq) AS first_seq, max(last_seq) AS last_seq FROM log_chain)
-- The chain says how far the log must reach, so that a hole at either end is seen too.
SELECT after_seq, before_seq, before_seq - after_seq - 1 AS missing
FROM (
    SELECT first_seq - 1 AS after_seq, coalesce((SELECT min(seq) FROM events), last_seq + 1) AS before_seq
    FROM chain
    UNION ALL
    SELECT seq, lead(seq, 1, (SELECT last_seq + 1 FROM chain)) OVER (ORDER BY seq) FROM events
) AS neighbours
WHERE before_seq > after_seq + 1;

COMMENT ON VIEW audit.log_gaps IS
    'One row for each hole in the log. Empty, or something is wrong: the log is written without'
    ' holes, and what retention removes is removed from its beginning, with the links of the chain'
    ' that cover it.';
COMMENT ON COLUMN audit.log_gaps.after_seq IS 'the last event before the hole';
COMMENT ON COLUMN audit.log_gaps.before_seq IS 'the first event after the hole';
COMMENT ON COLUMN audit.log_gaps.missing IS 'how many events are missing between them';
