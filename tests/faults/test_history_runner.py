from __future__ import annotations

import os
import random
import time
import uuid
from typing import TYPE_CHECKING

import pytest

from tests.faults.history_runner import History
from tests.harness import new_database

if TYPE_CHECKING:
    from pathlib import Path

SEED = int(os.environ.get("HISTORY_SEED", 1 if os.environ.get("CI") else random.randrange(1_000_000)))
MINUTES = 5


async def test_what_every_client_wrote_down_agrees_with_the_ledger_row_for_row(
    database_url: str, tmp_path: Path
) -> None:
    history = History(database_url, tmp_path, seed=1, posts=120, faults=("kill", "cut"))
    assert await history.run() == []
    assert history.killed


@pytest.mark.long
@pytest.mark.timeout(60 * MINUTES + 300)
async def test_what_every_client_wrote_down_agrees_with_the_ledger_through_all_faults(
    server_url: str, template: str, tmp_path: Path
) -> None:
    ends, seed = time.monotonic() + 60 * MINUTES, SEED
    while time.monotonic() < ends:
        async with new_database(server_url, f"test_{uuid.uuid4().hex}", template) as url:
            folder = tmp_path / str(seed)
            folder.mkdir()
            history = History(url, folder, seed)
            complaints = await history.run()
        assert not complaints, f"HISTORY_SEED={seed}: " + "\n".join(complaints[:20])
        assert history.killed
        assert history.paused
        seed += 1
