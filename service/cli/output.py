"""What the commands of ``tocsin audit`` print: tables for people, one JSON document, or CSV."""

from __future__ import annotations

import csv
import json
import os
import sys
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from service.cli.client_options import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pydantic import BaseModel

    from service.audit.queries import Period

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document, as the REST API answers.")]
AsCsv = Annotated[bool, typer.Option("--csv", help="Print CSV, with all columns.")]
Limit = Annotated[int, typer.Option(min=1, max=1_000_000, help="How many at most.")]

Form: TypeAlias = Literal["table", "json", "csv"]

_PIPE_WIDTH = 10_000
"""A table in a pipe is as wide as what it holds: nothing is cut."""

_SPANS = ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "m"), (60, "m", 1, "s"))


@dataclass(frozen=True, slots=True)
class Sheet:
    """A table: its title, its columns and rows, and what is said where it has no rows.

    A float is a number of seconds.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    nothing: str = "nothing"

    @classmethod
    def of(cls, title: str, columns: Mapping[str, str], rows: Iterable[BaseModel], nothing: str = "nothing") -> Sheet:
        """Return a table of rows: the columns' heads, each with the field that it shows."""
        cells = [[getattr(row, field) for field in columns.values()] for row in rows]
        return cls(title, list(columns), cells, nothing)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command has to say, in each form: ``lines`` stand above the tables, ``records`` are what CSV shows."""

    document: BaseModel
    lines: Sequence[str]
    sheets: Sequence[Sheet]
    header: Sequence[str]
    records: Iterable[Sequence[Any]]
    more: bool = False


def fields(model: type[BaseModel]) -> list[str]:
    """Return the columns of a CSV of such rows."""
    return list(model.model_fields)


def records(rows: Iterable[BaseModel]) -> list[list[Any]]:
    """Return rows with all that they hold."""
    return [list(row.model_dump(mode="json").values()) for row in rows]


def form_of(*, as_json: bool, as_csv: bool) -> Form:
    """Return the form that the options ask for.

    Raises:
        typer.BadParameter: they ask for two.

    """
    if as_json and as_csv:
        raise typer.BadParameter("goes without --json", param_hint="--csv")
    return "json" if as_json else "csv" if as_csv else "table"


def listed(  # noqa: PLR0913 - all that there is to say of a list
    document: BaseModel,
    sheet: Sheet,
    rows: Sequence[BaseModel],
    model: type[BaseModel],
    period: Period,
    *,
    more: bool,
) -> Answer:
    """Return a list as an answer."""
    times = ((" from ", period.since), (" until ", period.until))
    bounds = "".join(f"{word}{at(time)}" for word, time in times if time is not None)
    title = f"{sheet.title}{bounds} (UTC)"
    return Answer(document, [], [replace(sheet, title=title)], fields(model), records(rows), more=more)


def show(answer: Answer, form: Form) -> None:
    """Print an answer, and say on standard error if it is not all there is."""
    try:
        if form == "json":
            print(answer.document.model_dump_json(indent=2, exclude={"next"}))
        elif form == "csv":
            writer = csv.writer(sys.stdout, lineterminator="\n")
            writer.writerow(answer.header)
            writer.writerows([_plain(value) for value in record] for record in answer.records)
        else:
            _print(answer)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of our output has left, as head does. Python would complain once more when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if answer.more:
        print("tocsin: there is more; raise --limit", file=sys.stderr)


def _plain(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value


def _print(answer: Answer) -> None:
    console = Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH, highlight=False)
    for line in answer.lines:
        console.print(Text(printable(line)))
    for sheet in answer.sheets:
        console.print()
        console.print(Text(printable(sheet.title), style="bold"))
        if not sheet.rows:
            console.print(Text(f"  {sheet.nothing}", style="dim"))
            continue
        table = Table(box=box.SIMPLE_HEAD, pad_edge=True, padding=(0, 1), show_edge=False)
        for number, column in enumerate(sheet.columns):
            numeric = all(isinstance(row[number], int | float | None) for row in sheet.rows)
            table.add_column(column, justify="right" if numeric else "left", overflow="fold")
        for row in sheet.rows:
            table.add_row(*(Text(printable(cell(value))) for value in row))
        console.print(table)


def cell(value: Any) -> str:
    """Return a value as it stands in a table."""
    match value:
        case None:
            return "-"
        case datetime():
            return at(value)
        case float():
            return lasted(value)
        case list():
            return ", ".join(map(str, value))
        case dict():
            return json.dumps(value, ensure_ascii=False)
        case _:
            return str(value)


def at(time: datetime) -> str:
    """Return a time in UTC, to the millisecond."""
    return time.astimezone(UTC).isoformat(sep=" ", timespec="milliseconds").removesuffix("+00:00")


def lasted(seconds: float) -> str:
    """Return how long something took, in its two greatest units."""
    for unit, name, part, part_name in _SPANS:
        if seconds >= unit:
            whole, rest = divmod(int(seconds), unit)
            return f"{whole} {name} {rest // part} {part_name}"
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.1f} ms"
