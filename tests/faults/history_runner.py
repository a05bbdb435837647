"""A random history of several nodes, their clients and their faults, written down by everybody, then judged.

    python -m tests.faults.history_runner --seed 7 --minutes 10

makes one history after the other, each from the next seed, on a PostgreSQL of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import shutil
import signal
import tempfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import asyncpg

from service.database.embedded import embedded_postgres
from service.database.engine import parse_url
from service.database.migrate import migrate
from service.severity import SEVERITIES
from tests.faults.client_sockets import ask, find_ends, post
from tests.faults.history import NEVER, Frames, Posted, Unread, Visit, Wanted, now
from tests.faults.history_checker import LEASE, complaints_of
from tests.faults.simulated_clients import EventsGuest, Guest, PollGuest, WebSocketGuest
from tests.harness import PATIENCE, WRITE, eventually, new_database, start_process, token, with_database

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from datetime import datetime

    from tests.harness import Process

NODES = 3
KEEPERS = 6
WANDERERS = 14
PUBLISHERS = 3
POSTS = 700
FAULTS = ("kill", "kill", "term", "pause", "cut", "cut")

TOPICS = ("payments.eu", "payments.us", "search", "default", "deep.er.still")
PATTERNS = (("*",), ("*",), ("payments.*",), ("payments.eu", "search"), ("deep.*", "default"), ("payments",))
TRANSPORTS: tuple[type[Guest], ...] = (WebSocketGuest, WebSocketGuest, WebSocketGuest, EventsGuest, PollGuest)
EVERY = "1000000/second"
SETTINGS = {
    "TOCSIN_WRITE_LIMIT": EVERY,
    "TOCSIN_READ_LIMIT": EVERY,
    "TOCSIN_AUTH_FAILURE_LIMIT": EVERY,
    "TOCSIN_NODE_LEASE_SECONDS": str(LEASE.total_seconds()),
    "TOCSIN_HOUSEKEEPING_INTERVAL_SECONDS": "0.3",
    "TOCSIN_HEARTBEAT_SECONDS": "1",
    "TOCSIN_PING_INTERVAL_SECONDS": "2",
    "TOCSIN_PING_TIMEOUT_SECONDS": "2",
    "TOCSIN_SLOW_CONSUMER_SECONDS": "2",
    "TOCSIN_LONGPOLL_IDLE_TIMEOUT_SECONDS": "2",
    "TOCSIN_SHUTDOWN_TIMEOUT_SECONDS": "3",
    "TOCSIN_COMMIT_RECOVERY_TIMEOUT_SECONDS": "2",
}
CHOICES = {
    "TOCSIN_REPLAY_CACHE_EVENTS": ("50", "500", "20000"),
    "TOCSIN_REPLAY_CHUNK_EVENTS": ("3", "40", "500"),
    "TOCSIN_REPLAY_CHUNK_BYTES": ("4000", "262144"),
    "TOCSIN_ACK_COALESCE_SECONDS": ("0", "0.01"),
}


@dataclass
class Seat:
    """A place where a node serves; another takes it after it has ended."""

    process: Process
    port: int
    is_taken: bool = True

    @property
    def pid(self) -> int:
        """The process that serves there."""
        return self.process.process.pid


class History:
    """Everything that happens, from one seed."""

    def __init__(
        self, database_url: str, folder: Path, seed: int, posts: int = POSTS, faults: Sequence[str] = FAULTS
    ) -> None:
        self.database_url = database_url
        self.folder = folder
        self.seed = seed
        self.random = Random(f"{seed}")
        self.posts = posts
        self.faults = faults
        self.settings = SETTINGS | {name: self.random.choice(values) for name, values in CHOICES.items()}
        self.seats: list[Seat] = []
        self.guests: list[Guest] = []
        self.posted: list[Posted] = []
        self.alerts: list[dict[str, Any]] = []
        self.frames = Frames()
        self.frames_seen = 0
        self.logs: dict[int, Path] = {}
        self.struck: list[str] = []
        self.killed: dict[int, datetime] = {}
        self.paused: set[int] = set()
        self.complaints: list[str] = []
        self.is_over = False
        self.head = 0
        self._agents = itertools.count(1)
        self._stored = 0

    @property
    def visits(self) -> list[Visit]:
        """All connections of all clients."""
        return [visit for guest in self.guests for visit in guest.visits]

    def choose_seat(self, random: Random) -> Seat:
        """Choose a node."""
        return random.choice([seat for seat in self.seats if seat.is_taken])

    def new_agent(self) -> str:
        """Return a user agent that no connection had before."""
        return f"recorder/{next(self._agents)}"

    def errors(self) -> list[str]:
        """Return what the nodes logged that must not happen, whatever befalls them."""
        lines = [line for log in self.logs.values() for line in log.read_text().splitlines()]
        severe = [line for line in lines if '"level": "error"' in line or '"level": "critical"' in line]
        # A stop cuts off requests that take too long, of a client that does not read its answer, and uvicorn says so.
        return [line[-1000:] for line in severe if '"logger": "uvicorn.error"' not in line]

    def stalled(self) -> set[int]:
        """Return the nodes that found themselves lost: one that the machine left without a turn for seconds is."""
        return {pid for pid, log in self.logs.items() if "lease lost" in log.read_text()}

    def saw(self, seq: int, payload: bytes) -> None:
        """Compare a frame with what others saw."""
        self.frames.compare(seq, payload)
        self.frames_seen = max(self.frames_seen, seq)

    async def sql(self, query: str, *arguments: Any) -> list[Any]:
        """Ask the database."""
        connection = await asyncpg.connect(self.database_url)
        try:
            rows: list[Any] = await connection.fetch(query, *arguments)
        finally:
            await connection.close()
        return rows

    async def run(self) -> list[str]:
        """Let it happen, and return what the ledger has wrong."""
        try:
            started = [asyncio.to_thread(self._start) for _ in range(NODES)]
            self.seats = [Seat(process, urlsplit(process.base).port or 0) for process in await asyncio.gather(*started)]
            self.guests = [self._guest(number) for number in range(KEEPERS + WANDERERS)]
            async with asyncio.TaskGroup() as tasks:
                guests = [tasks.create_task(guest.run()) for guest in self.guests]
                async with asyncio.TaskGroup() as doing:
                    for number in range(PUBLISHERS):
                        doing.create_task(self._publish(number))
                    doing.create_task(self._strike())
                self.head = (await self.sql("SELECT coalesce(max(seq), 0) FROM events"))[0][0]
                self.is_over = True
                _, late = await asyncio.wait(guests, timeout=4 * PATIENCE)
                self.complaints += [f"the {task} never had everything" for task in late]
                for task in late:
                    task.cancel()
            await eventually(self._lost_are_settled, 4 * PATIENCE)
            await asyncio.gather(*(self._stop(seat) for seat in self.seats))
        finally:
            for seat in self.seats:
                seat.process.kill()
                seat.process.end()
        return self.complaints + self.errors() + await complaints_of(self)

    def _start(self, port: int = 0) -> Process:
        process = start_process(self.database_url, self.folder, port, **self.settings)
        self.logs[process.process.pid] = process.log
        return process

    def _guest(self, number: int) -> Guest:
        keeper = number < KEEPERS
        recipient = f"keeper-{number}" if keeper else f"admin-{number % 4}"
        severity = self.random.choice(("info", "info", "warning", "error"))
        wanted = Wanted(recipient, self.random.choice(PATTERNS[:-1] if keeper else PATTERNS), severity)
        # Of the keepers each transport has one at least.
        kind = (*TRANSPORTS[2:], *TRANSPORTS)[number] if keeper else self.random.choice(TRANSPORTS)
        return kind(self, wanted, number, keeper=keeper)

    # What is published.

    async def _publish(self, number: int) -> None:
        random = Random(f"{self.seed}/publisher/{number}")
        while self._stored < self.posts:
            await random.choice((self._post, self._post, self._post_batch, self._act))(random)
            await asyncio.sleep(random.expovariate(25))

    def _alert(self, random: Random) -> dict[str, Any]:
        names = [f"keeper-{number}" for number in range(KEEPERS)] + [f"admin-{number}" for number in range(4)]
        return {
            "topic": random.choice(TOPICS),
            "severity": random.choice(SEVERITIES),
            "title": "It happened",
            "body": "x" * random.choice((1, 1, 1, 300, 2_000, 15_000)),
            "recipients": random.sample(names, random.randint(1, 5)) if random.random() < 0.25 else None,
            **({"dedup_key": f"key {random.randint(0, 20)}"} if random.random() < 0.1 else {}),
        }

    async def _insist(
        self, random: Random, path: str, document: Any, is_done: Callable[[Any], bool], **more: str
    ) -> Any:
        """Post until it is stored, to whichever node answers."""
        while True:
            seat = self.choose_seat(random)
            answer = await ask(seat.port, post(path, token("billing", WRITE), document, **more))
            if answer is not None and is_done(answer):
                return answer.json()
            await asyncio.sleep(0.05)

    async def _post(self, random: Random) -> None:
        alert, at = self._alert(random), now()
        key = {"Idempotency-Key": str(uuid.UUID(int=random.getrandbits(128)))}
        answer = await self._insist(random, "/v1/alerts", alert, lambda answer: answer.status in (200, 201), **key)
        self._note(alert, answer, at)

    async def _post_batch(self, random: Random) -> None:
        alerts, at = [self._alert(random) for _ in range(random.choice((2, 8, 30)))], now()
        items = [{**alert, "idempotency_key": str(uuid.UUID(int=random.getrandbits(128)))} for alert in alerts]

        def is_done(answer: Any) -> bool:
            return answer.status == 200 and all(one["status"] in (200, 201) for one in answer.json()["results"])

        answer = await self._insist(random, "/v1/alerts/batch", items, is_done)
        for alert, result in zip(alerts, answer["results"], strict=True):
            self._note(alert, result, at)

    def _note(self, alert: dict[str, Any], answer: dict[str, Any], at: Any) -> None:
        self._stored += 1
        self.alerts.append({**alert, "id": answer["id"]})
        if "dedup_key" not in alert:
            self.posted.append(Posted(answer["seq"], alert, at))

    async def _act(self, random: Random) -> None:
        if not self.alerts:
            return
        alert = random.choice(self.alerts[-200:])
        who = token((alert["recipients"] or ["chief"])[0], "alerts:read alerts:manage")
        action = random.choice(("acknowledge", "resolve", "reopen", "comments"))
        document = {"text": "Looking."} if action == "comments" else None
        await ask(random.choice(self.seats).port, post(f"/v1/alerts/{alert['id']}/{action}", who, document))

    # What goes wrong.

    async def _strike(self) -> None:
        """Strike at random, each time after some more was stored."""
        faults: dict[str, Callable[[Seat], Awaitable[None]]] = {
            "kill": self._kill,
            "term": self._terminate,
            "pause": self._pause,
            "cut": self._cut,
        }
        names, began = self.random.sample(self.faults, len(self.faults)), time.monotonic()
        for number, name in enumerate(names, 1):
            due = self.posts * number // (len(names) + 1)
            await eventually(lambda due=due: self._stored >= due, 4 * PATIENCE)  # type: ignore[misc]
            self.struck.append(f"{name} after {self._stored}, {time.monotonic() - began:.0f} s")
            await faults[name](self.random.choice(self.seats))

    async def _kill(self, seat: Seat) -> None:
        """Kill a node, once it has frozen and what it gave to the kernel has arrived where somebody reads."""
        process, pid = seat.process.process, seat.pid
        process.send_signal(signal.SIGSTOP)
        await eventually(lambda: _state(pid) == "T")
        self.killed[pid] = now()
        lines = {visit: visit.line for visit in self.visits if visit.pid == pid and visit.line and visit.line.is_open}
        deadline = time.monotonic() + 1
        while True:
            ends = find_ends([line.ends for line in lines.values() if line.is_open])
            if not any(end.unsent for end in ends.values()) or time.monotonic() > deadline:
                break
            await asyncio.sleep(0.02)
        for visit, line in lines.items():
            if line.is_open and ends[line.ends].is_open:
                visit.was_killed = True
                visit.unread.append(Unread(ends[line.ends].unsent, NEVER, NEVER))
        seat.process.kill()
        await self._restart(seat)

    async def _terminate(self, seat: Seat) -> None:
        await self._stop(seat)
        await self._restart(seat)

    async def _stop(self, seat: Seat) -> None:
        code = await asyncio.to_thread(seat.process.stop)
        if code != 0:
            self.complaints.append(f"a node ended with {code}: {seat.process.log.read_text()[-2000:]}")

    async def _restart(self, seat: Seat) -> None:
        seat.is_taken = False  # nobody comes before it is known which process serves there
        if seat.process.process.stdout:
            seat.process.process.stdout.close()
        seat.process = await asyncio.to_thread(self._start, seat.port)
        seat.is_taken = True

    async def _pause(self, seat: Seat) -> None:
        """Freeze a node until another has declared it lost."""
        self.paused.add(seat.pid)
        seat.process.process.send_signal(signal.SIGSTOP)
        try:
            query = "SELECT FROM nodes WHERE pid = $1 AND ended_at IS NOT NULL"
            await eventually(lambda: self.sql(query, seat.pid), 4 * PATIENCE)
        finally:
            seat.process.process.send_signal(signal.SIGCONT)

    async def _cut(self, _seat: Seat) -> None:
        """Cut every connection to PostgreSQL."""
        await self.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )

    async def _lost_are_settled(self) -> bool:
        """Say whether no node is left but those that serve; one that started over has a row that is another's now."""
        rows = await self.sql("SELECT pid FROM nodes WHERE ended_at IS NULL")
        return sorted(row[0] for row in rows) == sorted(seat.pid for seat in self.seats)


def _state(pid: int) -> str:
    """Return the state of a process (proc(5)): T where it is stopped."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]


async def hunt(server_url: str, seed: int, minutes: float, posts: int) -> int:
    """Make histories until the time is over, and return how many had something wrong."""
    wrong, deadline = 0, time.monotonic() + minutes * 60
    while time.monotonic() < deadline:
        folder = Path(tempfile.mkdtemp(prefix=f"recorder-{seed}-"))
        began = time.monotonic()
        async with new_database(server_url, f"recorder_{seed}", "recorder") as url:
            history = History(url, folder, seed, posts)
            complaints = await history.run()
        print(
            f"seed {seed}: {len(history.visits)} connections, {history.head} events,"
            f" {time.monotonic() - began:.0f} s, {len(complaints)} complaints",
            flush=True,
        )
        print("   ", ", ".join(history.struck), flush=True)
        for complaint in complaints[:20]:
            print("   ", complaint, flush=True)
        wrong += bool(complaints)
        if not complaints:
            shutil.rmtree(folder)
        seed += 1
    return wrong


def main() -> None:
    """Hunt."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--posts", type=int, default=POSTS)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="recorder-"))
    try:
        with embedded_postgres(folder) as server:
            server_url = server.render_as_string(hide_password=False)
            asyncio.run(_make_template(server_url))
            migrate(parse_url(with_database(server_url, "recorder")))
            wrong = asyncio.run(hunt(server_url, arguments.seed, arguments.minutes, arguments.posts))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    raise SystemExit(1 if wrong else 0)


async def _make_template(server_url: str) -> None:
    connection = await asyncpg.connect(server_url)
    await connection.execute("CREATE DATABASE recorder")
    await connection.close()


if __name__ == "__main__":
    main()
