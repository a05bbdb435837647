"""What operators ask of a long history, with how long the answer may take.

Each question is put with EXPLAIN (ANALYZE, BUFFERS, TIMING OFF), because the clock that is read for every row would
be most of what is measured, several times in turns; the quickest counts, for whatever else the machine does comes on
top. Beside it stands the CPU of the process that answers (parallel workers aside): where it is far less than the time,
the machine was busy with something else.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg

ROUNDS = 7
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Question:
    """What is asked; ``$1`` is ``about``. ``target`` is in milliseconds."""

    name: str
    query: str
    about: Any = None
    target: float | None = None
    rows: int = 0
    milliseconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    plan: str = ""


# The admins by how much they were sent in the last day, as one of a hundred events has it.
_ADMINS = """
SELECT recipient FROM audit.deliveries WHERE occurred_at > now() - interval '1 day' AND seq % 100 = 0
GROUP BY recipient ORDER BY count(*)
"""
_DAY = "SELECT * FROM audit.deliveries WHERE recipient = $1 AND occurred_at > now() - interval '1 day'"
_HOUR = "> now() - interval '1 hour'"


async def _questions(connection: asyncpg.Connection) -> list[Question]:
    head = await connection.fetchval("SELECT max(seq) FROM events")
    alert = await connection.fetchval("SELECT alert_id FROM events WHERE seq = $1", head * 9 // 10 // 20 * 20 + 1)
    admins = [row["recipient"] for row in await connection.fetch(_ADMINS)]
    middle, busiest = admins[len(admins) // 2], admins[-1]
    return [
        Question("deliveries of an alert", "SELECT * FROM audit.deliveries WHERE alert_id = $1", alert, 50),
        Question(f"a day of {middle}, who is in the middle", _DAY, middle, 200),
        Question("unreceived of the last hour", f"SELECT * FROM audit.unreceived WHERE occurred_at {_HOUR}", None, 500),
        Question("unreceived of an alert", "SELECT * FROM audit.unreceived WHERE alert_id = $1", alert),
        Question(f"a day of {busiest}, who is sent most", _DAY, busiest),
        Question("timeline of an alert", "SELECT * FROM audit.timeline WHERE alert_id = $1", alert),
        Question("latency of the last hour", f"SELECT * FROM audit.latency WHERE minute {_HOUR}"),
        Question("connections of a day", "SELECT * FROM audit.connections WHERE opened_at > now() - interval '1 day'"),
        Question("rejections of the last hour", f"SELECT * FROM audit.rejections WHERE at {_HOUR}"),
        Question("presence", "SELECT * FROM audit.presence"),
        Question("tokens of an admin", "SELECT * FROM audit.tokens WHERE recipient = $1", middle),
        Question("gaps of the log", "SELECT * FROM audit.log_gaps"),
    ]


async def ask(url: str, *, plans: bool) -> bool:
    """Ask each question, print the answers' times, and say whether all targets are met."""
    connection = await asyncpg.connect(url)
    try:
        questions = await _questions(connection)
        for _ in range(ROUNDS):
            for question in questions:
                await _ask(connection, question)
        for question in questions:
            _print(question)
        if plans:
            for question in questions:
                print(f"\n{question.name}: {question.query}\n{question.plan}")
    finally:
        await connection.close()
    return all(question.target is None or min(question.milliseconds) <= question.target for question in questions)


async def _ask(connection: asyncpg.Connection, question: Question) -> None:
    arguments = [question.about] if question.about is not None else []
    explain = "EXPLAIN (ANALYZE, BUFFERS, TIMING OFF{}) {}"
    before = _cpu(connection.get_server_pid())
    (answer,) = await connection.fetch(explain.format(", FORMAT JSON", question.query), *arguments)
    question.cpu.append(_cpu(connection.get_server_pid()) - before)
    (plan,) = json.loads(answer[0])
    question.rows = plan["Plan"]["Actual Rows"]
    question.milliseconds.append(plan["Planning Time"] + plan["Execution Time"])
    if not question.plan:
        lines = await connection.fetch(explain.format("", question.query), *arguments)
        question.plan = "\n".join(line[0] for line in lines)


def _cpu(pid: int) -> float:
    """Return the CPU milliseconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * 1000 / _TICKS


def _print(question: Question) -> None:
    quickest, verdict = min(question.milliseconds), ""
    if question.target is not None:
        verdict = f"target {question.target:.0f} ms: {'met' if quickest <= question.target else 'MISSED'}"
    middle = sorted(question.milliseconds)[len(question.milliseconds) // 2]
    times = f"{quickest:8.1f} ms (median {middle:7.1f}, CPU {min(question.cpu):5.0f})"
    print(f"{question.name:42} {question.rows:9,.0f} rows  {times}  {verdict}")
