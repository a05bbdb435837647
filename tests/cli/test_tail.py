"""``tocsin tail`` against real nodes; as a shell runs it where signals, pipes and terminals matter."""

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
from datetime import UTC, datetime
from importlib import import_module
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from service.cli.tail import _Notices, line
from service.client import Alert, AlertEvent, Connected, Gap, Reset
from tests.cli.test_commands import other_server
from tests.harness import BODY, PATIENCE, ROOT, WRITE, Node, Process, eventually, token

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Here = Callable[..., subprocess.CompletedProcess[str]]


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
        return self.process.wait(PATIENCE)


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


@pytest.fixture
def here(tocsin: Here, lenient: Node, monkeypatch: pytest.MonkeyPatch) -> Here:
    """Run ``tocsin tail`` in this process, which must outlive it."""
    module = import_module("service.cli.tail")
    monkeypatch.setattr(module, "_end_with_the_reader", lambda: None)
    monkeypatch.setattr(module, "FIRST_CONNECTION_SECONDS", 0.2)
    defaults = {"TOCSIN_URL": lenient.base, "TOCSIN_TOKEN": token("alice")}
    return lambda *arguments, **variables: tocsin("tail", *arguments, **{**defaults, **variables})


@pytest.fixture
async def head(lenient: Node) -> int:
    """Where the log of the shared node stands when the test begins."""
    rows = await lenient.sql("SELECT coalesce(max(seq), 0) FROM events")
    return int(rows[0][0])


async def received(node: Node, seq: int, who: str = "alice") -> bool:
    rows = await node.sql("SELECT max(received_seq) FROM audit.connections WHERE recipient = $1", who)
    return bool(rows[0][0] == seq)


EVENT = AlertEvent(
    seq=7,
    id="9f3a2c1d00112233",
    cursor="7-9f3a2c1d",
    kind="alert.acknowledged",
    at=datetime(2026, 11, 21, 9, 41, 7, tzinfo=UTC),
    actor="bob",
    alert=Alert.of({**BODY, "title": "Index\nis \x1b[31mbehind", "topic": "search", "severity": "warning"}),
    raw={},
)


@pytest.mark.unit
def test_a_line_says_when_how_severe_what_and_who() -> None:
    assert line(EVENT, colours=False) == (
        f"{EVENT.at.astimezone():%H:%M:%S} warning  search: Index is �[31mbehind (acknowledged) [bob, 7]"
    )


@pytest.mark.unit
def test_a_line_has_the_colour_of_its_severity() -> None:
    shown = line(EVENT, colours=True)
    assert "\033[33mwarning \033[0m" in shown
    assert re.sub(r"\033\[\d*m", "", shown) == line(EVENT, colours=False)


@pytest.mark.unit
def test_gaps_and_resets_are_one_line_each_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    said = _Notices()
    for notice in (Connected(7, 9), Gap(1, 6, "purged"), Reset(5, "5-9f3a2c1d"), Reset(None, "8-00112233")):
        said(notice)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "tocsin: events 1 to 6 cannot be had: purged",
        "tocsin: the log lost events: those after 5 are void; continuing after 5-9f3a2c1d",
        "tocsin: the log lost events: what was printed may be void; continuing after 8-00112233",
    ]


async def test_events_are_printed_as_lines_that_a_person_reads(lenient: Node, here: Here, head: int) -> None:
    await lenient.post("Card acceptance below 80 %", topic="payments.eu", severity="critical")
    await lenient.post("Index is behind", topic="search", severity="warning")
    run = here("--after", str(head), "--count", "2")
    assert (run.returncode, run.stderr) == (0, "")
    first, second = run.stdout.splitlines()
    assert first.endswith(f"critical payments.eu: Card acceptance below 80 % [billing, {head + 1}]")
    assert second.endswith(f"warning  search: Index is behind [billing, {head + 2}]")


async def test_events_are_printed_as_json_for_programs_and_filtered(lenient: Node, here: Here, head: int) -> None:
    for topic, severity in (("a", "error"), ("b", "error"), ("a.x", "info"), ("a.x", "critical")):
        await lenient.post(f"In {topic}", topic=topic, severity=severity)
    options = ("--topic", "a", "--topic", "a.*", "--min-severity", "warning", "--after", str(head), "--json")
    run = here(*options, "--count", "2")
    assert run.returncode == 0, run
    events = [json.loads(printed) for printed in run.stdout.splitlines()]
    assert [(event["seq"], event["type"], event["alert"]["topic"]) for event in events] == [
        (head + 1, "event", "a"),
        (head + 4, "event", "a.x"),
    ]


async def test_ctrl_c_ends_it_with_0_and_what_was_printed_was_received(
    lenient: Node, tmp_path: Path, head: int
) -> None:
    await lenient.post()
    with tail(lenient.base, tmp_path, "--after", str(head)) as running:
        await eventually(lambda: running.lines)
        await eventually(lambda: received(lenient, head + 1))
        running.process.send_signal(signal.SIGINT)
        assert (running.code, running.said) == (0, "")


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


async def test_it_resumes_where_the_last_one_ended(lenient: Node, here: Here, head: int) -> None:
    await lenient.post_all([{}] * 4)
    bearer = {"TOCSIN_TOKEN": token("dave")}
    assert here("--after", str(head), "--count", "2", **bearer).returncode == 0
    await eventually(lambda: received(lenient, head + 2, "dave"))
    run = here("--count", "2", "--json", **bearer)
    assert run.returncode == 0, run
    assert [json.loads(printed)["seq"] for printed in run.stdout.splitlines()] == [head + 3, head + 4]


async def test_another_filter_or_consumer_resumes_where_it_ended_itself(lenient: Node, here: Here, head: int) -> None:
    bearer = {"TOCSIN_TOKEN": token("erin")}
    severities = ["info", "critical", "info", "critical"]
    await lenient.post_all([{"severity": severity} for severity in severities], at_once=1)

    def printed(*arguments: str) -> list[int]:
        run = here(*arguments, "--json", **bearer)
        assert run.returncode == 0, run
        return [json.loads(event)["seq"] - head for event in run.stdout.splitlines()]

    assert printed("--after", str(head), "--count", "1") == [1]
    assert printed("--consumer", "pager", "--after", str(head), "--count", "2") == [1, 2]
    assert printed("--min-severity", "critical", "--after", str(head), "--count", "2") == [2, 4]
    await eventually(lambda: received(lenient, head + 4, "erin"))
    assert printed("--count", "3") == [2, 3, 4]
    assert printed("--consumer", "pager", "--count", "2") == [3, 4]


@pytest.mark.parametrize("consumer", ["", "a b", "x" * 101])
def test_a_consumer_has_a_plain_name(here: Here, consumer: str) -> None:
    run = here("--consumer", consumer)
    assert run.returncode == 2
    assert "--consumer" in run.stderr


@pytest.mark.parametrize("alerts", [1, 50])
async def test_a_reader_that_leaves_ends_it_quietly_though_nothing_more_may_come(
    lenient: Node, tmp_path: Path, head: int, *, alerts: int
) -> None:
    await lenient.post_all([{}] * alerts)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TOCSIN_URL": lenient.base, "TOCSIN_TOKEN": token("alice")}
    process = await asyncio.to_thread(
        subprocess.run,
        ["bash", "-o", "pipefail", "-c", f"{sys.executable} -m service tail --after {head} | head -n 1"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (process.returncode, process.stderr) == (0, b"")
    assert process.stdout.count(b"\n") == 1


def _in_a_terminal(folder: Path, head: int, environment: dict[str, Any]) -> str:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "service", "tail", "--after", str(head), "--count", "1"]
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=theirs) as process:
        assert process.wait(PATIENCE) == 0
    shown = os.read(ours, 10_000).decode()
    os.close(ours)
    os.close(theirs)
    return shown


@pytest.mark.parametrize(("variables", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
async def test_a_terminal_is_shown_colours_unless_it_says_no(
    lenient: Node, tmp_path: Path, head: int, *, variables: dict[str, str], coloured: bool
) -> None:
    await lenient.post(severity="critical")
    environment: dict[str, Any] = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    environment |= {"PYTHONPATH": str(ROOT), "TOCSIN_URL": lenient.base, "TOCSIN_TOKEN": token("alice"), **variables}
    shown = await asyncio.to_thread(_in_a_terminal, tmp_path, head, environment)
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
def test_a_failure_is_one_line_that_says_what_to_do(
    here: Here, arguments: tuple[str, ...], bearer: str, said: str
) -> None:
    run = here(*arguments, TOCSIN_TOKEN=bearer)
    assert (run.returncode, run.stdout) == (1, "")
    assert said in run.stderr
    assert run.stderr.startswith("tocsin: ")
    assert run.stderr.count("\n") == 1
    assert bearer not in run.stderr


def test_another_server_is_said_in_one_line(here: Here) -> None:
    with other_server() as url:
        run = here("--url", url)
    said = f"{url} answered the handshake, but not as a WebSocket where Tocsin says welcome"
    advice = f"check that Tocsin runs at {url}, or set --url"
    assert (run.returncode, run.stdout, run.stderr) == (1, "", f"tocsin: {said}; {advice}\n")


@pytest.mark.parametrize("proxy", ["http://a:hunter2@:0", "hunter2", "http://[hunter2"])
def test_a_proxy_that_cannot_be_used_is_said_in_one_line(here: Here, proxy: str) -> None:
    run = here(http_proxy=proxy, no_proxy="")
    assert (run.returncode, run.stdout, run.stderr.count("\n")) == (1, "", 1)
    assert "the proxy of the environment cannot be used: correct HTTP_PROXY" in run.stderr
    assert "hunter2" not in run.stderr


@pytest.mark.unit
@pytest.mark.parametrize(
    "arguments", [("--after", "soon"), ("--after", "7-x"), ("--count", "0"), ("--min-severity", "bad"), ("x",)]
)
def test_wrong_usage_exits_2(
    tocsin: Callable[..., subprocess.CompletedProcess[str]], arguments: tuple[str, ...]
) -> None:
    assert tocsin("tail", *arguments).returncode == 2


def piped(base: str, folder: Path, script: str, **variables: str) -> subprocess.CompletedProcess[bytes]:
    """Run a shell script, in which $TAIL is ``tocsin tail``."""
    ours = {"PYTHONPATH": str(ROOT), "TOCSIN_URL": base, "TOCSIN_TOKEN": token("alice")}
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", script],
        cwd=folder,
        env={**os.environ, **ours, "TAIL": f"{sys.executable} -m service tail", **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=90,
        check=False,
    )


@pytest.mark.parametrize("options", ["", "--json"])
async def test_a_reader_that_leaves_has_acknowledged_what_it_read_and_no_more(
    lenient: Node, tmp_path: Path, head: int, options: str
) -> None:
    await lenient.post_all([{}] * 100)
    run = await asyncio.to_thread(piped, lenient.base, tmp_path, f"$TAIL --after {head} {options} | head -n 3")
    assert (run.returncode, run.stderr, run.stdout.count(b"\n")) == (0, b"", 3)
    await eventually(lambda: received(lenient, head + 3))
    await eventually(lambda: lenient.sql("SELECT FROM connections WHERE recipient = 'alice' AND closed_at IS NOT NULL"))
    assert await received(lenient, head + 3)


async def test_a_slow_reader_of_a_pipe_gets_every_line(lenient: Node, tmp_path: Path, head: int) -> None:
    await lenient.post_all([{}] * 20)
    script = f"$TAIL --after {head} -n 20 | (sleep 2; cat)"  # longer than a line is waited for
    run = await asyncio.to_thread(piped, lenient.base, tmp_path, script)
    assert (run.returncode, run.stderr, run.stdout.count(b"\n")) == (0, b"", 20)
    await eventually(lambda: received(lenient, head + 20))


async def test_sigterm_ends_it_as_ctrl_c_does(lenient: Node, tmp_path: Path, head: int) -> None:
    await lenient.post_all([{}] * 30)
    with tail(lenient.base, tmp_path, "--after", str(head)) as running:
        await eventually(lambda: len(running.lines) == 30)
        running.process.send_signal(signal.SIGTERM)
        assert (running.code, running.said) == (0, "")
    await eventually(lambda: received(lenient, head + 30))


@pytest.mark.parametrize(("where", "said"), [("> /dev/full", b"cannot be written: No space"), (">&-", b"is closed")])
async def test_what_could_not_be_written_is_not_acknowledged(
    lenient: Node, tmp_path: Path, head: int, where: str, said: bytes
) -> None:
    await lenient.post_all([{}] * 5)
    known = await lenient.sql("SELECT count(*) FROM receipts")
    run = await asyncio.to_thread(piped, lenient.base, tmp_path, f"$TAIL --after {head} {where}")
    assert (run.returncode, run.stdout, run.stderr.count(b"\n")) == (1, b"", 1)
    assert said in run.stderr
    await eventually(lambda: _all_closed(lenient))
    assert await lenient.sql("SELECT count(*) FROM receipts") == known


async def _all_closed(node: Node) -> bool:
    return not await node.sql("SELECT FROM connections WHERE recipient = 'alice' AND closed_at IS NULL")
