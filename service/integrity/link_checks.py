"""Link checks: the links of a range of the log's chain, or of the ledger's, are computed again.

The links are defined in ``events/hash_chain.py`` and ``ledger/hash_chain.py``. PostgreSQL only
delivers rows here: whoever can alter them can alter our SQL functions too, so hashes are computed
in Python, and lines with built-in functions at most. A time that no link can hold, such as
``infinity``, is read as null.

A range can be checked by itself. Of all that is before it, the check needs only the hash that the
last link there has stored. Rows are streamed; at most the digests or lines of one link and a few
events are in memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from service.errors import TocsinError
from service.events.body_columns import differing_column
from service.events.hash_chain import LINK_GRID, NO_HASH, digest, event_line, link
from service.ledger.hash_chain import ledger_link

if TYPE_CHECKING:
    from datetime import datetime

    import asyncpg

EVENTS_PREFETCH = 200
"""Events that are fetched at a time; each may have 256 KiB."""
LINES_PREFETCH = LINKS_PREFETCH = 1_000


class LinkRef(NamedTuple):
    """A link of a chain. Its position is its last ``seq`` in the log, its number in the ledger."""

    position: int
    hash: bytes


ORIGIN = LinkRef(0, NO_HASH)
"""What the first link of a chain follows."""


class CheckedRange(NamedTuple):
    """A range without a mismatch: its last link, and how many links and rows it has."""

    end: LinkRef
    links: int
    rows: int


class Mismatch(NamedTuple):
    """Events of the log, or links of the ledger, from ``first`` to ``last`` do not match the chain.

    ``first`` and ``last`` are None where no position in the chain can be named, ``linked_at`` where
    there is no link.
    """

    first: int | None
    last: int | None
    linked_at: datetime | None
    reason: str


class MismatchFound(TocsinError):
    """A check found a mismatch."""

    def __init__(self, first: int | None, last: int | None, linked_at: datetime | None, reason: str) -> None:
        super().__init__(reason)
        self.mismatch = Mismatch(first, last, linked_at, reason)


def time_of(column: str) -> str:
    """Return the SQL of a time, null where no link can hold it."""
    return f"CASE WHEN {column} BETWEEN '1970-01-01Z' AND '9999-12-31 23:59:59.999999Z' THEN {column} END"


def _microseconds(column: str) -> str:
    return f"(extract(epoch FROM {time_of(column)}) * 1000000)::bigint"


_LOG_LINKS = f"""
SELECT first_seq, last_seq, {time_of("linked_at")}, last_id, hash FROM log_chain
WHERE last_seq > $1 AND last_seq <= $2 ORDER BY last_seq
"""  # noqa: S608 - constant
_NEXT_LOG_LINK = f"""
SELECT first_seq, last_seq, {time_of("linked_at")} FROM log_chain WHERE last_seq > $1 ORDER BY last_seq LIMIT 1
"""  # noqa: S608 - constant
_EVENTS = f"""
SELECT seq, id, alert_id::text, kind, topic, severity::text, recipients, actor, {time_of("occurred_at")}, body::text,
       details::text
FROM events WHERE seq > $1 AND seq <= $2 ORDER BY seq
"""  # noqa: S608 - constant
_LEDGER_LINKS = f"""
SELECT ledger_link_id, {time_of("linked_at")}, hash FROM ledger_chain
WHERE ledger_link_id > $1 AND ledger_link_id <= $2 ORDER BY ledger_link_id
"""  # noqa: S608 - constant
_LINES = f"""
SELECT ledger_link_id, json_build_array(
    'closing', id, node_id, recipient, transport, consumer, topics, min_severity, remote_addr, user_agent, jti,
    {_microseconds("token_expires_at")}, {_microseconds("opened_at")}, after_seq, has_cursor, sent_seq,
    live_seq, {_microseconds("closed_at")}, close_code, close_reason)::text
FROM connections WHERE ledger_link_id > $1 AND ledger_link_id <= $2
UNION ALL
SELECT ledger_link_id, json_build_array(
    'dispatch', node_id, connection_id, after_seq, up_to_seq, {_microseconds("at")})::text
FROM dispatches WHERE ledger_link_id > $1 AND ledger_link_id <= $2
UNION ALL
SELECT ledger_link_id, json_build_array('receipt', connection_id, seq, {_microseconds("received_at")})::text
FROM receipts WHERE ledger_link_id > $1 AND ledger_link_id <= $2
UNION ALL
SELECT ledger_link_id, json_build_array('sighting', alert_id, recipient, seq, {_microseconds("seen_at")})::text
FROM sightings WHERE ledger_link_id > $1 AND ledger_link_id <= $2
ORDER BY 1
"""  # noqa: S608 - constant


async def check_log(connection: asyncpg.Connection, before: LinkRef, up_to: int) -> CheckedRange:
    """Check the links of the log from ``before`` to ``up_to``, and their events.

    Raises:
        MismatchFound: the first link that does not match its events.

    """
    begin, links = before.position, 0
    events = aiter(connection.cursor(_EVENTS, begin, up_to, prefetch=EVENTS_PREFETCH))
    event = await anext(events, None)
    async for first, last, at, last_id, stored in connection.cursor(_LOG_LINKS, begin, up_to, prefetch=LINKS_PREFETCH):
        batch = first, last, at
        _check_adjacent(before, *batch)
        event_id, digests = None, []
        for seq in range(first, last + 1):
            event_id, event_digest = _id_and_digest_of(event, seq, batch)
            digests.append(event_digest)
            event = await anext(events, None)
        if event is not None and event[0] <= last:
            raise MismatchFound(*batch, f"event {event[0]} is there twice")
        if at is None or last_id != event_id or link(before.hash, first, at, digests) != stored:
            raise MismatchFound(*batch, "one of them or their link was altered")
        before = LinkRef(last, stored)
        links += 1
    if not links and (following := await connection.fetchrow(_NEXT_LOG_LINK, up_to)) is not None:
        _check_adjacent(before, *following)
    return CheckedRange(before, links, before.position - begin)


def _check_adjacent(before: LinkRef, first: int | None, last: int, at: datetime | None) -> None:
    """Check that a link of the log follows the one before it, and is not too long."""
    expected = before.position + 1
    if first is None or first < expected:
        raise MismatchFound(expected, last, at, "their link does not begin where the one before it ends")
    if first > expected:
        raise MismatchFound(expected, first - 1, None, "no link covers them")
    if first // LINK_GRID != last // LINK_GRID:
        raise MismatchFound(
            first, last, at, f"their link crosses a multiple of {LINK_GRID:,}, as none that was made does"
        )


def _id_and_digest_of(event: Any, seq: int, batch: tuple[int, int, datetime | None]) -> tuple[int, bytes]:
    """Return the id and the digest of an event of a batch, which must be ``seq``."""
    if event is None or event[0] > seq:
        raise MismatchFound(*batch, f"event {seq} is missing")
    found, event_id, alert_id, kind, topic, severity, recipients, actor, at, body, details = event
    if found < seq:
        raise MismatchFound(*batch, f"event {found} is there twice")
    if event_id is None or kind is None or actor is None or at is None or body is None:
        raise MismatchFound(*batch, f"event {seq} lacks its id, kind, actor, time or body")
    body_bytes = body.encode()
    if column := differing_column(body_bytes, alert_id, topic, severity, recipients):
        raise MismatchFound(*batch, f"event {seq}: its {column} is not what its body says")
    details_bytes = details.encode() if details is not None else None
    return event_id, digest(event_line(event_id, kind, at, actor, body_bytes, details=details_bytes))


async def check_ledger(connection: asyncpg.Connection, before: LinkRef, up_to: int) -> CheckedRange:
    """Check the links of the ledger from ``before`` to ``up_to``, and their rows.

    Raises:
        MismatchFound: the first link that does not match its rows.

    """
    begin, rows = before.position, 0
    lines = aiter(connection.cursor(_LINES, begin, up_to, prefetch=LINES_PREFETCH))
    row = await anext(lines, None)
    async for number, at, stored in connection.cursor(_LEDGER_LINKS, begin, up_to, prefetch=LINKS_PREFETCH):
        expected = before.position + 1
        if number != expected:
            what = "it is missing" if number > expected else "the one before it is there twice"
            raise MismatchFound(expected, expected, None, what)
        covered = []
        while row is not None and row[0] == number:
            covered.append(row[1].encode())
            row = await anext(lines, None)
        if at is None or ledger_link(before.hash, number, at, covered) != stored:
            what = "a closing, dispatch, receipt or sighting of it was altered, added or removed"
            raise MismatchFound(number, number, at, f"{what}, or the link itself was altered")
        before = LinkRef(number, stored)
        rows += len(covered)
    if before.position != up_to:
        raise MismatchFound(before.position + 1, before.position + 1, None, "it is missing")
    return CheckedRange(before, before.position - begin, rows)
