"""The verifier: checks a whole chain, range by range, in several processes.

``verify`` first reads the head of the chain and the rows outside it, in one snapshot. Then it
checks every link up to the head. What is appended meanwhile comes after the head, and what is there
does not change, so that each range can have a snapshot of its own. Half of the work is decoding and
hashing in Python, hence the processes. Their results are taken in order: the mismatch that is
reported is the first one, and everything before ``checked_to`` was checked::

    snapshot ──► head, orphans ──► ranges ──► worker ─┐
                                     │  └───► worker ─┴─► in order ──► checked_to …, mismatch
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
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from service.integrity.chain_sources import NOTHING_PURGED, read_purged_prefix, snapshot_connection, take_snapshot
from service.integrity.link_checks import CheckedRange, LinkRef, Mismatch, MismatchFound

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from concurrent.futures import Future

    from service.integrity.chain_sources import Chain, ChainHead, ChainSnapshot, PurgedPrefix


@dataclass
class Verification:
    """The result of verifying a chain: what was checked, and the first mismatch, if any.

    ``found`` holds the position of each expected hash, None for a hash that no link has.
    """

    chain: Chain
    checked_from: LinkRef
    head: ChainHead
    checked_to: LinkRef
    found: dict[bytes, int | None]
    mismatch: Mismatch | None = None
    links: int = 0
    rows: int = 0


def verify(  # noqa: PLR0913 - where, what, from where, and how
    address: str,
    chain: Chain,
    *,
    purged: PurgedPrefix = NOTHING_PURGED,
    resume_after: LinkRef | None = None,
    earlier_head: LinkRef | None = None,
    expected: Sequence[bytes] = (),
    jobs: int = 1,
    progress: Callable[[Verification], None] = lambda _: None,
) -> Verification:
    """Check a chain from the end of what was purged up to its head.

    What lies before ``resume_after`` was checked by a run that was interrupted, and is not checked
    again. ``resume_after`` and ``earlier_head``, the head that a complete run found, must still be
    links of the chain. Whether the hashes in ``expected`` are, the result says. ``progress`` is
    called after each range.

    Raises:
        CommandFailed: the database cannot be read.

    """
    start = purged.end
    known = [ref for ref in (resume_after, earlier_head) if ref is not None and ref.position >= start.position]
    snapshot = asyncio.run(_snapshot(address, chain, purged, [*expected, *(ref.hash for ref in known)]))
    mismatches = list(snapshot.orphans)
    for ref in known:
        if snapshot.found[ref.hash] != ref.position:
            reason = "an earlier run found another link there; if the database was restored since, use --from-start"
            mismatches.append(Mismatch(ref.position, ref.position, None, reason))
        elif ref is resume_after:
            start = resume_after
    head = snapshot.head
    found = {hash_: snapshot.found[hash_] for hash_ in expected}
    verification = Verification(chain, start, head, start, found)
    with closing(_check_ranges(address, chain, start, head.position, jobs)) as results:
        for result in results:
            if isinstance(result, Mismatch):
                mismatches.append(result)
                break
            verification.checked_to = result.end
            verification.links += result.links
            verification.rows += result.rows
            progress(verification)
        else:
            if verification.checked_to != head[:2]:
                reason = "the last link was there when the verification began, and is no longer"
                mismatches.append(Mismatch(head.position, head.position, head.linked_at, reason))
    verification.mismatch = min(mismatches, key=_position, default=None)
    return verification


def _position(mismatch: Mismatch) -> float:
    return math.inf if mismatch.first is None else mismatch.first


def purged_prefix(address: str, chain: Chain) -> PurgedPrefix:
    """Return how much of a chain was purged, according to the purge log.

    Raises:
        CommandFailed: the database cannot be read.

    """
    return asyncio.run(_purged_prefix(address, chain))


async def _purged_prefix(address: str, chain: Chain) -> PurgedPrefix:
    async with snapshot_connection(address) as connection:
        return await read_purged_prefix(connection, chain)


async def _snapshot(address: str, chain: Chain, purged: PurgedPrefix, hashes: Sequence[bytes]) -> ChainSnapshot:
    async with snapshot_connection(address) as connection:
        return await take_snapshot(connection, chain, hashes, purged)


def _check_ranges(
    address: str, chain: Chain, start: LinkRef, head: int, jobs: int
) -> Generator[CheckedRange | Mismatch]:
    """Yield the result of each range, in order."""
    starts = range(start.position, head, chain.range_size)
    ranges = ((address, chain, start, after, min(after + chain.range_size, head)) for after in starts)
    if min(jobs, len(starts)) <= 1:
        yield from (_check(*one) for one in ranges)
        return
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _init_worker)
    try:
        waiting: deque[Future[CheckedRange | Mismatch]] = deque()
        for one in ranges:
            waiting.append(pool.submit(_check, *one))
            if len(waiting) > 2 * jobs:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _init_worker() -> None:
    """Leave Ctrl-C to the parent, and end with it, even if it was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
    os._exit(1)


def _check(address: str, chain: Chain, start: LinkRef, after: int, up_to: int) -> CheckedRange | Mismatch:
    """Check the links that end in ``(after, up_to]``; ``start`` precedes all that is checked."""
    try:
        return asyncio.run(_check_range(address, chain, start, after, up_to))
    except MismatchFound as error:
        return error.mismatch


async def _check_range(address: str, chain: Chain, start: LinkRef, after: int, up_to: int) -> CheckedRange:
    async with snapshot_connection(address) as connection:
        previous = await connection.fetchrow(
            f"SELECT {chain.column}, hash FROM {chain.table} WHERE {chain.column} > $1 AND {chain.column} <= $2"  # noqa: S608 - constants
            f" ORDER BY {chain.column} DESC LIMIT 1",
            start.position,
            after,
        )
        return await chain.check(connection, LinkRef(*previous) if previous is not None else start, up_to)
