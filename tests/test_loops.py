"""``docs/loops.md``: each loop is run as it stands there, against a real node, through a proxy that fails.

The tests wait for as long as the loops do: for ``Retry-After``, and for random times between attempts.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from contextlib import suppress
from datetime import UTC, datetime
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import pytest

from service.client import Client
from service.errors import CloseReason
from tests.client.flaky_proxy import Fault, FlakyProxy, answer
from tests.harness import PATIENCE, READ, ROOT, SECRET, WRITE, Node, eventually, serving, token
from tests.programs import LOOPS, snippet, snippets
from tests.running import lines, started

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Iterator
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

QUICK = ("python", "curl")
"""These are run by ``make test``, which would take a minute more with all; the others are in the long tier."""
COMPILED = ("go", "java", "rust")
SHELLS = ("curl", "tocsin")
BY_CLIENT = (*SHELLS, "python", "page")
"""They leave it to commands, or to a client of the service, when to stop; a long poll is answered with a status."""
FAULTS: list[Fault | bytes] = [
    Fault.ANSWER_LOST,
    Fault.REFUSED,
    answer("429 Too Many Requests", "Retry-After: 1"),
    answer("502 Bad Gateway"),
    answer("503 Service Unavailable", "Retry-After: Wed, 21 Oct 2015 07:28:00 GMT"),
    answer("504 Gateway Timeout"),
]


def every(loop: str) -> pytest.MarkDecorator:
    """Parametrize a test by the programs that have this loop."""
    slow = [pytest.mark.long, pytest.mark.timeout(900)]
    names = [pytest.param(name, marks=() if name in QUICK else slow) for name in LOOPS if loop in snippets(name)]
    return pytest.mark.parametrize("name", names)


class Programs:
    """The programs of one language, which reach the node through ``proxy``, and run in ``folder``."""

    def __init__(self, name: str, command: list[str], node: Node, proxy: FlakyProxy, folder: Path) -> None:
        self.name, self.node, self.proxy, self.folder = name, node, proxy, folder
        self._command = command
        self._errors = folder / "stderr"
        self._token_file = folder / "token"
        self.renew_token()

    def renew_token(self) -> None:
        """Write a fresh token for programs that read theirs from a file; others mint one for each attempt."""
        self._token_file.write_text(token(self.name, f"{READ} {WRITE}"))

    def spoil_token(self) -> None:
        """Write one that is none."""
        self._token_file.write_text("a.b.c")

    @property
    def errors(self) -> str:
        """What they said on standard error."""
        return self._errors.read_text()

    def start(self, *arguments: str, secret: str = SECRET) -> AbstractAsyncContextManager[Process]:
        settings = {
            "TOCSIN_URL": self.proxy.base,
            "TOCSIN_JWT_SECRET": secret,
            "TOCSIN_TOKEN_FILE": str(self._token_file),
            "PYTHONPATH": str(ROOT),
        }
        return started([*self._command, *arguments], self._errors, settings, self.folder)

    def follow(
        self, consumer: str, topic: str = "jobs.*", after: str | None = None
    ) -> AbstractAsyncContextManager[Process]:
        """Start a program that follows. Those in a shell keep their cursor in a file."""
        if after is None:
            return self.start("follow", consumer, topic)
        if self.name in SHELLS:
            (self.folder / f"{consumer}.cursor").write_text(f"{after}\n")
            return self.start("follow", consumer, topic)
        return self.start("follow", consumer, topic, after)

    async def connections(self) -> list[Any]:
        """Return the connections that there were."""
        return await self.node.sql("SELECT * FROM audit.connections WHERE recipient = $1", self.name)

    async def connected(self, count: int) -> None:
        """Wait until there were so many."""

        async def are_there() -> bool:
            return len(await self.connections()) >= count

        await eventually(are_there)

    async def sent(self, seq: int, *, times: int) -> None:
        """Wait until an event was sent on so many connections."""
        query = "SELECT count(*) FROM audit.deliveries WHERE recipient = $1 AND seq = $2"

        async def was_sent() -> bool:
            [row] = await self.node.sql(query, self.name, seq)
            return bool(row[0] == times)

        await eventually(was_sent)

    async def closed(self, reason: str, patience: float = PATIENCE) -> None:
        """Wait until one was closed for this reason."""

        async def is_there() -> bool:
            return reason in [row["close_reason"] for row in await self.connections()]

        await eventually(is_there, patience)


_commands: dict[str, list[str]] = {}
"""The programs that are compiled, by their names: once, because it takes longer than the tests."""


@pytest.fixture
async def command(name: str, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    if name not in _commands:
        _commands[name] = await LOOPS[name](tmp_path_factory.mktemp(name))
    return _commands[name]


@pytest.fixture
def programs(name: str, command: list[str], node: Node, tmp_path: Path) -> Iterator[Programs]:
    with FlakyProxy(node.base).running() as proxy:
        yield Programs(name, command, node, proxy, tmp_path)


@pytest.mark.unit
@pytest.mark.parametrize("name", [name for name in LOOPS if name not in BY_CLIENT])
def test_the_reasons_at_which_a_loop_stops_are_those_of_the_service(name: str) -> None:
    shown = snippet(name, "follow")
    stops = {close.reason for close in CloseReason if close.policy == "stop"}
    assert {close.reason for close in CloseReason if f'"{close.reason}"' in shown} == stops


async def answered(program: Process, failed: dict[str, Any]) -> str:
    """Put an item into the queue of a program, and return what became of it."""
    assert program.stdin is not None
    program.stdin.write(json.dumps(failed).encode() + b"\n")
    await program.stdin.drain()
    [line] = await lines(program, 1)
    return line


@every("post")
async def test_each_alert_of_a_queue_is_stored_once_whatever_becomes_of_the_requests(
    programs: Programs,
) -> None:
    proxy = programs.proxy
    async with programs.start("post") as program:
        for run, fault in enumerate(FAULTS, 1):
            proxy.faults = [fault]
            proxy.cut()
            stored = await answered(program, {"job": "backup", "run": run})
            assert stored == f"stored {run}", programs.errors
            assert proxy.faults == []
            if fault == FAULTS[2]:
                assert proxy.connected_at[-1] - proxy.connected_at[-2] >= 0.99  # never before Retry-After

        refused = await answered(program, {"job": "not a topic", "run": 1})
        assert refused == ("not stored" if programs.name == "tocsin" else "refused 422 invalid_request")
        assert await answered(program, {"job": "import", "run": 1}) == f"stored {len(FAULTS) + 1}"
        assert program.stdin is not None
        program.stdin.close()
        async with asyncio.timeout(PATIENCE):
            assert await program.wait() == 0
    async with programs.start("post") as program:  # which crashed before it removed the alert from its queue
        assert await answered(program, {"job": "backup", "run": 2}) == "stored 2"
    rows = await programs.node.sql("SELECT title, attributes->>'run' AS run, occurrences FROM alerts ORDER BY seq")
    expected = [("backup failed", str(run), 1) for run in range(1, len(FAULTS) + 1)]
    assert [tuple(row) for row in rows] == [*expected, ("import failed", "1", 1)]


PARTS = (2_000, 1_000, 2_000)
FEW_PARTS = (200, 100, 100)
"""For programs whose compilation takes long enough."""


def burst(first: int, last: int, slow: dict[int, float]) -> list[Any]:
    """Return alerts: every fifth is of the database, and ``slow`` says how many seconds of work some of them are."""
    return [
        {
            "title": f"Alert {number}",
            "topic": "jobs.web" if number % 5 else "jobs.db",
            "body": "x" * 2_000,  # so that not all fit into the buffers of sockets
            "attributes": {"seconds": slow[number]} if number in slow else {},
        }
        for number in range(first, last + 1)
    ]


async def post(node: Node, alerts: list[Any]) -> None:
    with Client(node.base, token("billing", WRITE)) as client:
        await asyncio.to_thread(client.post_batch, alerts)


def seq_of(line: str) -> int:
    """Return the seq of the event that a program says it handled."""
    word, seq, *_ = line.split()
    assert word == "event", line
    return int(seq)


async def handled(program: Process, count: int) -> list[int]:
    """Return the seqs of the next events that a program handles."""
    return [seq_of(line) for line in await lines(program, count)]


async def killed(program: Process) -> list[int]:
    """Kill a program, and return the seqs of what it had handled, as far as nobody read that."""
    os.killpg(program.pid, signal.SIGKILL)
    assert program.stdout is not None
    return [seq_of(line) for line in (await program.stdout.read()).decode().splitlines()]


@every("follow")
async def test_slow_handlers_get_a_burst_in_order_over_a_cut_a_revocation_and_a_restart(programs: Programs) -> None:
    node = programs.node
    parts = FEW_PARTS if programs.name in COMPILED else PARTS
    cut, killed_at, last = accumulate(parts)
    async with (
        programs.follow("mailer") as mailer,
        programs.follow("archive") as archive,
        programs.follow("pager", "jobs.db") as pager,
        asyncio.TaskGroup() as readers,
    ):
        await programs.connected(3)
        all_events = readers.create_task(handled(archive, last))
        some = readers.create_task(handled(pager, last // 5))

        await post(node, burst(1, cut, {2: 1}))  # the second keeps all behind it waiting
        seqs = await handled(mailer, cut // 2)
        programs.proxy.cut()
        seqs += await handled(mailer, cut - cut // 2)

        await post(node, burst(cut + 1, killed_at, {cut + 2: 0.5}))
        seqs += await handled(mailer, 1)  # so it has connected again
        await revoke(programs)
        seqs += await handled(mailer, killed_at - cut - 2)
        seqs += await killed(mailer)
        assert seqs == list(range(1, len(seqs) + 1)), programs.errors

        await post(node, burst(killed_at + 1, last, {}))
        async with programs.follow("mailer") as again:
            [begun] = await handled(again, 1)
            assert 1 < begun <= len(seqs) + 1, programs.errors  # something was acknowledged, and nothing lost
            assert await handled(again, last - begun) == list(range(begun + 1, last + 1)), programs.errors
    assert all_events.result() == list(range(1, last + 1)), programs.errors
    assert some.result() == list(range(5, last + 1, 5)), programs.errors


async def revoke(programs: Programs) -> None:
    """Revoke the tokens that the programs have, and let fresh ones be valid, until a connection is closed for it.

    Those that poll may all have gone on with a fresh one already.
    """
    async with programs.node.http("root", "admin") as root:
        for _ in range(10):
            before = datetime.now(UTC).isoformat()
            programs.renew_token()
            answer = await root.post("/v1/revocations", json={"subject": programs.name, "before": before})
            assert answer.is_success, answer.text
            with suppress(AssertionError):
                return await programs.closed("token_revoked", patience=5)
    raise AssertionError


@every("follow")
async def test_an_event_that_was_in_work_when_a_program_was_killed_comes_again(programs: Programs) -> None:
    async with programs.follow("mailer"):
        await programs.connected(1)
        await programs.node.post(topic="jobs.db", attributes={"seconds": 3600})
        await programs.sent(1, times=1)
    async with programs.follow("mailer"):
        await programs.sent(1, times=2)


@every("follow")
async def test_a_program_says_what_cannot_be_had_or_is_void_and_goes_on(
    name: str, command: list[str], node: Node, tmp_path: Path
) -> None:
    await node.post_all([{"topic": "jobs.db"}] * 3)
    await node.sql("DELETE FROM events WHERE seq <= 2")
    with serving(node.database_url) as fresh, FlakyProxy(fresh.base).running() as proxy:
        programs = Programs(name, command, fresh, proxy, tmp_path)
        async with programs.follow("mailer", after="1") as mailer:
            assert await handled(mailer, 1) == [3]
        assert re.search("gap|cannot be had", programs.errors)
        async with programs.follow("archive", after="3-00000000") as archive:
            await eventually(lambda: re.search("reset|void", programs.errors))
            await fresh.post(topic="jobs.db")
            assert await handled(archive, 1) == [4]


@every("follow")
async def test_a_program_stops_where_going_on_is_of_no_use(programs: Programs) -> None:
    async with programs.follow("mailer") as mailer:
        await programs.connected(1)
        await programs.node.post(topic="jobs.db")
        assert await handled(mailer, 1) == [1]
        async with programs.node.http("root", "admin") as root:

            async def is_over() -> bool:
                """A poll says why it is closed only if it waits just then."""
                for row in await programs.connections():
                    if row["closed_at"] is None:
                        await root.delete(f"/v1/connections/{row['connection']}")
                return mailer.returncode is not None

            await eventually(is_over)
        assert mailer.returncode != 0
    assert "kicked" in programs.errors
    if "post" in snippets(programs.name) and programs.name != "tocsin":  # which prints what became of each alert
        programs.spoil_token()
        async with programs.start("post", secret="none that the node knows, of more than 32 bytes") as program:
            assert await answered(program, {"job": "backup", "run": 1}) == ""
            async with asyncio.timeout(PATIENCE):
                assert await program.wait() != 0
        assert "token_invalid" in programs.errors
