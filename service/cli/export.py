"""Exports of ``tocsin audit``: whole lists as CSV or JSON, row by row, however long they are."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from service.cli.output import csv_text, say_more
from service.cli.standard_output import written_out

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from pydantic import BaseModel

    from service.audit.queries import Row

BATCH = 500
"""Rows that are written out at once."""


async def export_csv(model: type[BaseModel], rows: AsyncIterator[Row]) -> None:
    """Write rows with all their columns."""
    _write(csv_text([list(model.model_fields)]))
    async for batch in _batches(rows):
        _write(csv_text(model.model_validate(row).model_dump(mode="json").values() for row in batch))


async def export_json(
    fields: Mapping[str, Any], lists: Mapping[str, tuple[type[BaseModel], AsyncIterator[Row]]]
) -> None:
    """Write one JSON document: its ``fields``, and then its ``lists``."""
    head = "".join(
        f"  {json.dumps(name)}: {json.dumps(value, ensure_ascii=False)},\n" for name, value in fields.items()
    )
    _write("{\n" + head)
    separator = ""
    for name, (model, rows) in lists.items():
        _write(f"{separator}  {json.dumps(name)}: [")
        before = "\n    "
        async for batch in _batches(rows):
            documents = [model.model_validate(row).model_dump_json() for row in batch]
            _write(before + ",\n    ".join(documents))
            before = ",\n    "
        _write("]")
        separator = ",\n"
    _write("\n}\n")


async def limited(rows: Callable[[int | None], AsyncIterator[Row]], limit: int | None) -> AsyncIterator[Row]:
    """Yield all rows, or the first ``limit``, and then say if there are more.

    ``rows`` returns so many rows, or all.
    """
    number = 0
    async for row in rows(None if limit is None else limit + 1):
        if number == limit:
            say_more("leave out --limit to have all of it")
            return
        yield row
        number += 1


async def _batches(rows: AsyncIterator[Row]) -> AsyncIterator[list[Row]]:
    batch: list[Row] = []
    async for row in rows:
        batch.append(row)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _write(text: str) -> None:
    with written_out():
        sys.stdout.write(text)
