"""Commands whose database fails while they work: one line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import asyncpg
import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path


@pytest.fixture
async def locked_url(copy_url: str) -> AsyncIterator[str]:
    """A database whose tables are locked."""
    connection = await asyncpg.connect(copy_url)
    name = await connection.fetchval("SELECT current_database()")
    await connection.execute(f"ALTER DATABASE \"{name}\" SET lock_timeout = '50ms'")
    async with connection.transaction():
        await connection.execute("LOCK TABLE events, log_chain, connections IN ACCESS EXCLUSIVE MODE")
        yield copy_url
    await connection.close()


@pytest.mark.parametrize(
    "arguments",
    [
        ("audit", "recipient", "alice"),
        ("audit", "connections"),
        ("audit", "verify"),
        ("archive", "--before", "1d", "--dir", "."),
        ("purge", "--before", "1d", "--dry-run"),
        ("purge", "--before", "1d"),
    ],
    ids=" ".join,
)
async def test_a_lock_that_is_not_free_is_said_in_one_line(
    refused: Callable[..., str], locked_url: str, arguments: tuple[str, ...], tmp_path: Path
) -> None:
    line = refused(*arguments, TOCSIN_DATABASE_URL=locked_url, TOCSIN_DATA_DIR=str(tmp_path))
    assert "canceling statement due to lock timeout" in line
    assert "run the command again" in line
