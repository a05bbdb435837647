from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import Integer, Text, func, select
from sqlalchemy.sql import column

from service.database.engine import Database, parse_url
from service.database.pages import PAGE_BYTES, read_page
from service.settings import StorageSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.ext.asyncio import AsyncConnection

ROWS = 50


@pytest.fixture
async def tx(shared_url: str) -> AsyncIterator[AsyncConnection]:
    database = Database(parse_url(shared_url), StorageSettings())
    async with database.transaction() as tx:
        yield tx
    await database.close()


async def page(
    tx: AsyncConnection, size: int, limit: int, *, newest_first: bool = False, max_bytes: int | None = PAGE_BYTES
) -> tuple[list[int], bool]:
    number = (
        func.generate_series(1, ROWS).table_valued(column("number", Integer), name="numbers").render_derived().c.number
    )
    statement = select(number, func.repeat("é", size, type_=Text).label("body"))
    rows, has_more = await read_page(tx, statement, (number,), limit, newest_first=newest_first, max_bytes=max_bytes)
    return [row["number"] for row in rows], has_more


async def test_a_page_ends_with_its_limit_or_with_the_list(tx: AsyncConnection) -> None:
    assert await page(tx, 1, 3) == ([1, 2, 3], True)
    assert await page(tx, 1, 3, newest_first=True) == ([50, 49, 48], True)
    assert await page(tx, 1, ROWS) == ([*range(1, ROWS + 1)], False)
    assert await page(tx, 1, ROWS + 1) == ([*range(1, ROWS + 1)], False)


async def test_a_page_ends_with_the_row_that_brings_it_to_its_bytes(tx: AsyncConnection) -> None:
    """Of 400 bytes and a little each."""
    assert await page(tx, 200, 40, max_bytes=1_000) == ([1, 2, 3], True)
    assert await page(tx, 200, ROWS, newest_first=True, max_bytes=1_000) == ([50, 49, 48], True)
    assert await page(tx, 200, ROWS, max_bytes=None) == ([*range(1, ROWS + 1)], False)


async def test_a_page_has_a_row_however_large_it_is(tx: AsyncConnection) -> None:
    assert await page(tx, 2_000, 40, max_bytes=1) == ([1], True)


async def test_a_page_of_nothing_says_whether_there_is_more(tx: AsyncConnection) -> None:
    assert await page(tx, 1, 0) == ([], True)
