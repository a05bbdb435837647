"""The checks of links, on rows that a fake connection delivers."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

import pytest

from service.events.hash_chain import LINK_GRID, digest, event_line, link
from service.integrity import link_checks
from service.integrity.link_checks import ORIGIN, LinkRef, Mismatch, MismatchFound, check_ledger, check_log
from service.ledger.hash_chain import ledger_link

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable

pytestmark = pytest.mark.unit

AT = datetime(2026, 11, 21, 9, 41, 7, tzinfo=UTC)
Rows = list[tuple[Any, ...]]


class Delivered:
    """A connection that delivers given rows, whatever the range that is asked for."""

    def __init__(self, rows: dict[str, Rows], following: tuple[Any, ...] | None = None) -> None:
        self._rows = rows
        self._following = following

    async def cursor(self, query: str, *_: int, prefetch: int) -> AsyncIterator[tuple[Any, ...]]:
        assert prefetch > 0
        for row in self._rows[query]:
            yield row

    async def fetchrow(self, _query: str, *_: int) -> tuple[Any, ...] | None:
        return self._following


async def mismatch(check: Awaitable[Any]) -> Mismatch:
    with pytest.raises(MismatchFound) as found:
        await check
    return found.value.mismatch


# The log.


def event(seq: int) -> tuple[Any, ...]:
    body = json.dumps({"id": str(seq), "topic": "default", "severity": "info", "recipients": None})
    return (seq, -seq, str(seq), "alert.created", "default", "info", None, "billing", AT, body, None)


def log_link(first: int, last: int, previous: bytes = ORIGIN.hash) -> tuple[Any, ...]:
    digests = [
        digest(event_line(-seq, "alert.created", AT, "billing", event(seq)[9].encode()))
        for seq in range(first, last + 1)
    ]
    return (first, last, AT, -last, link(previous, first, AT, digests))


FIRST = log_link(1, 3)
SECOND = log_link(4, 5, FIRST[4])
EVENTS = [event(seq) for seq in range(1, 6)]


def log(links: Rows, events: Rows, following: tuple[Any, ...] | None = None) -> Any:
    rows = {link_checks._LOG_LINKS: links, link_checks._EVENTS: events}
    return cast("Any", Delivered(rows, following))


async def test_a_log_that_matches_is_checked_to_its_last_link() -> None:
    checked = await check_log(log([FIRST, SECOND], EVENTS), ORIGIN, 5)
    assert checked == (LinkRef(5, SECOND[4]), 2, 5)


async def test_a_range_needs_only_the_hash_of_the_link_before_it() -> None:
    checked = await check_log(log([SECOND], EVENTS[3:]), LinkRef(3, FIRST[4]), 5)
    assert checked == (LinkRef(5, SECOND[4]), 1, 2)
    found = await mismatch(check_log(log([SECOND], EVENTS[3:]), LinkRef(3, bytes(32)), 5))
    assert found[:2] == (4, 5)


@pytest.mark.parametrize(
    ("links", "events", "first", "last", "reason"),
    [
        ([FIRST, SECOND], EVENTS[1:], 1, 3, "event 1 is missing"),
        ([FIRST, SECOND], EVENTS[:-1], 4, 5, "event 5 is missing"),
        ([FIRST, SECOND], [EVENTS[0], *EVENTS], 1, 3, "event 1 is there twice"),
        ([FIRST, SECOND], [*EVENTS, EVENTS[-1]], 4, 5, "event 5 is there twice"),
        ([FIRST, SECOND], [*EVENTS[:3], *EVENTS[2:]], 1, 3, "event 3 is there twice"),
        (
            [FIRST, SECOND],
            [(*event(1)[:7], None, *event(1)[8:]), *EVENTS[1:]],
            1,
            3,
            "lacks its id, kind, actor, time or body",
        ),
        (
            [FIRST, SECOND],
            [(*event(1)[:4], "shop", *event(1)[5:]), *EVENTS[1:]],
            1,
            3,
            "its topic is not what its body says",
        ),
        ([FIRST, SECOND], [(*event(1)[:7], "mallory", *event(1)[8:]), *EVENTS[1:]], 1, 3, "was altered"),
        ([FIRST, (*SECOND[:4], bytes(32))], EVENTS, 4, 5, "was altered"),
        ([(1, 3, None, -3, FIRST[4]), SECOND], EVENTS, 1, 3, "was altered"),
        ([(*FIRST[:3], 9, FIRST[4]), SECOND], EVENTS, 1, 3, "was altered"),
        ([FIRST, SECOND], [(1, 9, *event(1)[2:]), *EVENTS[1:]], 1, 3, "was altered"),
        ([SECOND], EVENTS, 1, 3, "no link covers them"),
        ([FIRST, log_link(3, 5)], EVENTS, 4, 5, "does not begin where the one before it ends"),
        ([(1, LINK_GRID, AT, 0, b"")], EVENTS, 1, LINK_GRID, "crosses a multiple of 10,000"),
    ],
)
async def test_the_first_mismatch_of_a_log_is_named(
    links: Rows, events: Rows, first: int, last: int, reason: str
) -> None:
    found = await mismatch(check_log(log(links, events), ORIGIN, 5))
    assert (found.first, found.last) == (first, last)
    assert reason in found.reason


async def test_a_range_without_a_link_matches_if_the_next_link_covers_it() -> None:
    assert await check_log(log([], [], following=(1, 9, AT)), ORIGIN, 5) == (ORIGIN, 0, 0)
    found = await mismatch(check_log(log([], [], following=(7, 9, AT)), ORIGIN, 5))
    assert (found.first, found.last, found.reason) == (1, 6, "no link covers them")


# The ledger.

LINES = [(1, "a"), (1, "b"), (2, "c")]
ONE = (1, AT, ledger_link(ORIGIN.hash, 1, AT, [b"a", b"b"]))
TWO = (2, AT, ledger_link(ONE[2], 2, AT, [b"c"]))


def ledger(links: Rows, lines: Rows) -> Any:
    return cast("Any", Delivered({link_checks._LEDGER_LINKS: links, link_checks._LINES: lines}))


async def test_a_ledger_that_matches_is_checked_to_its_last_link() -> None:
    assert await check_ledger(ledger([ONE, TWO], LINES), ORIGIN, 2) == (LinkRef(2, TWO[2]), 2, 3)


@pytest.mark.parametrize(
    ("links", "lines", "position", "reason"),
    [
        ([ONE, TWO], LINES[1:], 1, "altered, added or removed"),
        ([ONE, TWO], [(1, "a"), (1, "B"), (2, "c")], 1, "altered, added or removed"),
        ([ONE, TWO], [(1, "a"), (2, "b"), (2, "c")], 1, "altered, added or removed"),
        ([ONE, TWO], [*LINES, (2, "d")], 2, "altered, added or removed"),
        ([(1, None, ONE[2]), TWO], LINES, 1, "the link itself was altered"),
        ([TWO], LINES, 1, "it is missing"),
        ([ONE], LINES, 2, "it is missing"),
        ([ONE, ONE, TWO], LINES, 2, "the one before it is there twice"),
    ],
)
async def test_the_first_mismatch_of_a_ledger_is_named(links: Rows, lines: Rows, position: int, reason: str) -> None:
    found = await mismatch(check_ledger(ledger(links, lines), ORIGIN, 2))
    assert (found.first, found.last) == (position, position)
    assert reason in found.reason
