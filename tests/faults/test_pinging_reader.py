"""Clients that read slowly: those that ping meanwhile, and those that answer pings late or never."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from websockets.asyncio.client import connect

from tests.faults.load import UNLIMITED
from tests.harness import eventually, token
from tests.reader import Reader

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.harness import Process

ALERTS = 1_000
PAUSE_SECONDS = 0.01
"""For each event: ten seconds for all, three times as long as the client waits for an answer to its ping."""

DEFAULT_PAUSE_SECONDS = 0.05
DEFAULT_ALERTS = 5_000
READ_WITH_DEFAULTS = 1_500
"""75 seconds: the library pings every 20 seconds, and waits 20 seconds for the answer."""


async def post(node: Process, count: int) -> None:
    async with node.http() as client:
        for first in range(0, count, 500):
            alerts = [{"title": f"alert {first + number}", "body": "x" * 300} for number in range(500)]
            assert (await client.post("/v1/alerts/batch", json=alerts)).status_code == 200


async def read_slowly(node: Process, posted: int, count: int, pause: float, **options: Any) -> list[int]:
    """Return the first seqs that a client of ``websockets`` with these ``options`` got over one connection."""
    header = {"Authorization": f"Bearer {token('alice')}"}
    seqs: list[int] = []
    async with connect(f"{node.ws}?after=latest", additional_headers=header, proxy=None, **options) as stream:
        await post(node, posted)
        async for message in stream:
            frame = json.loads(message)
            if frame["type"] == "event":
                seqs.append(frame["seq"])
                await asyncio.sleep(pause)
            if len(seqs) == count:
                return seqs
    raise AssertionError


async def test_a_client_that_pings_reads_slowly_and_gets_everything(start: Callable[..., Process]) -> None:
    node = start(**UNLIMITED)
    seqs = await read_slowly(node, ALERTS, ALERTS, PAUSE_SECONDS, ping_interval=0.5, ping_timeout=3)
    assert seqs == list(range(1, ALERTS + 1))


@pytest.mark.long
async def test_a_client_with_the_defaults_of_its_library_works_on_each_event_of_a_burst(
    start: Callable[..., Process],
) -> None:
    node = start(**UNLIMITED)
    seqs = await read_slowly(node, DEFAULT_ALERTS, READ_WITH_DEFAULTS, DEFAULT_PAUSE_SECONDS)
    assert seqs == list(range(1, READ_WITH_DEFAULTS + 1))


@pytest.mark.parametrize("answers", [True, False], ids=["answers once it reads", "never answers"])
async def test_a_reader_that_stops_and_goes_on_gets_everything_and_no_more_counts_as_sent(
    answers: bool,  # noqa: FBT001 - pytest passes by name
    start: Callable[..., Process],
) -> None:
    node = start(**UNLIMITED, TOCSIN_LEDGER_FLUSH_SECONDS="0.05")
    reader = await asyncio.to_thread(Reader, node, "alice", answers=answers, after="latest")
    await post(node, ALERTS)
    for count in (ALERTS // 3, ALERTS // 2):
        await read(reader, count)
        await read(reader, await eventually(lambda: settled(node, reader.id)))
    await read(reader, ALERTS)
    assert reader.seqs == list(range(1, ALERTS + 1))
    await eventually(lambda: all_sent(node, reader.id))
    await asyncio.to_thread(reader.say_goodbye)


async def test_a_client_that_closes_amid_a_burst_still_reads_what_was_sent_to_it(start: Callable[..., Process]) -> None:
    node = start(**UNLIMITED, TOCSIN_LEDGER_FLUSH_SECONDS="0.05")
    for read_before in (1, ALERTS // 4, ALERTS // 2):
        reader = await asyncio.to_thread(Reader, node, "alice", small=True, after="latest")
        await post(node, ALERTS)
        await read(reader, read_before)
        await eventually(partial(settled, node, reader.id))
        await asyncio.to_thread(reader.say_goodbye)  # and answer the pings that come before the service's close frame
        assert reader.close[0] == 1000
        count = await eventually(partial(settled, node, reader.id))
        assert len(reader.seqs) >= count


async def read(reader: Reader, count: int) -> None:
    await asyncio.to_thread(reader.read_until, lambda: len(reader.seqs) >= count)


async def claimed(node: Process, connection: str) -> int:
    rows = await node.sql("SELECT count(*) FROM audit.deliveries WHERE connection::text = $1", connection)
    return int(rows[0][0])


async def settled(node: Process, connection: str) -> int | None:
    """Return how many events the ledger claims once that no longer grows, because the client does not read."""
    first = await claimed(node, connection)
    await asyncio.sleep(0.2)
    return first if first and first == await claimed(node, connection) else None


async def all_sent(node: Process, connection: str) -> bool:
    return await claimed(node, connection) == ALERTS
