"""``tocsin tail``, as a shell runs it, against real nodes."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from tests.harness import ROOT, WRITE, Node, Process, eventually, token

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class Tail:
    """A running ``tocsin tail``."""

    def __init__(self, process: subprocess.Popen[str], out: Path, err: Path) -> None:
        self.process = process
        self._out = out
        self._err = err

    @property
    def lines(self) -> list[str]:
        return self._out.read_text().splitlines()

    @property
    def said(self) -> str:
        return self._err.read_text()

    @property
    def code(self) -> int:
        return self.process.wait(20)


@contextmanager
def tail(base: str, folder: Path, *arguments: str, **variables: str) -> Iterator[Tail]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TOCSIN_")}
    ours = {"PYTHONPATH": str(ROOT), "TOCSIN_URL": base, "TOCSIN_TOKEN": token("alice")}
    out, err = folder / "out", folder / "err"
    with out.open("w") as stdout, err.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "service", "tail", *arguments],
            cwd=folder,
            env={**inherited, **ours, **variables},
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            text=True,
        )
        try:
            yield Tail(process, out, err)
        finally:
            process.kill()
            process.wait()


async def test_events_are_printed_as_lines_that_a_person_reads(node: Node, tmp_path: Path) -> None:
    await node.post("Card acceptance below 80 %", topic="payments.eu", severity="critical")
    await node.post("Index is behind", topic="search", severity="warning")
    with tail(node.base, tmp_path, "--after", "0", "--count", "2") as running:
        assert running.code == 0
        first, second = running.lines
    assert re.fullmatch(r"\d\d:\d\d:\d\d critical payments.eu: Card acceptance below 80 % \[billing, 1\]", first)
    assert second.endswith("warning  search: Index is behind [billing, 2]")


async def test_events_are_printed_as_json_for_programs_and_filtered(node: Node, tmp_path: Path) -> None:
    for topic, severity in (("a", "error"), ("b", "error"), ("a.x", "info"), ("a.x", "critical")):
        await node.post(f"In {topic}", topic=topic, severity=severity)
    options = ("--topic", "a", "--topic", "a.*", "--min-severity", "warning", "--after", "0", "--json", "--count", "2")
    with tail(node.base, tmp_path, *options) as running:
        assert running.code == 0
        events = [json.loads(line) for line in running.lines]
    assert [(event["seq"], event["type"], event["alert"]["topic"]) for event in events] == [
        (1, "event", "a"),
        (4, "event", "a.x"),
    ]


async def test_ctrl_c_ends_it_with_0_and_what_was_printed_was_received(node: Node, tmp_path: Path) -> None:
    await node.post()
    with tail(node.base, tmp_path, "--after", "0") as running:
        await eventually(lambda: running.lines)
        await eventually(lambda: _received(node))
        running.process.send_signal(signal.SIGINT)
        assert (running.code, running.said) == (0, "")


async def _received(node: Node) -> bool:
    rows = await node.sql("SELECT received_seq FROM recipients WHERE id = 'alice'")
    return bool(rows and rows[0][0] == 1)


async def test_it_goes_on_over_a_restart_of_the_service(start: Callable[..., Process], tmp_path: Path) -> None:
    node = start()
    await node.post_all([{}] * 3)
    with tail(node.base, tmp_path, "--after", "0", "--json", "--count", "6") as running:
        await eventually(lambda: len(running.lines) == 3)
        node.kill()
        await eventually(lambda: "back in" in running.said)
        again = start(urlsplit(node.base).port)
        await again.post_all([{}] * 3)
        assert running.code == 0
        assert [json.loads(line)["seq"] for line in running.lines] == [1, 2, 3, 4, 5, 6]


async def test_it_resumes_where_the_last_one_ended(node: Node, tmp_path: Path) -> None:
    await node.post_all([{}] * 4)
    with tail(node.base, tmp_path, "--after", "0", "--count", "2", "--json") as first:
        assert first.code == 0
    await eventually(lambda: node.sql("SELECT 1 FROM recipients WHERE received_seq = 2"))
    with tail(node.base, tmp_path, "--count", "2", "--json") as second:
        assert second.code == 0
        assert [json.loads(line)["seq"] for line in second.lines] == [3, 4]


@pytest.mark.parametrize("alerts", [1, 50])
async def test_a_reader_that_leaves_ends_it_quietly_though_nothing_more_may_come(
    node: Node, tmp_path: Path, *, alerts: int
) -> None:
    await node.post_all([{}] * alerts)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TOCSIN_URL": node.base, "TOCSIN_TOKEN": token("alice")}
    process = await asyncio.to_thread(
        subprocess.run,
        ["bash", "-o", "pipefail", "-c", f"{sys.executable} -m service tail --after 0 | head -n 1"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (process.returncode, process.stderr) == (0, b"")
    assert process.stdout.count(b"\n") == 1


def _in_a_terminal(folder: Path, environment: dict[str, Any]) -> str:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "service", "tail", "--after", "0", "--count", "1"]
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=theirs) as process:
        assert process.wait(30) == 0
    shown = os.read(ours, 10_000).decode()
    os.close(ours)
    os.close(theirs)
    return shown


@pytest.mark.parametrize(("variables", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
async def test_a_terminal_is_shown_colours_unless_it_says_no(
    node: Node, tmp_path: Path, *, variables: dict[str, str], coloured: bool
) -> None:
    await node.post(severity="critical")
    environment: dict[str, Any] = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    environment |= {"PYTHONPATH": str(ROOT), "TOCSIN_URL": node.base, "TOCSIN_TOKEN": token("alice"), **variables}
    shown = await asyncio.to_thread(_in_a_terminal, tmp_path, environment)
    assert "It happened" in shown
    assert ("\033[" in shown) is coloured


@pytest.mark.parametrize(
    ("arguments", "bearer", "said"),
    [
        (("--url", "http://127.0.0.1:9"), token("alice"), "cannot be reached"),
        ((), "hunter2", "get a fresh token"),
        ((), token("alice", WRITE), "ask for a token with that scope"),
        (("--topic", "b"), token("alice", topics=["a"]), "ask for a token that covers the topic"),
    ],
)
async def test_a_failure_is_one_line_that_says_what_to_do(
    node: Node, tmp_path: Path, arguments: tuple[str, ...], bearer: str, said: str
) -> None:
    with tail(node.base, tmp_path, *arguments, TOCSIN_TOKEN=bearer) as running:
        assert running.code == 1
        assert said in running.said
        assert running.said.startswith("tocsin: ")
        assert running.said.count("\n") == 1
        assert bearer not in running.said


@pytest.mark.parametrize("arguments", [("--after", "soon"), ("--count", "0"), ("--min-severity", "bad"), ("x",)])
def test_wrong_usage_exits_2(node: Node, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    with tail(node.base, tmp_path, *arguments) as running:
        assert running.code == 2
