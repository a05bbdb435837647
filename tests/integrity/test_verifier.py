from __future__ import annotations

import asyncio
import dataclasses
import uuid
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from service.database.engine import Database, parse_url
from service.events.hash_chain import digest, link
from service.events.log import read_tail
from service.events.position import ORIGIN as LOG_ORIGIN
from service.integrity.chain_sources import LEDGER, LOG, PurgedPrefix, TablesMissing
from service.integrity.link_checks import ORIGIN, LinkRef
from service.integrity.verifier import Verification, verify
from service.ledger.hash_chain import ledger_link
from service.settings import StorageSettings
from tests.harness import new_database
from tests.integrity import tampering

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from service.integrity.chain_sources import Chain
    from service.integrity.link_checks import Mismatch
    from tests.harness import Node

RANGE_SIZE = 10
"""Ranges so short that every case has several."""


@pytest.fixture
async def intruder(copy_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A superuser on the database of the test."""
    connection = await asyncpg.connect(copy_url)
    yield connection
    await connection.close()


async def verified(url: str, chain: Chain, range_size: int = RANGE_SIZE, **options: Any) -> Verification:
    return await asyncio.to_thread(verify, url, dataclasses.replace(chain, range_size=range_size), **options)


async def mismatches(url: str) -> dict[str, Mismatch]:
    found = {chain.name: (await verified(url, chain)).mismatch for chain in (LOG, LEDGER)}
    return {name: mismatch for name, mismatch in found.items() if mismatch is not None}


async def test_what_nobody_touched_fits(copy_url: str, intruder: asyncpg.Connection) -> None:
    log, ledger = await verified(copy_url, LOG), await verified(copy_url, LEDGER)
    assert log.mismatch is ledger.mismatch is None
    last, hash_, at = await intruder.fetchrow("SELECT last_seq, hash, linked_at FROM log_chain ORDER BY 1 DESC LIMIT 1")
    assert (log.head, log.checked_to, log.rows) == ((last, hash_, at), (last, hash_), last)
    assert log.links == await intruder.fetchval("SELECT count(*) FROM log_chain") > 10
    number, rows = await intruder.fetchrow(
        "SELECT (SELECT max(ledger_link_id) FROM ledger_chain), (SELECT count(*) FROM receipts)"
        " + (SELECT count(*) FROM sightings) + (SELECT count(*) FROM dispatches)"
        " + (SELECT count(*) FROM connections WHERE closed_at IS NOT NULL)"
    )
    assert (ledger.head.position, ledger.links, ledger.rows) == (number, number, rows)
    assert await intruder.fetchval("SELECT count(*) FROM connections WHERE closed_at IS NULL") == 1


async def test_a_database_without_anything_fits(database_url: str) -> None:
    assert await mismatches(database_url) == {}
    assert (await verified(database_url, LOG)).head == (0, bytes(32), None)


# The log.


@pytest.mark.parametrize("case", tampering.LOG)
async def test_what_is_altered_in_the_log_is_found_and_its_batch_is_named(
    copy_url: str, intruder: asyncpg.Connection, case: str
) -> None:
    first, last, at = await intruder.fetchrow(
        "SELECT first_seq, last_seq, linked_at FROM log_chain WHERE last_seq >= first_seq + 2 ORDER BY 1 OFFSET 1"
    )
    await intruder.execute(tampering.LOG[case].format(first=first, last=last, seq=first + 1, next=last + 1))
    found = await mismatches(copy_url)
    assert found.keys() == {"log"}
    mismatch = found["log"]
    assert mismatch.first is not None
    assert mismatch.last is not None
    if case in ("the end of a link", "an inserted link"):
        assert first <= mismatch.first <= mismatch.last <= last
    else:
        assert (mismatch.first, mismatch.last) == (first, last)
        assert "link" in case or mismatch.linked_at == at or case == "a deleted batch"


@pytest.mark.parametrize("case", tampering.OUTSIDE_THE_LOG)
async def test_what_stands_outside_the_log_is_found(copy_url: str, intruder: asyncpg.Connection, case: str) -> None:
    head = await intruder.fetchval("SELECT max(seq) FROM events")
    statement, offset = tampering.OUTSIDE_THE_LOG[case]
    await intruder.execute(statement.format(head=head))
    found = await mismatches(copy_url)
    assert found.keys() == {"log"}
    assert found["log"].first == (0 if offset is None else head + offset)


# The ledger.


@pytest.mark.parametrize("case", tampering.LEDGER)
async def test_what_is_altered_in_the_ledger_is_found_and_its_link_is_named(
    copy_url: str, intruder: asyncpg.Connection, case: str
) -> None:
    number = await intruder.fetchval(
        "SELECT ledger_link_id FROM receipts JOIN dispatches USING (ledger_link_id)"
        " GROUP BY ledger_link_id ORDER BY ledger_link_id OFFSET 1 LIMIT 1"
    )
    closing = await intruder.fetchval(
        "SELECT ledger_link_id FROM connections WHERE ledger_link_id IS NOT NULL ORDER BY 1 OFFSET 1 LIMIT 1"
    )
    table = "dispatches" if "dispatch" in case else "receipts"
    if "sighting" in case:
        table, number = "sightings", await intruder.fetchval("SELECT min(ledger_link_id) FROM sightings")
    await intruder.execute(
        tampering.LEDGER[case]
        .replace(tampering.ONE, tampering.ONE.format(table=table, link=number))
        .format(link=number, closing=closing)
    )
    found = await mismatches(copy_url)
    assert found.keys() == {"ledger"}
    expected = closing if "clos" in case or "opened" in case else number
    assert (found["ledger"].first, found["ledger"].last) == (expected, expected)


@pytest.mark.parametrize("case", tampering.OUTSIDE_THE_LEDGER)
async def test_what_stands_outside_the_ledger_is_found(copy_url: str, intruder: asyncpg.Connection, case: str) -> None:
    head = await intruder.fetchval("SELECT max(ledger_link_id) FROM ledger_chain")
    last_closing = await intruder.fetchval("SELECT max(ledger_link_id) FROM connections")
    statement, place = tampering.OUTSIDE_THE_LEDGER[case]
    await intruder.execute(statement.format(head=head))
    found = await mismatches(copy_url)
    assert found.keys() == {"ledger"}
    expected = {None: None, -1: last_closing}.get(place, head + (place or 0))
    assert found["ledger"].first == (0 if "before" in case else expected)


# Links with recomputed hashes.


async def relink_log(url: str, seq: int, count: int) -> None:
    """Recompute the hashes of ``count`` links, from the one that covers ``seq`` on."""
    database = Database(parse_url(url), StorageSettings())
    async with database.transaction() as tx:
        events = await read_tail(tx, LOG_ORIGIN, 100_000)
    await database.close()
    connection = await asyncpg.connect(url)
    previous = await connection.fetchval("SELECT hash FROM log_chain WHERE last_seq < $1 ORDER BY last_seq DESC", seq)
    rows = await connection.fetch("SELECT * FROM log_chain WHERE last_seq >= $1 ORDER BY 1 LIMIT $2", seq, count)
    for row in rows:
        digests = [digest(event.line) for event in events[row["first_seq"] - 1 : row["last_seq"]]]
        previous = link(previous, row["first_seq"], row["linked_at"], digests)
        await connection.execute("UPDATE log_chain SET hash = $1 WHERE last_seq = $2", previous, row["last_seq"])
    await connection.close()


async def relink_ledger(connection: asyncpg.Connection, first: int, count: int) -> None:
    previous = await connection.fetchval("SELECT hash FROM ledger_chain WHERE ledger_link_id = $1", first - 1)
    for number, at in await connection.fetch(
        "SELECT ledger_link_id, linked_at FROM ledger_chain WHERE ledger_link_id >= $1 ORDER BY 1 LIMIT $2",
        first,
        count,
    ):
        lines = await connection.fetch(
            "SELECT closing_line(c) FROM connections c WHERE ledger_link_id = $1"
            " UNION ALL SELECT dispatch_line(d) FROM dispatches d WHERE ledger_link_id = $1"
            " UNION ALL SELECT receipt_line(r) FROM receipts r WHERE ledger_link_id = $1"
            " UNION ALL SELECT sighting_line(s) FROM sightings s WHERE ledger_link_id = $1",
            number,
        )
        previous = ledger_link(previous, number, at, [row[0].encode() for row in lines])
        await connection.execute("UPDATE ledger_chain SET hash = $1 WHERE ledger_link_id = $2", previous, number)


async def test_an_event_that_was_linked_anew_does_not_fit_the_next_link(
    copy_url: str, intruder: asyncpg.Connection
) -> None:
    await intruder.execute("UPDATE events SET actor = 'mallory' WHERE seq = 7")
    await relink_log(copy_url, 7, 1)
    following = await intruder.fetchrow("SELECT first_seq, last_seq FROM log_chain WHERE first_seq > 7 ORDER BY 1")
    assert (await mismatches(copy_url))["log"][:2] == tuple(following)


async def test_a_log_that_was_linked_anew_to_its_end_is_found_by_an_expected_head_alone(
    copy_url: str, intruder: asyncpg.Connection
) -> None:
    before = (await verified(copy_url, LOG)).head
    await intruder.execute("UPDATE events SET actor = 'mallory' WHERE seq = 7")
    await relink_log(copy_url, 7, 1_000)
    result = await verified(copy_url, LOG, expected=[before.hash])
    assert (result.mismatch, result.found) == (None, {before.hash: None})
    result = await verified(copy_url, LOG, earlier_head=LinkRef(*before[:2]))
    assert result.mismatch is not None
    assert result.mismatch.first == before.position


async def test_a_log_whose_end_was_cut_off_is_found_by_an_expected_head_alone(
    copy_url: str, intruder: asyncpg.Connection
) -> None:
    whole = (await verified(copy_url, LOG)).head
    cut, hash_ = await intruder.fetchrow("SELECT last_seq, hash FROM log_chain ORDER BY 1 DESC OFFSET 3 LIMIT 1")
    await intruder.execute(f"DELETE FROM log_chain WHERE last_seq > {cut}; DELETE FROM events WHERE seq > {cut}")
    result = await verified(copy_url, LOG, expected=[whole.hash, hash_])
    assert (result.mismatch, result.found) == (None, {whole.hash: None, hash_: cut})


async def test_a_ledger_that_was_linked_anew_is_found_by_the_next_link_or_by_an_expected_head(
    copy_url: str, intruder: asyncpg.Connection
) -> None:
    before = (await verified(copy_url, LEDGER)).head
    number = await intruder.fetchval("SELECT min(ledger_link_id) FROM receipts WHERE ledger_link_id > 1")
    await intruder.execute("UPDATE receipts SET received_at = now() WHERE ledger_link_id = $1", number)
    await relink_ledger(intruder, number, 1)
    assert (await mismatches(copy_url))["ledger"].first == number + 1
    await relink_ledger(intruder, number, 1_000)
    result = await verified(copy_url, LEDGER, expected=[before.hash])
    assert (result.mismatch, result.found) == (None, {before.hash: None})


async def test_the_first_of_several_mismatches_is_named(copy_url: str, intruder: asyncpg.Connection) -> None:
    await intruder.execute("UPDATE events SET actor = 'mallory' WHERE seq IN (7, 15, 30)")
    mismatch = (await mismatches(copy_url))["log"]
    assert mismatch.first is not None
    assert mismatch.last is not None
    assert mismatch.first <= 7 <= mismatch.last


# Ranges, processes and interruptions.


async def test_several_processes_find_what_one_finds(copy_url: str, intruder: asyncpg.Connection) -> None:
    assert await verified(copy_url, LEDGER, jobs=2) == await verified(copy_url, LEDGER)
    await intruder.execute("UPDATE events SET actor = 'mallory' WHERE seq IN (15, 30)")
    one, two = await verified(copy_url, LOG, 3), await verified(copy_url, LOG, 3, jobs=2)
    assert one == two
    assert one.mismatch is not None


async def test_a_service_that_goes_on_writing_fits(node: Node) -> None:
    stop = asyncio.Event()

    async def write() -> None:
        while not stop.is_set():
            await node.post_all([{"topic": "a"}] * 40)
            await stream.ack((await stream.events(40))[-1]["seq"])

    async with await node.live() as stream:
        writing = asyncio.create_task(write())
        try:
            heads: list[tuple[int, int]] = []
            while len(heads) < 3 or not (heads[0][0] < heads[-1][0] and heads[0][1] < heads[-1][1]):
                results = [await asyncio.to_thread(verify, node.database_url, chain) for chain in (LOG, LEDGER)]
                assert [result.mismatch for result in results] == [None, None]
                heads.append((results[0].head.position, results[1].head.position))
        finally:
            stop.set()
            await writing
    assert await mismatches(node.database_url) == {}


class Interrupted(Exception):
    pass


async def test_a_run_that_goes_on_looks_only_at_what_comes_after(copy_url: str, intruder: asyncpg.Connection) -> None:
    steps: list[LinkRef] = []

    def interrupt(result: Verification) -> None:
        steps.append(result.checked_to)
        if len(steps) == 4:
            raise Interrupted

    with pytest.raises(Interrupted):
        await verified(copy_url, LOG, range_size=3, progress=interrupt)
    checked_to = steps[-1]
    assert 0 < checked_to.position < await intruder.fetchval("SELECT max(seq) FROM events") - 10
    result = await verified(copy_url, LOG, resume_after=checked_to)
    assert (result.mismatch, result.checked_from, result.rows) == (
        None,
        checked_to,
        result.head.position - checked_to.position,
    )
    await intruder.execute("UPDATE events SET actor = 'mallory' WHERE seq = 1")
    assert (await verified(copy_url, LOG, resume_after=checked_to)).mismatch is None
    await intruder.execute("UPDATE events SET actor = 'mallory' WHERE seq = $1", checked_to.position + 1)
    mismatch = (await verified(copy_url, LOG, resume_after=checked_to)).mismatch
    assert mismatch is not None
    assert mismatch.first == checked_to.position + 1


async def test_a_run_begins_anew_where_the_link_that_was_reached_is_another(
    copy_url: str, intruder: asyncpg.Connection
) -> None:
    last, hash_ = await intruder.fetchrow("SELECT last_seq, hash FROM log_chain ORDER BY 1 OFFSET 6 LIMIT 1")
    await intruder.execute("UPDATE events SET actor = 'mallory' WHERE seq = 2")
    await relink_log(copy_url, 2, 1_000)
    result = await verified(copy_url, LOG, resume_after=LinkRef(last, hash_))
    assert (result.checked_from, result.mismatch and result.mismatch.first) == (ORIGIN, last)


async def test_what_was_purged_is_where_it_begins(copy_url: str, intruder: asyncpg.Connection) -> None:
    """The hash of the last purged link stands in for all that it covered."""
    last, hash_ = await intruder.fetchrow("SELECT last_seq, hash FROM log_chain ORDER BY 1 OFFSET 6 LIMIT 1")
    purged = PurgedPrefix(LinkRef(last, hash_))
    await intruder.execute(f"DELETE FROM events WHERE seq <= {last}; DELETE FROM log_chain WHERE last_seq < {last}")
    assert (await verified(copy_url, LOG, purged=purged)).mismatch is None
    await intruder.execute(f"DELETE FROM log_chain WHERE last_seq = {last}")
    result = await verified(copy_url, LOG, purged=purged, expected=[hash_])
    assert (result.mismatch, result.checked_from, result.found) == (None, purged.end, {hash_: last})
    assert (await verified(copy_url, LOG)).mismatch is not None
    assert (await verified(copy_url, LOG, purged=PurgedPrefix(LinkRef(last, bytes(32))))).mismatch is not None


async def test_a_database_without_the_tables_is_to_be_migrated(server_url: str) -> None:
    async with new_database(server_url, f"test_{uuid.uuid4().hex}", "template0") as url:
        with pytest.raises(TablesMissing):
            await asyncio.to_thread(verify, url, LOG)
