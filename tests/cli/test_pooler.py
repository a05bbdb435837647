"""The commands, where the service goes through PgBouncer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.fixtures.pooler import MODES, pooling

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable


@pytest.mark.long
@pytest.mark.parametrize("mode", MODES)
async def test_the_commands_use_the_direct_address(
    tocsin_process: Callable[..., subprocess.CompletedProcess[str]], copy_url: str, mode: str
) -> None:
    with pooling(copy_url, mode) as pooler:
        addresses = {"TOCSIN_DATABASE_URL": pooler, "TOCSIN_LISTEN_URL": copy_url}
        for command in (
            ("migrate",),
            ("audit", "verify"),
            ("audit", "report"),
            ("sql", "--auditor", "-c", "SELECT count(*) FROM deliveries"),
            ("purge", "--before", "1d"),
        ):
            run = await asyncio.to_thread(tocsin_process, *command, **addresses)
            assert run.returncode == 0, (command, run.stderr)
