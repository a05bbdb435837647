from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import TYPE_CHECKING

from tests.faults.load import UNLIMITED, Admin, Backend, assert_ledger_is_complete, assert_untampered, received_all
from tests.harness import eventually
from tests.reader import Reader

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.harness import Process

MB = 1024 * 1024
READERS = 20
ALERTS = 600
BODY = "x" * 16_000
MAY_GROW = 20 * MB
"""Far below what was published for the readers: 600 times 16 kB for each of 20."""


def highest_memory(node: Process) -> int:
    """Return the most memory that the node ever held, in bytes."""
    status = Path(f"/proc/{node.process.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found
    return int(found[1]) * 1024


async def test_readers_that_stop_reading_cost_little_memory_delay_nobody_and_resume_where_they_were(
    start: Callable[..., Process],
) -> None:
    node = start(**UNLIMITED, TOCSIN_SLOW_CONSUMER_SECONDS="2", TOCSIN_REPLAY_CACHE_BYTES=str(2 * MB))
    stuck = [Reader(node, f"reader {number}", small=True, after="latest") for number in range(READERS)]
    before = highest_memory(node)
    todo = iter(range(ALERTS))

    async def worker() -> None:
        async with Backend(node) as backend:
            for number in todo:
                assert (await backend.post({"title": f"alert {number}", "body": BODY})).status == 201

    async with Admin(node, "alice") as brisk:
        await eventually(lambda: brisk.sessions)
        await asyncio.gather(*(worker() for _ in range(8)))
        await eventually(await received_all([brisk]))
        assert brisk.seqs == list(range(1, ALERTS + 1))
        assert len(brisk.sessions) == 1
        await eventually(lambda: all_closed_as_slow(node))
        assert highest_memory(node) - before < MAY_GROW < ALERTS * len(BODY) * READERS / 5
        assert brisk.sessions[0].code is None
    await eventually(lambda: is_over(node, brisk.sessions[0].id))
    await assert_ledger_is_complete([brisk])
    for reader in stuck:
        await asyncio.to_thread(reader.read_to_end)
        assert reader.close == (1013, "slow_consumer")
        claimed = await node.sql("SELECT seq FROM audit.deliveries WHERE connection::text = $1", reader.id)
        assert {row["seq"] for row in claimed} <= set(reader.seqs)
        assert reader.seqs == list(range(1, len(reader.seqs) + 1))
        assert len(reader.seqs) < ALERTS / 10
    again = await asyncio.to_thread(Reader, node, stuck[0].subject, after=stuck[0].cursor)
    await asyncio.to_thread(again.read_until, lambda: again.cursor == ALERTS)
    assert stuck[0].seqs + again.seqs == list(range(1, ALERTS + 1))
    await asyncio.to_thread(again.say_goodbye)
    await assert_untampered(node)


async def all_closed_as_slow(node: Process) -> bool:
    rows = await node.sql("SELECT count(*) FROM connections WHERE (close_code, close_reason) = (1013, 'slow_consumer')")
    return bool(rows[0][0] == READERS)


async def is_over(node: Process, connection: str) -> bool:
    return bool(await node.sql("SELECT FROM connections WHERE id::text = $1 AND closed_at IS NOT NULL", connection))
