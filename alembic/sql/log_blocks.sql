-- The blocks of 100,000 events that a range of the log touches.
--
-- It is STRICT, so that it is not inlined and the planner believes ROWS. A connection touches two or three
-- blocks; ROWS says more, so that for a few events the planner first finds the connections that cover them,
-- instead of expanding every connection into its blocks.

CREATE FUNCTION log_blocks(after_seq bigint, up_to_seq bigint) RETURNS SETOF bigint
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE ROWS 60
RETURN generate_series(after_seq / 100000, up_to_seq / 100000);
