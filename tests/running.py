"""Programs that a test starts, and reads while they run."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import asynccontextmanager, suppress
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
async def started(
    command: list[str], errors: Path, environment: dict[str, str], folder: Path | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a program in ``folder``; in the end it is killed, with those that it started, if it still runs."""
    with errors.open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=folder,
            env={**os.environ, **environment},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.communicate()


async def lines(process: asyncio.subprocess.Process, count: int) -> list[str]:
    """Return the next lines that a program prints."""
    assert process.stdout is not None
    read = []
    for _ in range(count):
        async with asyncio.timeout(PATIENCE):
            read.append((await process.stdout.readline()).decode().rstrip())
    return read
