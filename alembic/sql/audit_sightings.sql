-- audit.sightings: who saw which alert in the console, though it may never have been sent to them.

CREATE VIEW audit.sightings AS
SELECT alert_id, seq, recipient, seen_at FROM sightings;

COMMENT ON VIEW audit.sightings IS
    'One row for each alert and each admin whose client reported that they saw it: that its row in a'
    ' list, or the open alert, was in view for a second. Also of alerts that were loaded as a list and'
    ' never sent over the stream.';
COMMENT ON COLUMN audit.sightings.alert_id IS 'the alert';
COMMENT ON COLUMN audit.sightings.seq IS 'position in the log of the last event of the alert by then';
COMMENT ON COLUMN audit.sightings.recipient IS
    'the admin: the subject of the token with which the client reported it';
COMMENT ON COLUMN audit.sightings.seen_at IS 'when the client first reported it';
