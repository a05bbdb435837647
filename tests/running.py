"""Programs that a test starts, and reads while they run."""

from __future__ import annotations

import asyncio
import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from tests.harness import PATIENCE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

FIRST_EVENTS = [
    "event 1 alert.created Backup failed",
    "event 2 alert.created Disk is 91 % full",
    "event 3 alert.created Disk is 97 % full",
    "event 4 alert.acknowledged Backup failed",
]
"""What a client of the service prints of the stream, once it has posted, and acknowledged the first alert."""


@asynccontextmanager
async def started(command: list[str], errors: Path, **environment: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a program; it is killed in the end if it still runs."""
    with errors.open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *command, env={**os.environ, **environment}, stdout=asyncio.subprocess.PIPE, stderr=log
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def lines(process: asyncio.subprocess.Process, count: int) -> list[str]:
    """Return the next lines that a program prints."""
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE):
        return [(await process.stdout.readline()).decode().rstrip() for _ in range(count)]
