from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from structlog.testing import capture_logs

from service.cli import main
from service.cli.worker_supervisor import Workers
from service.errors import CommandFailed
from tests.faults.load import UNLIMITED, Admin, Backend, Load, assert_ledger_within, received_all
from tests.harness import PATIENCE, PLAIN, ROOT, SECRET, Process, eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.harness import Stream

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked up in /proc")

BOTH = ("worker-1", "worker-2")
START = 4 * PATIENCE
"""Several starts, one after the other."""
REFUSE_NODES = (
    "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''no more''; END'",
    "CREATE TRIGGER refuse BEFORE INSERT ON nodes FOR EACH ROW EXECUTE FUNCTION refuse()",
)


@pytest.fixture
def started(database_url: str, tmp_path: Path) -> Iterator[Process]:
    """Two workers on their way, in a session of their own as a terminal's foreground job is."""
    log = tmp_path / "log"
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("TOCSIN_")},
        **UNLIMITED,
        "TOCSIN_DATABASE_URL": database_url,
        "TOCSIN_JWT_SECRET": SECRET,
        "TOCSIN_DATA_DIR": str(tmp_path),
        "TMPDIR": str(tmp_path),
        "TOCSIN_PORT": "0",
        "TOCSIN_LOG_FORMAT": "json",
        "TOCSIN_NODE_LEASE_SECONDS": "1",
        "TOCSIN_HOUSEKEEPING_INTERVAL_SECONDS": "0.2",
    }
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "service", "serve", "--workers", "2"],
            cwd=ROOT,
            env=environment,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        )
    yield Process("", database_url, process, log, environment)
    for pid in members(process.pid):  # what a failed test leaves
        os.kill(pid, signal.SIGKILL)
    process.communicate(timeout=PATIENCE)


@pytest.fixture
def pair(started: Process) -> Process:
    """Two workers that serve."""
    assert started.process.stdout is not None
    line = started.process.stdout.readline()
    assert line.startswith("Tocsin serves "), started.log.read_text()
    started.base = line.removeprefix("Tocsin serves ").strip()
    return started


def members(session: int) -> set[int]:
    """Return the processes of a session that have not ended."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, its_session = path.read_text().rpartition(")")[2].split()[:4]
        except OSError:  # it ended meanwhile
            continue
        if int(its_session) == session and state != "Z":
            found.add(int(path.parent.name))
    return found


async def serving(node: Process) -> set[int]:
    """Return the processes of the nodes that serve, as the ledger has them."""
    return {row[0] for row in await node.sql("SELECT pid FROM nodes WHERE ended_at IS NULL")}


def records(node: Process, event: str) -> list[dict[str, Any]]:
    """Return the records of the log whose event contains ``event``."""
    lines = [json.loads(line) for line in node.log.read_text().splitlines() if line.startswith("{")]
    return [line for line in lines if event in line["event"]]


def complaints(errors: str) -> list[str]:
    """Return what is no record of the log: what the command says to whoever started it."""
    return [line for line in errors.splitlines() if not line.startswith("{")]


async def streams_on_both(node: Process, stack: AsyncExitStack) -> list[Stream]:
    """Open streams until both workers have some; the kernel decides which one a connection goes to."""
    streams: list[Stream] = []

    async def nodes() -> set[Any]:
        rows = await node.sql("SELECT node_id FROM connections WHERE closed_at IS NULL")
        return {row[0] for row in rows} if len(rows) == len(streams) else set()

    while len(await eventually(nodes) if streams else ()) < 2:
        assert len(streams) < 40
        streams += [await stack.enter_async_context(await node.live(f"admin-{len(streams) + n}")) for n in range(4)]
    return streams


async def post_one_by_one(node: Process, count: int) -> list[int]:
    """Post alerts, each on a connection of its own, and return where they stand in the log."""

    async def post(number: int) -> int:
        async with Backend(node) as backend:
            answer = await backend.post({"title": f"alert {number}"})
        assert answer.status == 201, answer
        return int(answer.document["seq"])

    return sorted(await asyncio.gather(*map(post, range(count))))


def metrics(node: Process, times: int = 1) -> list[dict[str, float]]:
    """Ask for the metrics so many times, each on a connection of its own."""
    with httpx2.Client(base_url=node.base, headers={"Connection": "close"}, **PLAIN) as client:
        answers = [client.get("/metrics").text for _ in range(times)]
    samples = [[line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")] for text in answers]
    return [{name: float(value) for name, value in lines} for lines in samples]


async def test_alerts_posted_to_either_worker_reach_the_streams_of_both_once_and_in_order(pair: Process) -> None:
    """And the figures of both are added up, and a stop ends both as it ends a single node."""
    async with AsyncExitStack() as stack:
        streams = await streams_on_both(pair, stack)
        posted = await post_one_by_one(pair, 40)
        for stream in streams:
            assert [event["seq"] for event in await stream.events(40)] == posted
        assert {record["worker"] for record in records(pair, "POST /v1/alerts")} == set(BOTH)

        # Whichever worker is asked, the figures are those of both.
        expected = {
            "tocsin_alerts_stored_total": 40,
            "tocsin_commit_batch_alerts_sum": 40,
            "tocsin_connections": len(streams),
            "tocsin_deliveries_total": 40 * len(streams),
            "tocsin_fanout_seq": 40,
        }
        await eventually(lambda: expected.items() <= metrics(pair)[0].items())  # counted after they are sent
        for figures in metrics(pair, times=20):
            assert expected.items() <= figures.items()
        assert {record["worker"] for record in records(pair, "GET /metrics")} == set(BOTH)

        assert await serving(pair) < members(pair.process.pid)
        pair.process.terminate()
        for stream in streams:
            assert await stream.closed() == (1012, "shutting_down")
            assert [frame["seq"] for frame in stream.seen if frame["type"] == "event"] == posted
    assert await asyncio.to_thread(pair.process.wait) == 0
    await eventually(lambda: not members(pair.process.pid))
    assert not await serving(pair)
    closed = await pair.sql("SELECT DISTINCT close_reason, sent_seq FROM connections")
    assert [tuple(row) for row in closed] == [("shutting_down", 40)]


async def test_a_killed_worker_comes_back_and_nothing_is_lost_and_without_their_parent_all_end(pair: Process) -> None:
    admins = [Admin(pair, name) for name in ("alice", "bob", "carol", "dave", "erin", "frank")]
    load = Load(pause=0.05)
    async with AsyncExitStack() as stack:
        for admin in admins:
            await stack.enter_async_context(admin)
        await eventually(lambda: all(admin.sessions for admin in admins))
        before = await serving(pair)
        posting = asyncio.create_task(load.run(pair, workers=6))
        await eventually(lambda: len(load.stored) > 75)
        killed = min(before)
        os.kill(killed, signal.SIGKILL)
        after = await eventually(lambda: two_serve_without(pair, killed))
        load.finish()
        await posting
        assert before - after == {killed}
        await eventually(await received_all(admins))
        await pair.flushed(load.count)
        assert len(members(pair.process.pid)) > 2
        last = [admin.sessions[-1] for admin in admins]  # they try again as soon as these end
        pair.process.kill()
        await eventually(lambda: all(session.code for session in last))
    assert {(session.code, session.reason) for session in last} == {(1012, "shutting_down")}
    await eventually(lambda: not members(pair.process.pid))
    assert not await serving(pair)
    assert (await asyncio.to_thread(pair.process.communicate))[0] == ""  # it said once that it serves
    await load.assert_stored_once(pair)
    for admin in admins:
        assert admin.seqs == await admin.expected()
    await assert_ledger_within(admins)


async def two_serve_without(node: Process, killed: int) -> set[int] | None:
    pids = await serving(node)
    return pids if len(pids) == 2 and killed not in pids else None


@pytest.mark.long
async def test_a_worker_that_cannot_start_again_leaves_the_service_up_until_no_other_is_there(pair: Process) -> None:
    for statement in REFUSE_NODES:
        await pair.sql(statement)
    async with AsyncExitStack() as stack:
        streams = await streams_on_both(pair, stack)
        await post_one_by_one(pair, 20)
        for stream in streams:
            await stream.events(20)
        first, second = await serving(pair)
        os.kill(first, signal.SIGKILL)
        await eventually(lambda: len(records(pair, "starting it again")) == 2)
        left = await pair.sql("SELECT count(*) FROM connections JOIN nodes n ON n.id = node_id WHERE pid = $1", second)
        await eventually(lambda: metrics(pair)[0]["tocsin_connections"] == left[0][0])
        assert metrics(pair)[0]["tocsin_alerts_stored_total"] == 20
        os.kill(second, signal.SIGKILL)
    assert await asyncio.to_thread(pair.process.wait) == 1
    for record in records(pair, "worker did not start"):
        assert "no more" in record["why"]
    pauses = [record["after_seconds"] for record in records(pair, "starting it again")]
    assert max(pauses) >= 4
    assert complaints(pair.log.read_text()) == ["tocsin: a worker did not start: its log says why"]
    await eventually(lambda: not members(pair.process.pid))


@pytest.mark.long
async def test_workers_that_all_end_while_they_start_come_back_after_a_pause(pair: Process) -> None:
    for statement in REFUSE_NODES:
        await pair.sql(statement)
    for pid in await serving(pair):
        os.kill(pid, signal.SIGKILL)
    await eventually(lambda: any(record["after_seconds"] for record in records(pair, "starting it again")), START)
    assert {record["why"] for record in records(pair, "starting it again") if record["after_seconds"] == 0} == {
        "killed by signal 9"
    }
    await eventually(lambda: any("no more" in record["why"] for record in records(pair, "starting it again")), START)
    await pair.sql("DROP TRIGGER refuse ON nodes")
    await eventually(lambda: both_serve_again(pair), START)
    await pair.post()


async def both_serve_again(node: Process) -> bool:
    return len(await serving(node) & members(node.process.pid)) == 2


def is_starting(pid: int) -> bool:
    """Say whether a process is in the middle of its imports, or beyond."""
    try:
        return "pydantic_core" in Path(f"/proc/{pid}/maps").read_text()
    except OSError:  # it ended meanwhile
        return False


@pytest.mark.long
async def test_workers_that_are_interrupted_while_they_start_end_without_a_word(started: Process) -> None:
    await eventually(lambda: any(map(is_starting, members(started.process.pid) - {started.process.pid})))
    os.killpg(started.process.pid, signal.SIGINT)  # Ctrl-C: all processes are sent it
    output, _ = await asyncio.to_thread(started.process.communicate)
    assert (started.process.returncode, output, started.log.read_text()) == (0, "", "")
    await eventually(lambda: not members(started.process.pid))


def test_a_worker_that_cannot_start_fails_the_command() -> None:
    ended: list[str] = []
    # A target that returns, and never said that it listens.
    workers = Workers(callable, (), on_listening=pytest.fail, on_ended=ended.append, stop_seconds=PATIENCE)
    with pytest.raises(CommandFailed, match="a worker did not start"):
        workers.run(1)
    assert ended == ["worker-1"]


def test_the_log_says_why_a_worker_did_not_start() -> None:
    workers = Workers(fail_to_start, (), on_listening=pytest.fail, on_ended=lambda _name: None, stop_seconds=PATIENCE)
    with capture_logs() as log, pytest.raises(CommandFailed, match="a worker did not start"):
        workers.run(2)
    assert {record["why"] for record in log if record["event"] == "worker did not start"} == {"this is why"}


def fail_to_start(_listening: Callable[[], None]) -> None:
    raise CommandFailed("this is why")


@pytest.mark.parametrize("number", ["0", "-1", "many"])
def test_workers_are_a_positive_number(
    number: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["tocsin", "serve", "--workers", number])
    with pytest.raises(SystemExit) as raised:
        main()
    assert raised.value.code == 2
    assert "Invalid value for '--workers': Input should be" in capsys.readouterr().err
