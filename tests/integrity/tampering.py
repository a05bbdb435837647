"""What somebody who may do anything to the database does to it: statements, by what they alter."""

from __future__ import annotations

# {first} to {last} is a batch of several events, {seq} one of them, {next} begins the batch after it.
LOG = {
    "id": "UPDATE events SET id = id + 1 WHERE seq = {seq}",
    "alert_id": "UPDATE events SET alert_id = gen_random_uuid() WHERE seq = {seq}",
    "kind": "UPDATE events SET kind = 'alert.resolved' WHERE seq = {seq}",
    "topic": "UPDATE events SET topic = 'shop' WHERE seq = {seq}",
    "severity": "UPDATE events SET severity = 'error' WHERE seq = {seq}",
    "recipients": "UPDATE events SET recipients = '{{carol}}' WHERE seq = {seq}",
    "recipients, whose order is another": "UPDATE events SET recipients = '{{bob,alice,carol}}' WHERE seq = {seq}",
    "no recipients": "UPDATE events SET recipients = NULL WHERE seq = {seq}",
    "actor": "UPDATE events SET actor = 'mallory' WHERE seq = {seq}",
    "time": "UPDATE events SET occurred_at = occurred_at + interval '1 microsecond' WHERE seq = {seq}",
    "no time that a link can hold": "ALTER TABLE events DROP CONSTRAINT ck_events_times;"
    "UPDATE events SET occurred_at = 'infinity' WHERE seq = {seq}",
    "body": "UPDATE events SET body = replace(body::text, 'open', 'over')::json WHERE seq = {seq}",
    "body that says the same": "UPDATE events SET body = (body::text || ' ')::json WHERE seq = {seq}",
    "body that is no alert": "UPDATE events SET body = '[5]' WHERE seq = {seq}",
    "details": "UPDATE events SET details = '{{\"comment\": {{}}}}' WHERE seq = {seq}",
    "a deleted event": "DELETE FROM events WHERE seq = {seq}",
    "a deleted last event of a batch": "DELETE FROM events WHERE seq = {last}",
    "an inserted last event of a batch": "ALTER TABLE events DROP CONSTRAINT pk_events;"
    "INSERT INTO events SELECT * FROM events WHERE seq = {last}",
    "an inserted event": "ALTER TABLE events DROP CONSTRAINT pk_events;"
    "INSERT INTO events SELECT * FROM events WHERE seq = {seq}",
    "two events in each other's place": "UPDATE events SET seq = 900000 WHERE seq = {seq};"
    "UPDATE events SET seq = {seq} WHERE seq = {next}; UPDATE events SET seq = {next} WHERE seq = 900000",
    "two events of a batch in each other's place": "UPDATE events SET seq = 900000 WHERE seq = {seq};"
    "UPDATE events SET seq = {seq} WHERE seq = {last}; UPDATE events SET seq = {last} WHERE seq = 900000",
    "a deleted link": "DELETE FROM log_chain WHERE last_seq = {last}",
    "a deleted batch": "DELETE FROM log_chain WHERE last_seq = {last};"
    "DELETE FROM events WHERE seq BETWEEN {first} AND {last}",
    "the hash of a link": "UPDATE log_chain SET hash = sha256(hash) WHERE last_seq = {last}",
    "the time of a link": "UPDATE log_chain SET linked_at = linked_at + interval '1 day' WHERE last_seq = {last}",
    "the beginning of a link": "UPDATE log_chain SET first_seq = first_seq - 1 WHERE last_seq = {last}",
    "no beginning of a link": "ALTER TABLE log_chain ALTER first_seq DROP NOT NULL;"
    "UPDATE log_chain SET first_seq = NULL WHERE last_seq = {last}",
    "the id at the end of a link": "UPDATE log_chain SET last_id = last_id + 1 WHERE last_seq = {last}",
    "the end of a link": "UPDATE log_chain SET last_seq = last_seq - 1 WHERE last_seq = {last}",
    "an inserted link": "INSERT INTO log_chain SELECT {first}, {first}, last_id, linked_at, hash FROM log_chain"
    " WHERE last_seq = {last}",
    "two links in each other's place": "UPDATE log_chain a SET hash = b.hash, linked_at = b.linked_at FROM log_chain b"
    " WHERE (a.last_seq, b.first_seq) IN (({last}, {next})) OR (b.last_seq, a.first_seq) IN (({last}, {next}))",
}


# {head} is the last event; the number says where the mismatch is: that far from it, or before the first (None).
OUTSIDE_THE_LOG = {
    "an event beyond the last link": (
        (
            "INSERT INTO events SELECT {head} + 1, id, alert_id, kind, topic, severity, recipients, actor, occurred_at,"
            " body FROM events WHERE seq = 5"
        ),
        1,
    ),
    "a last event that is there twice": (
        "ALTER TABLE events DROP CONSTRAINT pk_events; INSERT INTO events SELECT * FROM events WHERE seq = {head}",
        0,
    ),
    "events that lost their last link": ("DELETE FROM log_chain WHERE last_seq = {head}", 0),
    "an event before the first": (
        (
            "INSERT INTO events SELECT 0, id, alert_id, kind, topic, severity, recipients, actor, occurred_at, body"
            " FROM events WHERE seq = 5"
        ),
        None,
    ),
    "a link before the first": ("INSERT INTO log_chain SELECT 0, 0, 0, linked_at, hash FROM log_chain LIMIT 1", None),
    "a link beyond the last event": (
        "INSERT INTO log_chain SELECT {head} + 1, {head} + 1, last_id, linked_at, hash FROM log_chain LIMIT 1",
        1,
    ),
    "a link far beyond the last event": (
        "INSERT INTO log_chain SELECT 1::bigint << 60, {head} + 1, last_id, linked_at, hash FROM log_chain LIMIT 1",
        1,
    ),
}


# {link} covers several dispatches and receipts, {closing} a closing.
ONE = "WHERE ctid = (SELECT ctid FROM {table} WHERE ledger_link_id = {link} LIMIT 1)"
LEDGER = {
    "the time of a receipt": "UPDATE receipts SET received_at = received_at - interval '1 microsecond' " + ONE,
    "no time of a receipt that a link can hold": "ALTER TABLE receipts DROP CONSTRAINT ck_receipts_times;"
    "UPDATE receipts SET received_at = '-infinity' " + ONE,
    "how far a receipt goes": "UPDATE receipts SET seq = seq + 1000 " + ONE,
    "whose receipt it is": "UPDATE receipts SET connection_id = gen_random_uuid() " + ONE,
    "a deleted receipt": "DELETE FROM receipts " + ONE,
    "an inserted receipt": "INSERT INTO receipts SELECT connection_id, seq + 1000, received_at, ledger_link_id"
    " FROM receipts " + ONE,
    "a receipt that was there before": "UPDATE receipts SET ledger_link_id = {link} "
    "WHERE ctid = (SELECT ctid FROM receipts WHERE ledger_link_id > {link} LIMIT 1)",
    "a receipt that is there later": "UPDATE receipts SET ledger_link_id = ledger_link_id + 1 " + ONE,
    "the time of a sighting": "UPDATE sightings SET seen_at = seen_at - interval '1 microsecond' " + ONE,
    "how far a sighting goes": "UPDATE sightings SET seq = seq + 1000 " + ONE,
    "whose sighting it is": "UPDATE sightings SET recipient = 'mallory' " + ONE,
    "of which alert a sighting is": "UPDATE sightings SET alert_id = gen_random_uuid() " + ONE,
    "a deleted sighting": "DELETE FROM sightings " + ONE,
    "an inserted sighting": "INSERT INTO sightings SELECT alert_id, 'mallory', seq, seen_at, ledger_link_id"
    " FROM sightings " + ONE,
    "a sighting that is there later": "UPDATE sightings SET ledger_link_id = ledger_link_id + 1 " + ONE,
    "the time of a dispatch": "UPDATE dispatches SET at = at - interval '1 second' " + ONE,
    "how far a dispatch goes": "UPDATE dispatches SET up_to_seq = up_to_seq + 1000 " + ONE,
    "where a dispatch begins": "UPDATE dispatches SET after_seq = after_seq - 1 " + ONE,
    "whose dispatch it is": "UPDATE dispatches SET connection_id = gen_random_uuid() " + ONE,
    "a deleted dispatch": "DELETE FROM dispatches " + ONE,
    "an inserted dispatch": "INSERT INTO dispatches SELECT node_id, connection_id, after_seq, up_to_seq + 1000, at,"
    " ledger_link_id FROM dispatches " + ONE,
    "a deleted closing": "DELETE FROM connections WHERE ledger_link_id = {closing}",
    "an inserted closing": "INSERT INTO connections SELECT (jsonb_populate_record(c,"
    " jsonb_build_object('id', gen_random_uuid()))).* FROM connections c WHERE ledger_link_id = {closing}",
    "a connection that was opened again": "UPDATE connections SET closed_at = NULL WHERE ledger_link_id = {closing}",
    "a closing that is there later": "UPDATE connections SET ledger_link_id = ledger_link_id + 1"
    " WHERE ledger_link_id = {closing}",
    "a deleted link": "DELETE FROM ledger_chain WHERE ledger_link_id = {link}",
    "the hash of a link": "UPDATE ledger_chain SET hash = sha256(hash) WHERE ledger_link_id = {link}",
    "the time of a link": "ALTER TABLE ledger_chain DROP CONSTRAINT ck_ledger_chain_times;"
    "UPDATE ledger_chain SET linked_at = 'infinity' WHERE ledger_link_id = {link}",
    "two links in each other's place": "UPDATE ledger_chain a SET hash = b.hash, linked_at = b.linked_at"
    " FROM ledger_chain b WHERE (a.ledger_link_id, b.ledger_link_id) IN (({link}, {link} + 1), ({link} + 1, {link}))",
    "a deleted flush": "DELETE FROM ledger_chain WHERE ledger_link_id = {link};"
    "DELETE FROM receipts WHERE ledger_link_id = {link}; DELETE FROM sightings WHERE ledger_link_id = {link};"
    "DELETE FROM dispatches WHERE ledger_link_id = {link}; DELETE FROM connections WHERE ledger_link_id = {link}",
}


OUTSIDE_THE_LEDGER = {
    "a closed connection without a link": ("UPDATE connections SET closed_at = now() WHERE closed_at IS NULL", None),
    "a closing that lost its link": (
        (
            "UPDATE connections SET ledger_link_id = NULL"
            " WHERE ledger_link_id = (SELECT max(ledger_link_id) FROM connections)"
        ),
        -1,
    ),
    "a receipt without a link": (
        (
            "ALTER TABLE receipts ALTER ledger_link_id DROP NOT NULL;"
            "INSERT INTO receipts SELECT connection_id, seq + 1000, received_at, NULL FROM receipts LIMIT 1"
        ),
        None,
    ),
    "a receipt before the first link": (
        "INSERT INTO receipts SELECT connection_id, seq + 1000, received_at, 0 FROM receipts LIMIT 1",
        0,
    ),
    "a sighting before the first link": (
        "INSERT INTO sightings SELECT alert_id, 'mallory', seq, seen_at, 0 FROM sightings LIMIT 1",
        0,
    ),
    "a dispatch beyond the last link": (
        (
            "INSERT INTO dispatches SELECT node_id, connection_id, after_seq, up_to_seq + 1000, at, {head} + 1"
            " FROM dispatches LIMIT 1"
        ),
        1,
    ),
    "rows that lost their last link": ("DELETE FROM ledger_chain WHERE ledger_link_id = {head}", 0),
    "a link before the first": ("INSERT INTO ledger_chain SELECT 0, linked_at, hash FROM ledger_chain LIMIT 1", 0),
    "a link without rows": (
        "INSERT INTO ledger_chain SELECT {head} + 1, linked_at, hash FROM ledger_chain LIMIT 1",
        1,
    ),
    "a link far beyond the last": (
        "INSERT INTO ledger_chain SELECT 1::bigint << 60, linked_at, hash FROM ledger_chain LIMIT 1",
        1,
    ),
}
