-- The schema audit: the views that operators read.
--
-- A function that a view uses runs with the rights of the user who reads the view, so such functions
-- read no table.

CREATE SCHEMA audit;

COMMENT ON SCHEMA audit IS 'For operators: what was sent to whom, who received it, and when.';
