from __future__ import annotations

import uuid
from datetime import UTC, datetime

import pytest

from service.audit import schemas
from service.cli.output import QueryResult, ResultTable, cell, duration_text, show, utc

pytestmark = pytest.mark.unit

NAMES = ("subject", "origin", "user_agent")
HOSTILE = "\x1b[31mred\u202e [bold]not[/bold]"


def test_nothing_that_somebody_said_commands_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    rejection = schemas.AuditedRejection(
        at=datetime.now(UTC), node=uuid.uuid4(), path=HOSTILE, reason="x", remote_addr="x", **dict.fromkeys(NAMES)
    )
    page = schemas.RejectionPage(rejections=[rejection], next=None)
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
