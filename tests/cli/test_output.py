from __future__ import annotations

import csv
import io
import re
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.audit import schemas
from service.cli.output import QueryResult, ResultTable, _csv_value, cell, duration_text, show, utc

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.unit

NAMES = ("subject", "origin", "user_agent")
HOSTILE = "\x1b[31mred\u202e [bold]not[/bold]"


def test_nothing_that_somebody_said_commands_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    rejection = schemas.AuditedRejection(
        at=datetime.now(UTC), node=uuid.uuid4(), path=HOSTILE, reason="x", remote_addr="x", **dict.fromkeys(NAMES)
    )
    page = schemas.RejectionPage(counts=[], rejections=[rejection], next=None)
    table = ResultTable(HOSTILE, "path", page.rejections)
    show(QueryResult(page, [HOSTILE], [table], (), []), "table")
    printed = capsys.readouterr().out
    assert printed.count("\N{REPLACEMENT CHARACTER}[31mred\N{REPLACEMENT CHARACTER} [bold]not[/bold]") == 3
    assert "\x1b" not in printed


def test_figures_are_shown_as_people_read_them() -> None:
    assert [duration_text(value) for value in (0.0173, 12.3456, 75.0, 3_725.0, 93_784.0)] == [
        "17.3 ms",
        "12.35 s",
        "1 m 15 s",
        "1 h 2 m",
        "1 d 2 h",
    ]
    assert utc(datetime(2026, 11, 21, 11, 41, 7, 123456, UTC)) == "2026-11-21 11:41:07.123"
    assert [cell(value) for value in (None, ["a", "b"], {"é": 1}, 4711)] == ["-", "a, b", '{"é": 1}', "4711"]


FORMULAS = [
    *(f"{sign}cmd|' /C calc'!A0" for sign in "=+-@"),
    *(f"{sign}1" for sign in "\N{FULLWIDTH EQUALS SIGN}\N{FULLWIDTH PLUS SIGN}\N{FULLWIDTH HYPHEN-MINUS}"),
    *(f"{sign}1" for sign in "\N{FULLWIDTH COMMERCIAL AT}\N{SMALL EQUALS SIGN}\N{SMALL PLUS SIGN}\N{MINUS SIGN}"),
    *(f"{blank}=1+1" for blank in (" ", "  ", "\t", "\r", "\n", "\r\n", "\xa0", "\u3000", "\ufeff", "\u200b", "\0")),
    *(f"{quote}=1+1" for quote in ("'", '"', " '", "''", "\"'", "\N{LEFT DOUBLE QUOTATION MARK}", "`")),
    "\tno formula",
    "\rno formula",
    "'tis no formula",
    "-5",
]
TEXTS = [
    "",
    "a",
    "a=1",
    "1-1",
    "a@b.example",
    "/v1/ws",
    "(others)",
    "日本",
    "[=1]",
    "#1",
    "2026-11-21T09:41:07Z",
    "...",
    "  a",
]


def printed_csv(capsys: pytest.CaptureFixture[str], header: list[str], *rows: list[Any]) -> list[list[str]]:
    page = schemas.ConnectionPage(connections=[], next=None)
    show(QueryResult(page, [], [], header, rows), "csv")
    return list(csv.reader(io.StringIO(capsys.readouterr().out, newline="")))


@pytest.mark.parametrize("text", FORMULAS, ids=repr)
def test_no_formula_leaves_as_csv(capsys: pytest.CaptureFixture[str], text: str) -> None:
    ((head, _), (_, value)) = printed_csv(capsys, [text, "b"], ["a", text])
    assert head == value
    assert value.startswith("'")
    assert value.replace("'", "") == text.replace("'", "")


SEPARATORS = [",", ";", "\t", "|"]


@pytest.mark.parametrize("delimiter", SEPARATORS)
@pytest.mark.parametrize("inner", [*SEPARATORS, "\n", "\r", ";\t", "; ", ';"', ";;"])
@pytest.mark.parametrize("formula", ["=1+1", "+1", "@a", "-1", "\N{FULLWIDTH EQUALS SIGN}1"])
@pytest.mark.parametrize("wrap", [str, lambda text: {"a": text}, lambda text: [text]])
def test_no_formula_leaves_where_the_list_separator_is_another(
    capsys: pytest.CaptureFixture[str], delimiter: str, inner: str, formula: str, wrap: Callable[[str], Any]
) -> None:
    page = schemas.ConnectionPage(connections=[], next=None)
    show(QueryResult(page, [], [], ["a", "b"], [["x", wrap(f"x{inner}{formula}")]]), "csv")
    printed = capsys.readouterr().out
    cells = [cell for row in csv.reader(io.StringIO(printed, newline=""), delimiter=delimiter) for cell in row]
    assert not any(cell.strip(' \t"').startswith(formula) for cell in cells), cells


def test_text_is_quoted_and_a_line_break_in_it_begins_no_row(capsys: pytest.CaptureFixture[str]) -> None:
    texts = ["a\r", "a\r\nb", "a\nb", 'a"\rb', "a,=1+1", "a;b"]
    assert printed_csv(capsys, ["a"], *([text] for text in texts)) == [["a"], *([text] for text in texts)]
    page = schemas.ConnectionPage(connections=[], next=None)
    show(QueryResult(page, [], [], ["a", "b"], [["x;y", 1]]), "csv")
    assert capsys.readouterr().out == '"a","b"\n"x;y",1\n'


@pytest.mark.parametrize("text", TEXTS)
def test_other_text_leaves_as_it_is(capsys: pytest.CaptureFixture[str], text: str) -> None:
    assert printed_csv(capsys, ["a", "b"], ["a", text])[1][1] == text


def test_numbers_leave_as_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed_csv(capsys, ["a"], [-5, -0.5, None, True, {"a": "=1"}, ["=1"]])[1] == [
        *("-5", "-0.5", "", "True", '{"a": "=1"}', '["=1"]')
    ]


@given(st.text(max_size=20))
def test_nothing_but_apostrophes_is_added(text: str) -> None:
    value = _csv_value(text)
    assert value.replace("'", "") == text.replace("'", "")
    for part in re.split("[;|\t\r\n]", value):
        assert not part.lstrip(' "').startswith(("=", "+", "-", "@"))
