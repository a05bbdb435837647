"""Whether rows fit their links: a range of the log's chain, or of the ledger's, computed again.

The log's links are defined in ``service/events/hash_chain.py``. A link of the ledger covers what one flush made
final, the closings of connections, the dispatches and the receipts, a line each::

    hash = sha256(previous hash (32 bytes; zeros before the first)
                  || ledger_link_id, 8 bytes || microseconds since 1970-01-01 UTC, 8 bytes, both big-endian
                  || the lines, as UTF-8, in the order of their bytes, with a newline between them)

PostgreSQL only delivers rows here. Whoever can alter them can alter our SQL functions too, so hashes are made in Python
and lines from built-in functions at most. A time that no link can hold, such as ``infinity``, is delivered as null.

A range can be checked by itself: it needs of all that is before it only the hash that the last link there has stored.
Rows are streamed, and what is held at once is a link's digests or lines and a few events.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import orjson

from service.events.hash_chain import LINK_GRID, NO_HASH, digest, event_line, link
from service.timestamps import microseconds

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable
    from datetime import datetime

    import asyncpg

ChainName: TypeAlias = Literal["log", "ledger"]

EVENTS_AT_ONCE = 200
"""How many events are fetched at a time; each may have 256 KiB."""
LINES_AT_ONCE = LINKS_AT_ONCE = 1_000


class Anchor(NamedTuple):
    """A place in a chain: the last ``seq`` of a link of the log, or the number of one of the ledger, and its hash."""

    position: int
    hash: bytes


ORIGIN = Anchor(0, NO_HASH)
"""What the first link follows, where nothing was purged."""


class Tally(NamedTuple):
    """What was checked, and fits: up to where, and how many links and rows."""

    reached: Anchor
    links: int
    rows: int


class Misfit(NamedTuple):
    """What does not fit: events of the log, or links of the ledger, from ``first`` to ``last``, linked at ``at``.

    ``first`` and ``last`` are None where no place in the chain can be named.
    """

    first: int | None
    last: int | None
    at: datetime | None
    what: str


class DoesNotFit(Exception):
    """Something does not fit: see ``misfit``."""

    def __init__(self, first: int | None, last: int | None, at: datetime | None, what: str) -> None:
        super().__init__(what)
        self.misfit = Misfit(first, last, at, what)


def ledger_link(previous: bytes, number: int, linked_at: datetime, lines: Iterable[bytes]) -> bytes:
    """Return the hash of the link of the ledger that follows ``previous``: 32 bytes."""
    header = number.to_bytes(8) + microseconds(linked_at).to_bytes(8)
    return sha256(previous + header + b"\n".join(sorted(lines))).digest()


def time_of(column: str) -> str:
    """Return the SQL of a time; null where no link can hold it."""
    return f"CASE WHEN {column} BETWEEN '1970-01-01Z' AND '9999-12-31 23:59:59.999999Z' THEN {column} END"


def _microseconds(column: str) -> str:
    return f"(extract(epoch FROM {time_of(column)}) * 1000000)::bigint"


_LOG_LINKS = f"""
SELECT first_seq, last_seq, {time_of("linked_at")}, hash FROM log_chain
WHERE last_seq > $1 AND last_seq <= $2 ORDER BY last_seq
"""  # noqa: S608 - constant
_NEXT_LOG_LINK = f"""
SELECT first_seq, last_seq, {time_of("linked_at")} FROM log_chain WHERE last_seq > $1 ORDER BY last_seq LIMIT 1
"""  # noqa: S608 - constant
_EVENTS = f"""
SELECT seq, alert_id::text, kind, topic, severity::text, recipients, actor, {time_of("occurred_at")}, body::text,
       details::text
FROM events WHERE seq > $1 AND seq <= $2 ORDER BY seq
"""  # noqa: S608 - constant
_LEDGER_LINKS = f"""
SELECT ledger_link_id, {time_of("linked_at")}, hash FROM ledger_chain
WHERE ledger_link_id > $1 AND ledger_link_id <= $2 ORDER BY ledger_link_id
"""  # noqa: S608 - constant
_LINES = f"""
SELECT ledger_link_id, json_build_array(
    'closing', id, node_id, recipient, transport, topics, min_severity, remote_addr, user_agent, jti,
    {_microseconds("token_expires_at")}, {_microseconds("opened_at")}, after_seq, sent_seq,
    {_microseconds("closed_at")}, close_code, close_reason)::text
FROM connections WHERE ledger_link_id > $1 AND ledger_link_id <= $2
UNION ALL
SELECT ledger_link_id, json_build_array(
    'dispatch', node_id, connection_id, after_seq, up_to_seq, {_microseconds("at")})::text
FROM dispatches WHERE ledger_link_id > $1 AND ledger_link_id <= $2
UNION ALL
SELECT ledger_link_id, json_build_array('receipt', connection_id, seq, {_microseconds("received_at")})::text
FROM receipts WHERE ledger_link_id > $1 AND ledger_link_id <= $2
ORDER BY 1
"""  # noqa: S608 - constant


async def check_log(connection: asyncpg.Connection, before: Anchor, up_to: int) -> Tally:
    """Check the links of the log that follow ``before`` and end with ``up_to`` or before it, and their events.

    Raises:
        DoesNotFit: the first batch that does not fit.

    """
    begin, links = before.position, 0
    events = aiter(connection.cursor(_EVENTS, begin, up_to, prefetch=EVENTS_AT_ONCE))
    batch: tuple[int, int, datetime | None] | None = None
    async for first, last, at, stored in connection.cursor(_LOG_LINKS, begin, up_to, prefetch=LINKS_AT_ONCE):
        batch = first, last, at
        _meets(before, *batch)
        digests = [await _digest_of(events, seq, batch) for seq in range(first, last + 1)]
        if at is None or link(before.hash, first, at, digests) != stored:
            raise DoesNotFit(*batch, "one of them or their link was altered")
        before = Anchor(last, stored)
        links += 1
    if batch is None:
        if (following := await connection.fetchrow(_NEXT_LOG_LINK, up_to)) is not None:
            _meets(before, *following)
    elif (more := await anext(events, None)) is not None and more[0] <= before.position:
        raise DoesNotFit(*batch, f"event {before.position} is there twice")
    return Tally(before, links, before.position - begin)


def _meets(before: Anchor, first: int | None, last: int, at: datetime | None) -> None:
    """Check that a link of the log begins where the one before it ends, and is no longer than one can be."""
    expected = before.position + 1
    if first is None or first < expected:
        raise DoesNotFit(expected, last, at, "their link does not begin where the one before it ends")
    if first > expected:
        raise DoesNotFit(expected, first - 1, None, "no link covers them")
    if first // LINK_GRID != last // LINK_GRID:
        raise DoesNotFit(first, last, at, f"their link crosses a multiple of {LINK_GRID:,}, as none that was made does")


async def _digest_of(events: AsyncIterator[Any], seq: int, batch: tuple[int, int, datetime | None]) -> bytes:
    """Return the digest of the next event, which must be ``seq``, of a batch."""
    event = await anext(events, None)
    if event is None or event[0] > seq:
        raise DoesNotFit(*batch, f"event {seq} is missing")
    found, alert_id, kind, topic, severity, recipients, actor, at, body, details = event
    if found < seq:
        raise DoesNotFit(*batch, f"event {found} is there twice")
    if kind is None or actor is None or at is None or body is None:
        raise DoesNotFit(*batch, f"event {seq} lacks its kind, actor, time or body")
    alert = body.encode()
    if column := _disagrees(alert, alert_id, topic, severity, recipients):
        raise DoesNotFit(*batch, f"event {seq}: its {column} is not what its body says")
    return digest(event_line(kind, at, actor, alert, details.encode() if details is not None else None))


def _disagrees(
    body: bytes, alert_id: str | None, topic: str | None, severity: str | None, recipients: list[str] | None
) -> str | None:
    """Return the column that says something else than the body, which alone is in the link; None: all agree."""
    try:
        alert = orjson.loads(body)
        shown = alert["id"], alert["topic"], alert["severity"]
        posted = alert["recipients"]
        by_name = sorted(posted) if posted is not None else None
    except (ValueError, TypeError, KeyError):
        return "body"
    if shown != (alert_id, topic, severity):
        columns = ("alert_id", "topic", "severity")
        return next(name for name, a, b in zip(columns, shown, (alert_id, topic, severity), strict=True) if a != b)
    # The event of an alert that was just stored has them as they were posted, the others by name.
    return None if recipients in (posted, by_name) else "recipients"


async def check_ledger(connection: asyncpg.Connection, before: Anchor, up_to: int) -> Tally:
    """Check the links of the ledger that follow ``before``, up to number ``up_to``, and the rows that they cover.

    Raises:
        DoesNotFit: the first link that does not fit.

    """
    begin, rows = before.position, 0
    lines = aiter(connection.cursor(_LINES, begin, up_to, prefetch=LINES_AT_ONCE))
    row = await anext(lines, None)
    async for number, at, stored in connection.cursor(_LEDGER_LINKS, begin, up_to, prefetch=LINKS_AT_ONCE):
        expected = before.position + 1
        if number != expected:
            what = "it is missing" if number > expected else "the one before it is there twice"
            raise DoesNotFit(expected, expected, None, what)
        covered = []
        while row is not None and row[0] == number:
            covered.append(row[1].encode())
            row = await anext(lines, None)
        if at is None or ledger_link(before.hash, number, at, covered) != stored:
            what = "a closing, dispatch or receipt of it was altered, added or removed, or the link itself was altered"
            raise DoesNotFit(number, number, at, what)
        before = Anchor(number, stored)
        rows += len(covered)
    if before.position != up_to:
        raise DoesNotFit(before.position + 1, before.position + 1, None, "it is missing")
    return Tally(before, before.position - begin, rows)
