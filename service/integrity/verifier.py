"""Taking a whole chain, range by range, several at once.

``verify`` first takes the head, and what stands outside the chain, in one snapshot; then it checks every link up to the
head. What is appended meanwhile comes after it, and what is there does not change, so each range can have a snapshot of
its own. Where retention has let go the beginning, its books say what the first link that is left follows. Ranges are
checked in several processes: half of the work is decoding and hashing in Python. Their results are taken in order, so
what is reported is the first misfit, and everything before the place that was reached is checked.

::

    survey ──► head, strays ──► ranges ──► worker ─┐
                                  │  └───► worker ─┴─► in order ──► reached …, misfit or verdict
"""

from __future__ import annotations

import asyncio
import math
import multiprocessing
import os
import signal
import threading
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import asyncpg

from service.database.engine import CONNECTION_LOST
from service.errors import CommandFailed
from service.integrity.link_checks import ORIGIN, Anchor, DoesNotFit, Misfit, Tally, check_ledger, check_log, time_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Sequence
    from concurrent.futures import Future
    from datetime import datetime

    from service.integrity.link_checks import ChainName

_STRAY_EVENTS = f"""
SELECT min(seq), max(seq), min({time_of("occurred_at")}), 'they stand before the first link' FROM events
WHERE seq <= $1 HAVING count(*) > 0
UNION ALL
SELECT min(seq), max(seq), min({time_of("occurred_at")}), 'they stand beyond the last link' FROM events
WHERE seq > $2 HAVING count(*) > 0
"""  # noqa: S608 - constant
_STRAY_ROWS = f"""
SELECT min(ledger_link_id), max(ledger_link_id), min({time_of("at")}),
       format('%s row(s) of %s stand outside the chain', count(*), source)
FROM (
    SELECT 'connections' AS source, ledger_link_id, closed_at AS at FROM connections
    WHERE closed_at IS NOT NULL OR ledger_link_id IS NOT NULL
    UNION ALL SELECT 'dispatches', ledger_link_id, at FROM dispatches
    UNION ALL SELECT 'receipts', ledger_link_id, received_at FROM receipts
) AS rows
WHERE ledger_link_id IS NULL OR ledger_link_id <= $1 OR ledger_link_id > $2
GROUP BY source, ledger_link_id
"""  # noqa: S608 - constant


@dataclass(frozen=True)
class Chain:
    """A chain: its table, the column of its order, what stands outside it, and how a range of it is checked."""

    name: ChainName
    table: str
    column: str
    purged: str
    strays: str
    check: Callable[[asyncpg.Connection, Anchor, int], Awaitable[Tally]]
    span: int
    """How long a range is."""


_PURGED_LOG = """
SELECT last_seq, log_hash, dropped_at IS NULL FROM retention_runs
WHERE last_seq IS NOT NULL ORDER BY last_seq DESC LIMIT 1
"""
_PURGED_LEDGER = """
SELECT ledger_link_id, ledger_hash, false FROM retention_runs
WHERE ledger_link_id IS NOT NULL ORDER BY ledger_link_id DESC LIMIT 1
"""

LOG = Chain("log", "log_chain", "last_seq", _PURGED_LOG, _STRAY_EVENTS, check_log, 20_000)
LEDGER = Chain("ledger", "ledger_chain", "ledger_link_id", _PURGED_LEDGER, _STRAY_ROWS, check_ledger, 500)


class Purged(NamedTuple):
    """The last link that retention let go; ``under_way``: what is before it is still going, or waits to."""

    anchor: Anchor = ORIGIN
    under_way: bool = False


NOTHING = Purged()


class Head(NamedTuple):
    """The last link when the verification began. ``linked_at`` is None where there is none."""

    position: int
    hash: bytes
    linked_at: datetime | None


class Survey(NamedTuple):
    """What was seen in one instant: the head, what stands outside the chain, and which noted hashes are in it.

    ``found`` has a position for each that was looked for, None where no link has that hash.
    """

    head: Head
    strays: list[Misfit]
    found: dict[bytes, int | None]


@dataclass
class Verdict:
    """What became of a chain: what of it was checked, and the first misfit, if any.

    ``found`` says where each noted hash is in the chain; None: nowhere.
    """

    chain: Chain
    begin: Anchor
    head: Head
    reached: Anchor
    found: dict[bytes, int | None]
    misfit: Misfit | None = None
    links: int = 0
    rows: int = 0


@asynccontextmanager
async def _reading(address: str) -> AsyncIterator[asyncpg.Connection]:
    """Open a connection that sees one instant.

    Raises:
        CommandFailed: the database cannot be read.

    """
    try:
        connection = await asyncpg.connect(address, timeout=10, server_settings={"timezone": "UTC", "jit": "off"})
        try:
            # Built-in functions before those of the same name that somebody may have put beside our tables.
            await connection.execute(
                "SELECT pg_catalog.set_config("
                "'search_path', 'pg_catalog, ' || pg_catalog.current_setting('search_path'), false)"
            )
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                yield connection
        finally:
            await connection.close(timeout=5)
    except asyncpg.UndefinedTableError as error:
        raise CommandFailed(f"{error}: bring the schema up to date with tocsin migrate") from None
    except (*CONNECTION_LOST, asyncpg.PostgresError) as error:
        raise CommandFailed(
            f"the database cannot be read: {error or type(error).__name__}; run the command again, it goes on from here"
        ) from None


def verify(  # noqa: PLR0913 - where, what, from where, and how
    address: str,
    chain: Chain,
    *,
    purged: Purged = NOTHING,
    reached: Anchor | None = None,
    noted: Anchor | None = None,
    expected: Sequence[bytes] = (),
    jobs: int = 1,
    progress: Callable[[Verdict], None] = lambda _: None,
) -> Verdict:
    """Check a chain from the end of what was purged up to its head.

    What lies before ``reached`` was checked by a run that was interrupted, and is not looked at again. ``reached`` and
    ``noted``, the head of an earlier run, must still be links of the chain; whether the hashes in ``expected`` are, the
    verdict says. ``progress`` is told after each range.

    Raises:
        CommandFailed: the database cannot be read.

    """
    begin = purged.anchor
    known = [place for place in (reached, noted) if place is not None and place.position >= begin.position]
    seen = asyncio.run(_survey(address, chain, purged, [*expected, *(place.hash for place in known)]))
    misfits = list(seen.strays)
    for place in known:
        if seen.found[place.hash] != place.position:
            what = "an earlier run found another link there; if the database was restored since, use --from-start"
            misfits.append(Misfit(place.position, place.position, None, what))
        elif place is reached:
            begin = reached
    verdict = Verdict(chain, begin, seen.head, begin, {hash_: seen.found[hash_] for hash_ in expected})
    with closing(_results(address, chain, begin, seen.head.position, jobs)) as results:
        for result in results:
            if isinstance(result, Misfit):
                misfits.append(result)
                break
            verdict.reached = result.reached
            verdict.links += result.links
            verdict.rows += result.rows
            progress(verdict)
        else:
            if verdict.reached != seen.head[:2]:
                what = "the last link was there when the verification began, and is no longer"
                misfits.append(Misfit(seen.head.position, seen.head.position, seen.head.linked_at, what))
    verdict.misfit = min(misfits, key=_place, default=None)
    return verdict


def _place(misfit: Misfit) -> float:
    return math.inf if misfit.first is None else misfit.first


def purged_from(address: str, chain: Chain) -> Purged:
    """Return what the books of retention say of a chain.

    Raises:
        CommandFailed: the database cannot be read.

    """
    return asyncio.run(_purged_from(address, chain))


async def _purged_from(address: str, chain: Chain) -> Purged:
    async with _reading(address) as connection:
        row = await connection.fetchrow(chain.purged)
    return Purged(Anchor(row[0], row[1]), row[2]) if row is not None else NOTHING


async def _survey(address: str, chain: Chain, purged: Purged, hashes: Sequence[bytes]) -> Survey:
    async with _reading(address) as connection:
        return await survey(connection, chain, hashes, purged)


async def survey(
    connection: asyncpg.Connection, chain: Chain, hashes: Sequence[bytes] = (), purged: Purged = NOTHING
) -> Survey:
    """Look at a chain from outside, in one snapshot, and for links that have one of ``hashes``."""
    column, anchor = chain.column, purged.anchor
    newest = await connection.fetchrow(
        f"SELECT {column}, hash, {time_of('linked_at')} FROM {chain.table} WHERE {column} > $1"  # noqa: S608 - constants
        f" ORDER BY {column} DESC LIMIT 1",
        anchor.position,
    )
    head = Head(*newest) if newest is not None else Head(*anchor, None)
    strays = [Misfit(*row) for row in await connection.fetch(chain.strays, anchor.position, head.position)]
    early = await connection.fetchval(
        f"SELECT min({column}) FROM {chain.table}"  # noqa: S608 - constants
        f" WHERE {column} < $1 OR ({column} = $1 AND hash IS DISTINCT FROM $2)",
        *anchor,
    )
    if purged.under_way:
        strays = [misfit for misfit in strays if misfit.last is None or misfit.last > anchor.position]
    elif early is not None:
        strays.append(Misfit(early, early, None, "a link stands before the first"))
    known = await connection.fetch(
        f"SELECT hash, {column} FROM {chain.table} WHERE hash = ANY ($1) AND {column} > $2",  # noqa: S608 - constants
        hashes,
        anchor.position,
    )
    return Survey(head, strays, {**dict.fromkeys(hashes), anchor.hash: anchor.position, **dict(known)})


def _results(address: str, chain: Chain, begin: Anchor, head: int, jobs: int) -> Generator[Tally | Misfit]:
    """Yield what became of each range, in order."""
    starts = range(begin.position, head, chain.span)
    ranges = ((address, chain, begin, start, min(start + chain.span, head)) for start in starts)
    if min(jobs, len(starts)) <= 1:
        yield from (_check(*one) for one in ranges)
        return
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _begin_worker)
    try:
        waiting: deque[Future[Tally | Misfit]] = deque()
        for one in ranges:
            waiting.append(pool.submit(_check, *one))
            if len(waiting) > 2 * jobs:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _begin_worker() -> None:
    """Leave Ctrl-C to the parent, and end with it, also where it was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
    os._exit(1)


def _check(address: str, chain: Chain, begin: Anchor, after: int, up_to: int) -> Tally | Misfit:
    """Check the links that end after ``after`` and not after ``up_to``; none before ``begin``."""
    try:
        return asyncio.run(_check_range(address, chain, begin, after, up_to))
    except DoesNotFit as error:
        return error.misfit


async def _check_range(address: str, chain: Chain, begin: Anchor, after: int, up_to: int) -> Tally:
    async with _reading(address) as connection:
        previous = await connection.fetchrow(
            f"SELECT {chain.column}, hash FROM {chain.table} WHERE {chain.column} > $1 AND {chain.column} <= $2"  # noqa: S608 - constants
            f" ORDER BY {chain.column} DESC LIMIT 1",
            begin.position,
            after,
        )
        return await chain.check(connection, Anchor(*previous) if previous is not None else begin, up_to)
