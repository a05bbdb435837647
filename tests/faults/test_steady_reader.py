from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.faults.load import UNLIMITED
from tests.http_streams import EventSource

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.harness import Process

pytestmark = pytest.mark.long

ALERTS = 3_000
PAUSE_SECONDS = 0.02
"""For each event: the client needs a minute, six times as long as a silence or a full socket may last."""
LIMIT_SECONDS = "10"
BATCH = 500


async def test_a_slow_but_steady_reader_gets_everything_and_acknowledges_in_the_end(
    start: Callable[..., Process],
) -> None:
    node = start(
        **UNLIMITED,
        TOCSIN_PING_INTERVAL_SECONDS="2",
        TOCSIN_PING_TIMEOUT_SECONDS=LIMIT_SECONDS,
        TOCSIN_SLOW_CONSUMER_SECONDS=LIMIT_SECONDS,
    )
    seqs: list[int] = []
    sse_seqs: list[int] = []
    async with (
        await node.live("alice", options={"ping_interval": None}) as stream,
        EventSource(node, "bob") as source,
    ):
        await source.live()
        async with node.http() as client:
            for start_at in range(0, ALERTS, BATCH):
                alerts = [{"title": f"alert {start_at + number}", "body": "x" * 300} for number in range(BATCH)]
                assert (await client.post("/v1/alerts/batch", json=alerts)).status_code == 200

        async def read_slowly() -> None:
            while len(seqs) < ALERTS:
                seqs.append((await stream.next_of("event"))["seq"])
                await asyncio.sleep(PAUSE_SECONDS)

        async def read_events_slowly() -> None:
            while len(sse_seqs) < ALERTS:
                sse_seqs.append((await source.next_of("event"))["seq"])
                await asyncio.sleep(PAUSE_SECONDS)

        await asyncio.gather(read_slowly(), read_events_slowly())
        await stream.ack(ALERTS)
        assert await source.ack(ALERTS) == ALERTS
        assert (await node.sql("SELECT count(*) FROM connections WHERE closed_at IS NOT NULL"))[0][0] == 0
    assert seqs == sse_seqs == list(range(1, ALERTS + 1))
