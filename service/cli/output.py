"""The output of ``tocsin audit``: tables for people, one JSON document, or CSV."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
import unicodedata
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from service.cli.client_options import printable
from service.cli.standard_output import written_out

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pydantic import BaseModel

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document, as the REST API answers.")]
AsCsv = Annotated[
    bool,
    typer.Option("--csv", help="Print CSV, with all columns; text that a spreadsheet would compute has ' before it."),
]
ROWS_MAX = 10**18
"""More than a table can hold, and one that the database can count."""
Limit = Annotated[
    int | None,
    typer.Option(min=1, max=ROWS_MAX, help="How many at most; default: 200 in a table, and all in --json and --csv."),
]

TABLE_ROWS = 200
"""How many rows a table has at most where ``--limit`` does not say it."""

Form: TypeAlias = Literal["table", "json", "csv"]

_PIPE_WIDTH = 10_000
"""The width of a table in a pipe: wide enough that no cell is cut."""

_SEPARATOR = re.compile(r"([;|\t\r\n])")
"""Where a spreadsheet with another separator than the comma ends a cell or a row, within quotes too."""
_FORMULA_SIGNS = frozenset("=+-@\N{MINUS SIGN}")
_QUOTES = frozenset("\"'`\N{LEFT SINGLE QUOTATION MARK}\N{RIGHT SINGLE QUOTATION MARK}\N{LEFT DOUBLE QUOTATION MARK}")

_UNITS = ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "m"), (60, "m", 1, "s"))


@dataclass(frozen=True, slots=True)
class ResultTable:
    """A table of rows with these ``fields``, separated by spaces. A float is a number of seconds.

    ``empty`` is printed where there are no rows.
    """

    title: str
    fields: str
    rows: Sequence[BaseModel]
    empty: str = "nothing"

    def heads(self) -> list[str]:
        """Return the heads of the columns."""
        return [field.removesuffix("_at").replace("_", " ") for field in self.fields.split()]

    def cells(self) -> list[list[Any]]:
        """Return the values of the rows."""
        return [[_value(row, field) for field in self.fields.split()] for row in self.rows]


def _value(row: BaseModel, field: str) -> Any:
    value = getattr(row, field)
    return "(others)" if field == "source" and not value else value


@dataclass(frozen=True, slots=True)
class QueryResult:
    """What a command prints in each form.

    ``document`` is the JSON, ``records`` are the CSV; ``lines`` stand above the tables.
    """

    document: BaseModel
    lines: Sequence[str]
    tables: Sequence[ResultTable]
    header: Sequence[str]
    records: Iterable[Sequence[Any]]
    more: bool = False


def form_of(*, as_json: bool, as_csv: bool) -> Form:
    """Return the form that the options ask for.

    Raises:
        typer.BadParameter: they ask for two.

    """
    if as_json and as_csv:
        raise typer.BadParameter("goes without --json", param_hint="--csv")
    return "json" if as_json else "csv" if as_csv else "table"


def show(result: QueryResult, form: Form) -> None:
    """Print a result, and say on standard error if there is more."""
    with written_out():
        if form == "json":
            print(result.document.model_dump_json(indent=2, exclude={"next"}))
        elif form == "csv":
            sys.stdout.write(csv_text([result.header, *result.records]))
        else:
            _print_tables(result)
    if result.more:
        say_more("raise --limit, or have all of it with --csv or --json")


def say_more(advice: str) -> None:
    """Say on standard error that what was printed is not all."""
    print(f"tocsin: there is more: {advice}", file=sys.stderr)


def csv_text(rows: Iterable[Iterable[Any]]) -> str:
    """Return rows as CSV."""
    text = io.StringIO()
    # All text is quoted: the csv module alone does not quote what other programs end a cell or a row at.
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    for row in rows:
        writer.writerow([_csv_value(value) for value in row])
    return text.getvalue()


def _csv_value(value: Any) -> Any:
    if isinstance(value, dict | list):
        value = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, str):
        return value
    first, *others = _SEPARATOR.split(value)
    has_sign = value[:1] in {"'", "\t", "\r", "\n"} or _would_compute(first)
    return "".join(
        [f"'{first}" if has_sign else first, *(f"'{part}" if _would_compute(part) else part for part in others)]
    )


def _would_compute(text: str) -> bool:
    """Return whether a spreadsheet might take what a cell holds, or a part of it, for a formula.

    Some ignore blanks, quotes and control characters before a formula, and take full-width signs
    for the usual ones.
    """
    bare = next((character for character in text if not _is_ignored(character)), "")
    return unicodedata.normalize("NFKC", bare) in _FORMULA_SIGNS


def _is_ignored(character: str) -> bool:
    return character in _QUOTES or character.isspace() or not character.isprintable()


def _print_tables(result: QueryResult) -> None:
    console = Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH, highlight=False)
    for line in result.lines:
        console.print(Text(printable(line)))
    for table in result.tables:
        console.print()
        console.print(Text(printable(table.title), style="bold"))
        if table.rows:
            console.print(_rich_table(table))
        else:
            console.print(Text(f"  {table.empty}", style="dim"))


def _rich_table(table: ResultTable) -> Table:
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=True, padding=(0, 1), show_edge=False)
    rows = table.cells()
    for head, values in zip(table.heads(), zip(*rows, strict=True), strict=True):
        numeric = all(isinstance(value, int | float | None) for value in values)
        shown.add_column(head, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        shown.add_row(*(Text(printable(cell(value))) for value in row))
    return shown


def cell(value: Any) -> str:
    """Return a value as a table shows it."""
    match value:
        case None:
            return "-"
        case datetime():
            return utc(value)
        case float():
            return duration_text(value)
        case list():
            return ", ".join(map(str, value))
        case dict():
            return json.dumps(value, ensure_ascii=False)
        case _:
            return str(value)


def utc(time: datetime) -> str:
    """Return a time in UTC, to the millisecond."""
    return time.astimezone(UTC).isoformat(sep=" ", timespec="milliseconds").removesuffix("+00:00")


def duration_text(seconds: float) -> str:
    """Return a duration in its two largest units."""
    for unit, name, part, part_name in _UNITS:
        if seconds >= unit:
            whole, rest = divmod(int(seconds), unit)
            return f"{whole} {name} {rest // part} {part_name}"
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.1f} ms"
