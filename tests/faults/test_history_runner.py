from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest

from tests.faults.history_runner import History

if TYPE_CHECKING:
    from pathlib import Path

SEED = int(os.environ.get("RECORDER_SEED", random.randrange(1_000_000)))


@pytest.mark.timeout(600)
async def test_what_every_client_wrote_down_agrees_with_the_ledger_row_for_row(
    database_url: str, tmp_path: Path
) -> None:
    history = History(database_url, tmp_path, SEED)
    complaints = await history.run()
    assert not complaints, f"RECORDER_SEED={SEED}: " + "\n".join(complaints[:20])
    assert history.killed
    assert history.paused
