-- serving_nodes: the nodes whose lease holds.
--
-- A node that was lost stops counting when its lease lapses; housekeeping closes its connections a
-- moment later.

CREATE VIEW serving_nodes AS
SELECT * FROM nodes
WHERE ended_at IS NULL AND seen_at >= now() - make_interval(secs => lease_seconds);
