"""A random history of several nodes, their clients and their faults, recorded by all clients and then checked.

    python -m tests.faults.history_runner --seed 7 --minutes 10

runs one history after the other, each with the next seed, on a PostgreSQL of its own.
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
from tests.faults.client_sockets import ask, find_ends, post
from tests.faults.history import NEVER, Frames, ObservedConnection, Posted, Unread, now
from tests.faults.history_checker import LEASE, complaints_of
from tests.faults.simulated_clients import LongPollClient, SimulatedClient, SseClient, WebSocketClient
from tests.faults.trials.records import SEVERITIES, Subscription
from tests.harness import PATIENCE, WRITE, eventually, new_database, start_process, token, with_database

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from datetime import datetime

    from tests.harness import Process

NODES = 3
RESUMING_CLIENTS = 6
JUMPING_CLIENTS = 14
PUBLISHERS = 3
POSTS = 700
FAULTS = ("kill", "kill", "term", "pause", "cut", "cut")

TOPICS = ("payments.eu", "payments.us", "search", "default", "deep.er.still")
PATTERNS = (("*",), ("*",), ("payments.*",), ("payments.eu", "search"), ("deep.*", "default"), ("payments",))
TRANSPORTS: tuple[type[SimulatedClient], ...] = (
    WebSocketClient,
    WebSocketClient,
    WebSocketClient,
    SseClient,
    LongPollClient,
)
EVERY = "1000000/second"
SETTINGS = {
    "TOCSIN_WRITE_LIMIT": EVERY,
    "TOCSIN_READ_LIMIT": EVERY,
    "TOCSIN_AUTH_FAILURE_LIMIT": EVERY,
    "TOCSIN_CONNECT_LIMIT": EVERY,
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
class NodeSlot:
    """A port on which one node serves at a time; after it has ended, the next one does."""

    process: Process
    port: int
    is_serving: bool = True

    @property
    def pid(self) -> int:
        """The pid of the node that serves."""
        return self.process.process.pid


class History:
    """One run, with all random choices from one seed."""

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
        self.slots: list[NodeSlot] = []
        self.clients: list[SimulatedClient] = []
        self.posted: list[Posted] = []
        self.alerts: list[dict[str, Any]] = []
        self.frames = Frames()
        self.frames_seen = 0
        self.logs: dict[int, Path] = {}
        self.injected: list[str] = []
        self.killed: dict[int, datetime] = {}
        self.paused: set[int] = set()
        self.complaints: list[str] = []
        self.is_over = False
        self.head = 0
        self._agents = itertools.count(1)
        self._stored = 0

    @property
    def connections(self) -> list[ObservedConnection]:
        """All connections of all clients."""
        return [observed for client in self.clients for observed in client.connections]

    def choose_slot(self, random: Random) -> NodeSlot:
        """Choose a node."""
        return random.choice([slot for slot in self.slots if slot.is_serving])

    def new_agent(self) -> str:
        """Return a user agent that no connection had before."""
        return f"history/{next(self._agents)}"

    def errors(self) -> list[str]:
        """Return the errors that the nodes logged, none of which a fault may cause."""
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
        """Run it, and return what is wrong in the ledger."""
        try:
            started = [asyncio.to_thread(self._start) for _ in range(NODES)]
            self.slots = [
                NodeSlot(process, urlsplit(process.base).port or 0) for process in await asyncio.gather(*started)
            ]
            self.clients = [self._client(number) for number in range(RESUMING_CLIENTS + JUMPING_CLIENTS)]
            async with asyncio.TaskGroup() as tasks:
                clients = [tasks.create_task(client.run()) for client in self.clients]
                async with asyncio.TaskGroup() as doing:
                    for number in range(PUBLISHERS):
                        doing.create_task(self._publish(number))
                    doing.create_task(self._inject_faults())
                self.head = (await self.sql("SELECT coalesce(max(seq), 0) FROM events"))[0][0]
                self.is_over = True
                _, late = await asyncio.wait(clients, timeout=4 * PATIENCE)
                self.complaints += [f"the {task} never had everything" for task in late]
                for task in late:
                    task.cancel()
            await eventually(self._lost_are_settled, 4 * PATIENCE)
            await asyncio.gather(*(self._stop(slot) for slot in self.slots))
        finally:
            for slot in self.slots:
                slot.process.kill()
                slot.process.end()
        return self.complaints + self.errors() + await complaints_of(self)

    def _start(self, port: int = 0) -> Process:
        process = start_process(self.database_url, self.folder, port, **self.settings)
        self.logs[process.process.pid] = process.log
        return process

    def _client(self, number: int) -> SimulatedClient:
        resuming = number < RESUMING_CLIENTS
        recipient = f"resuming-{number}" if resuming else f"admin-{number % 4}"
        severity = self.random.choice(("info", "info", "warning", "error"))
        subscription = Subscription(recipient, self.random.choice(PATTERNS[:-1] if resuming else PATTERNS), severity)
        # Of the keepers each transport has one at least.
        kind = (*TRANSPORTS[2:], *TRANSPORTS)[number] if resuming else self.random.choice(TRANSPORTS)
        return kind(self, subscription, number, resuming=resuming)

    # Posting.

    async def _publish(self, number: int) -> None:
        random = Random(f"{self.seed}/publisher/{number}")
        while self._stored < self.posts:
            await random.choice((self._post, self._post, self._post_batch, self._act))(random)
            await asyncio.sleep(random.expovariate(25))

    def _alert(self, random: Random) -> dict[str, Any]:
        names = [f"resuming-{number}" for number in range(RESUMING_CLIENTS)] + [
            f"admin-{number}" for number in range(4)
        ]
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
            slot = self.choose_slot(random)
            answer = await ask(slot.port, post(path, token("billing", WRITE), document, **more))
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
        await ask(random.choice(self.slots).port, post(f"/v1/alerts/{alert['id']}/{action}", who, document))

    # Faults.

    async def _inject_faults(self) -> None:
        """Inject the faults in a random order, spread over the posts."""
        faults: dict[str, Callable[[NodeSlot], Awaitable[None]]] = {
            "kill": self._kill,
            "term": self._terminate,
            "pause": self._pause,
            "cut": self._cut,
        }
        names, began = self.random.sample(self.faults, len(self.faults)), time.monotonic()
        for number, name in enumerate(names, 1):
            due = self.posts * number // (len(names) + 1)
            await eventually(lambda due=due: self._stored >= due, 4 * PATIENCE)  # type: ignore[misc]
            self.injected.append(f"{name} after {self._stored}, {time.monotonic() - began:.0f} s")
            await faults[name](self.random.choice(self.slots))

    async def _kill(self, slot: NodeSlot) -> None:
        """Kill a node that is frozen, once its clients have read what it handed to the kernel."""
        process, pid = slot.process.process, slot.pid
        process.send_signal(signal.SIGSTOP)
        await eventually(lambda: _state(pid) == "T")
        self.killed[pid] = now()
        sockets = {
            observed: observed.socket
            for observed in self.connections
            if observed.pid == pid and observed.socket and observed.socket.is_open
        }
        deadline = time.monotonic() + 1
        while True:
            ends = find_ends([sock.ends for sock in sockets.values() if sock.is_open])
            if not any(end.unsent for end in ends.values()) or time.monotonic() > deadline:
                break
            await asyncio.sleep(0.02)
        for observed, sock in sockets.items():
            if sock.is_open and ends[sock.ends].is_open:
                observed.was_killed = True
                observed.unread.append(Unread(ends[sock.ends].unsent, NEVER, NEVER))
        slot.process.kill()
        await self._restart(slot)

    async def _terminate(self, slot: NodeSlot) -> None:
        await self._stop(slot)
        await self._restart(slot)

    async def _stop(self, slot: NodeSlot) -> None:
        code = await asyncio.to_thread(slot.process.stop)
        if code != 0:
            self.complaints.append(f"a node ended with {code}: {slot.process.log.read_text()[-2000:]}")

    async def _restart(self, slot: NodeSlot) -> None:
        slot.is_serving = False  # no client connects before the new pid is known
        if slot.process.process.stdout:
            slot.process.process.stdout.close()
        slot.process = await asyncio.to_thread(self._start, slot.port)
        slot.is_serving = True

    async def _pause(self, slot: NodeSlot) -> None:
        """Freeze a node until another has declared it lost."""
        self.paused.add(slot.pid)
        slot.process.process.send_signal(signal.SIGSTOP)
        try:
            query = "SELECT FROM nodes WHERE pid = $1 AND ended_at IS NOT NULL"
            await eventually(lambda: self.sql(query, slot.pid), 4 * PATIENCE)
        finally:
            slot.process.process.send_signal(signal.SIGCONT)

    async def _cut(self, _slot: NodeSlot) -> None:
        """Cut every connection to PostgreSQL."""
        await self.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )

    async def _lost_are_settled(self) -> bool:
        """Say whether no node is left but those that serve; one that started over has a row that is another's now."""
        rows = await self.sql("SELECT pid FROM nodes WHERE ended_at IS NULL")
        return sorted(row[0] for row in rows) == sorted(slot.pid for slot in self.slots)


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
            f"seed {seed}: {len(history.connections)} connections, {history.head} events,"
            f" {time.monotonic() - began:.0f} s, {len(complaints)} complaints",
            flush=True,
        )
        print("   ", ", ".join(history.injected), flush=True)
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
