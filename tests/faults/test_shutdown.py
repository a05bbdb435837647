from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from service.database.embedded import embedded_postgres
from tests.faults.load import UNLIMITED, Admin, Load, assert_ledger_is_complete, assert_ledger_within
from tests.harness import eventually, memory_folder, start_process

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="tocsin-shutdown-", dir=memory_folder()))
    yield path
    shutil.rmtree(path)


@pytest.mark.parametrize("pause", [0.05, pytest.param(0, marks=pytest.mark.long)])
async def test_a_node_that_is_asked_to_stop_under_load_keeps_what_it_answered_and_stops_its_postgres(
    folder: Path, pause: float
) -> None:
    node = start_process("", folder, 0, **UNLIMITED)
    silent, acknowledging = Admin(node, "alice", topics=("payments.*", "search")), Admin(node, "bob", acks=True)
    load = Load(pause)
    try:
        async with AsyncExitStack() as stack:
            for admin in (silent, acknowledging):
                await stack.enter_async_context(admin)
            await eventually(lambda: silent.sessions and acknowledging.sessions)
            posting = asyncio.create_task(load.run(node))
            await eventually(lambda: len(load.stored) > 200)
            assert (folder / "postgres" / "postmaster.pid").exists()
            assert await asyncio.to_thread(node.stop) == 0
            assert not (folder / "postgres" / "postmaster.pid").exists()
            await eventually(lambda: silent.sessions[0].code and acknowledging.sessions[0].code)
            posting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await posting
    finally:
        node.kill()
        node.end()
    assert (silent.sessions[0].code, silent.sessions[0].reason) == (1012, "shutting_down")
    with embedded_postgres(folder) as url:
        node = replace(node, database_url=url.render_as_string(hide_password=False))
        silent.node = acknowledging.node = node
        log = await node.sql("SELECT seq, alert_id::text FROM events ORDER BY seq")
        assert [row[0] for row in log] == list(range(1, len(log) + 1))
        assert {(alert["seq"], alert["id"]) for alert in load.stored} <= {tuple(row) for row in log}
        await assert_ledger_is_complete([silent])
        await assert_ledger_within([acknowledging])
        assert [row[0] for row in await node.sql("SELECT count(*) FROM nodes WHERE ended_at IS NULL")] == [0]
        assert [row[0] for row in await node.sql("SELECT count(*) FROM connections WHERE closed_at IS NULL")] == [0]
