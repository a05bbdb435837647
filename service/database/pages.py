"""Pages of lists, bounded by their rows and by their bytes.

A row may be large, such as an alert of 26 KiB, or of more where a setting allows. So a page also
ends with the row that brings it to ``PAGE_BYTES``. PostgreSQL measures them, as text: what is not
on the page is not sent to this service either. A page may be shorter than was asked for, then, and
not be the last; it is never empty while there is a row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import Text, cast, func, literal_column, select

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy import ColumnElement, RowMapping, Select
    from sqlalchemy.ext.asyncio import AsyncConnection
    from sqlalchemy.sql.elements import KeyedColumnElement

PAGE_BYTES = 1024 * 1024


async def read_page(  # noqa: PLR0913 - the list, its order, and the bounds of a page
    tx: AsyncConnection,
    statement: Select[Any],
    keys: Sequence[KeyedColumnElement[Any]],
    limit: int,
    *,
    newest_first: bool,
    max_bytes: int | None = PAGE_BYTES,
) -> tuple[list[RowMapping], bool]:
    """Return the first rows of ``statement`` in the order of ``keys``, and whether there are more.

    ``keys`` are among its columns, and no two rows have the same. A row has a column beside those of
    the statement: how many rows were found. ``max_bytes``: None for as many rows as ``limit`` allows.
    """
    found = statement.order_by(*_ordered(keys, newest_first=newest_first)).limit(limit + 1).subquery("found")
    order = _ordered((found.c[key.name] for key in keys), newest_first=newest_first)
    size = func.octet_length(cast(literal_column("found"), Text))
    bytes_before = (func.sum(size).over(order_by=order) - size).label("bytes_before")
    measured = select(found, func.count().over().label("rows_found"), bytes_before).subquery("measured")
    page = select(*(column for column in measured.c if column.name != "bytes_before"))
    if max_bytes is not None:
        page = page.where(measured.c.bytes_before < max_bytes)
    order = _ordered((measured.c[key.name] for key in keys), newest_first=newest_first)
    rows = list((await tx.execute(page.order_by(*order))).mappings())
    return rows[:limit], bool(rows) and rows[0]["rows_found"] > min(len(rows), limit)


def _ordered(keys: Iterable[ColumnElement[Any]], *, newest_first: bool) -> list[ColumnElement[Any]]:
    return [key.desc() if newest_first else key for key in keys]
