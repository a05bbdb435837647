"""What the tests drive the service with: a node in this process or in one of its own, and real clients."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import ssl
import threading
import time
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlencode

import asyncpg
import httpx2
import uvicorn
from sqlalchemy import make_url
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from service.alerts.schemas import AlertShown
from service.app import create_app
from service.auth.issuers import Keyring, load_keyring
from service.auth.shared_secret import mint
from service.cli.serve import server_config
from service.database.engine import parse_url
from service.database.ids import random_ids
from service.events.hash_chain import digest, event_line
from service.events.log import append_alerts
from service.settings import AuthSettings, Settings
from tests import prefork
from tests.contract import checked_answer, checked_frame, ends

if TYPE_CHECKING:
    import subprocess
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from service.events.idempotency import IdempotencyKey
    from service.events.log import Appended

SECRET = "a secret of the tests, of more than 32 bytes"
READ = "alerts:read"
WRITE = "alerts:write"
PATIENCE = 75.0
CONNECT_SECONDS = 30
"""How long a node of a test may take to connect to its database, unless the test says: not three seconds, the default,
because PostgreSQL is not always as quick beside all other tests."""
HOUR = 3600
"""In how many seconds is due what ``Node.an_hour_passes`` makes due now."""
MEMORY_FOLDER_BYTES = 8 * 1024**3
"""Free space that the databases and the write-ahead logs of all workers of a run may need."""
PLAIN: dict[str, Any] = {"timeout": PATIENCE, "trust_env": False, "verify": ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)}
"""Of a client of a node: no proxy, and none of the certificates, which take 25 ms to load."""
WEBSOCKET: dict[str, Any] = {
    "proxy": None,
    "open_timeout": PATIENCE,
    "ping_timeout": PATIENCE,
    "close_timeout": PATIENCE,
}
"""Of a WebSocket to a node."""
BODY = AlertShown.model_json_schema()["examples"][0]
"""What an event holds that a test puts into the log by hand."""
ROOT = Path(__file__).parent.parent


def token(subject: str, scope: str = READ, **claims: Any) -> str:
    """Mint a token that the tested nodes believe."""
    return mint(SECRET.encode(), AuthSettings(), subject=subject, scope=scope, **claims)


def _check(response: httpx2.Response) -> None:
    if ends(response):
        response.read()
    checked_answer(response)


async def _check_async(response: httpx2.Response) -> None:
    if ends(response):
        await response.aread()
    checked_answer(response)


async def append(
    connection: asyncpg.Connection, alerts: Sequence[bytes], keys: Sequence[IdempotencyKey | None] | None = None
) -> list[Appended]:
    """Append alerts, given as JSON, to the log, as the committer does."""
    ids = random_ids(len(alerts))
    digests = [_created(event_id, alert) for event_id, alert in zip(ids, alerts, strict=True)]
    [attempt] = random_ids(1)
    _, results = await append_alerts(connection, alerts, ids, digests, keys or [None] * len(alerts), attempt=attempt)
    return results


def _created(event_id: int, alert: bytes) -> bytes:
    """Return the digest of the event by which an alert enters the log."""
    fields = json.loads(alert)
    at = datetime.fromisoformat(fields["created_at"])
    return digest(event_line(event_id, "alert.created", at, fields["source"], alert))


async def eventually(condition: Callable[[], Any], patience: float = PATIENCE) -> Any:
    """Wait until ``condition`` (plain or async) is true, and return what it returned."""
    deadline = time.monotonic() + patience
    while True:
        value = condition()
        if asyncio.iscoroutine(value):
            value = await value
        if value:
            return value
        assert time.monotonic() < deadline, "it did not become true in time"
        await asyncio.sleep(0.02)


class Stream:
    """A client of the stream."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.seen: list[dict[str, Any]] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def next(self, patience: float = PATIENCE) -> dict[str, Any]:
        """Return the next frame."""
        async with asyncio.timeout(patience):
            frame = checked_frame(json.loads(await self.connection.recv()))
        self.seen.append(frame)
        return frame

    async def next_of(self, kind: str, patience: float = PATIENCE) -> dict[str, Any]:
        """Return the next frame of a type, passing over others."""
        while (frame := await self.next(patience))["type"] != kind:
            pass
        return frame

    async def events(self, count: int, patience: float = PATIENCE) -> list[dict[str, Any]]:
        """Return the next ``count`` event frames."""
        return [await self.next_of("event", patience) for _ in range(count)]

    async def send(self, frame: dict[str, Any]) -> None:
        """Send a frame, as the contract has it; what it has not is sent with ``connection``."""
        checked_frame(frame, "listen")
        await self.connection.send(json.dumps(frame))

    async def ack(self, seq: int) -> None:
        """Acknowledge everything up to ``seq``."""
        await self.send({"type": "ack", "seq": seq})

    async def closed(self, patience: float = PATIENCE) -> tuple[int, str]:
        """Read until the server closes, and return its code and reason."""
        try:
            while True:
                await self.next(patience)
        except ConnectionClosed:
            return self.connection.close_code or 0, self.connection.close_reason or ""

    async def close(self) -> None:
        """Close from the client's side."""
        await self.connection.close()


@dataclass
class Node:
    """A node that serves at ``base``, on the database at ``database_url``."""

    base: str
    database_url: str

    @property
    def ws(self) -> str:
        """The address of the stream."""
        return self.base.replace("http", "ws", 1) + "/v1/ws"

    def http(self, subject: str = "billing", scope: str = WRITE, **claims: Any) -> httpx2.AsyncClient:
        """Return a REST client with a token."""
        headers = {"Authorization": f"Bearer {token(subject, scope, **claims)}"}
        hooks = {"response": [_check_async]}
        return httpx2.AsyncClient(base_url=self.base, headers=headers, event_hooks=hooks, **PLAIN)

    def rest(self, subject: str = "billing", scope: str = f"{READ} {WRITE}", **claims: Any) -> httpx2.Client:
        """Return a REST client that does not need a loop."""
        headers = {"Authorization": f"Bearer {token(subject, scope, **claims)}"}
        hooks = {"response": [_check]}
        return httpx2.Client(base_url=self.base, headers=headers, event_hooks=hooks, **PLAIN)

    async def post(self, title: str = "It happened", **fields: Any) -> dict[str, Any]:
        """Post one alert as ``billing`` and return the answer."""
        async with self.http() as client:
            response = await client.post("/v1/alerts", json={"title": title, **fields})
        assert response.status_code == 201, response.text
        answer: dict[str, Any] = response.json()
        return answer

    async def post_all(self, alerts: Sequence[dict[str, Any]], at_once: int = 20) -> list[int]:
        """Post alerts, several at once, and return where each stands in the log."""
        seqs: list[int] = []
        async with self.http() as client:
            for start in range(0, len(alerts), at_once):
                some = [{"title": "It happened", **alert} for alert in alerts[start : start + at_once]]
                responses = await asyncio.gather(*(client.post("/v1/alerts", json=alert) for alert in some))
                seqs += [response.raise_for_status().json()["seq"] for response in responses]
        return seqs

    async def stream(
        self,
        subject: str = "alice",
        *,
        scope: str = READ,
        claims: dict[str, Any] | None = None,
        options: dict[str, Any] | None = None,
        **query: Any,
    ) -> Stream:
        """Open a stream the way a browser does, with the token in a subprotocol."""
        address = f"{self.ws}?{urlencode(query)}"
        bearer = f"bearer.{token(subject, scope, **(claims or {}))}"
        return Stream(
            await connect(
                address,
                subprotocols=[Subprotocol("tocsin.v1"), Subprotocol(bearer)],
                **{**WEBSOCKET, "max_size": None, **(options or {})},
            )
        )

    async def live(self, subject: str = "alice", **options: Any) -> Stream:
        """Open a stream and read until it has caught up."""
        stream = await self.stream(subject, **options)
        await stream.next_of("caught_up")
        return stream

    async def fanned_out(self, seq: int) -> None:
        """Wait until this node has fanned out up to ``seq``: it answers a post a moment before."""
        async with await self.live("observer", after=seq):
            pass

    async def sql(self, query: str, *arguments: Any) -> list[Any]:
        """Ask the database."""
        connection = await asyncpg.connect(self.database_url)
        try:
            rows: list[Any] = await connection.fetch(query, *arguments)
        finally:
            await connection.close()
        return rows

    async def an_hour_passes(self) -> None:
        """Let whatever is due within the hour be due now: alerts that expire, escalate, or say that they repeat."""
        await self.sql(
            "UPDATE alerts SET expires_at = expires_at - interval '1 hour',"
            " escalate_at = escalate_at - interval '1 hour',"
            " repeat_event_due_at = repeat_event_due_at - interval '1 hour'"
        )

    async def flushed(self, seq: int) -> None:
        """Wait until the ledgers of all serving nodes have written what they sent up to ``seq``."""
        await eventually(lambda: self._all_at(seq))

    async def _all_at(self, seq: int) -> bool:
        rows = await self.sql("SELECT min(sent_seq) FROM nodes WHERE ended_at IS NULL")
        return rows[0][0] is not None and rows[0][0] >= seq


class _Server(uvicorn.Server):
    """uvicorn, which looks every 100 ms whether it is to stop: this one is woken."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._stopping = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def main_loop(self) -> None:
        """Serve until ``stop()``."""
        self._loop = asyncio.get_running_loop()
        while not await self.on_tick(0):
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), 1)

    def stop(self) -> None:
        """Stop, from another thread."""
        self.should_exit = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stopping.set)


def _patient(settings: Settings) -> Settings:
    """Return settings with which connecting to the database may take ``CONNECT_SECONDS``, unless they say how long."""
    if "database_connect_timeout_seconds" in settings.storage.model_fields_set:
        return settings
    storage = settings.storage.model_copy(update={"database_connect_timeout_seconds": CONNECT_SECONDS})
    return settings.model_copy(update={"storage": storage})


@contextmanager
def serving(database_url: str, settings: Settings | None = None, keyring: Keyring | None = None) -> Iterator[Node]:
    """Run a node in a thread of this process, with uvicorn and uvloop as in production."""
    settings = _patient(settings or Settings())
    keyring = keyring or load_keyring(settings.auth, SECRET.encode())
    app = create_app(settings, parse_url(database_url), keyring)
    config = server_config(settings, app)
    config.port = 0
    server = _Server(config)
    thread = threading.Thread(target=server.run, name="node")
    thread.start()
    try:
        deadline = time.monotonic() + PATIENCE
        while not server.started:
            assert thread.is_alive(), "the node did not start"
            assert time.monotonic() < deadline, "the node did not start in time"
            time.sleep(0.01)
        yield Node(f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", database_url)
    finally:
        server.stop()
        thread.join(PATIENCE)


@dataclass
class Process(Node):
    """A node in a process of its own, which can be killed."""

    process: subprocess.Popen[str]
    log: Path
    environment: dict[str, str] = field(default_factory=dict)

    def kill(self) -> None:
        """End it at once, as a crash would."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        """Ask it to stop, and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)

    def end(self) -> None:
        """Stop it if it still runs, and close its output."""
        self.stop()
        if self.process.stdout:
            self.process.stdout.close()


def start_process(
    database_url: str, folder: Path, port: int = 0, arguments: Sequence[str] = (), **variables: str
) -> Process:
    """Start ``tocsin serve`` and wait until it listens."""
    log = folder / f"node-{time.monotonic_ns()}.log"
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("TOCSIN_")},
        "TOCSIN_DATABASE_URL": database_url,
        "TOCSIN_JWT_SECRET": SECRET,
        "TOCSIN_DATA_DIR": str(folder),
        "TOCSIN_PORT": str(port),
        "TOCSIN_LOG_FORMAT": "json",
        "TOCSIN_DATABASE_CONNECT_TIMEOUT_SECONDS": str(CONNECT_SECONDS),
        **variables,
    }
    with log.open("w") as errors:
        process = prefork.start(["serve", *arguments], env=environment, cwd=ROOT, stderr=errors)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("Tocsin serves "), log.read_text()
    return Process(line.removeprefix("Tocsin serves ").strip(), database_url, process, log, environment)


def wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until a process listens on a port of 127.0.0.1."""
    deadline = time.monotonic() + PATIENCE
    while True:
        assert process.poll() is None, f"it ended with {process.returncode}"
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            assert time.monotonic() < deadline, "it does not listen"
            time.sleep(0.01)
        else:
            return


@asynccontextmanager
async def new_database(server_url: str, name: str, template: str) -> AsyncIterator[str]:
    """Make a database from a template, and drop it in the end."""
    admin = await asyncpg.connect(server_url)
    await admin.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY file_copy')
    try:
        yield with_database(server_url, name)
    finally:
        await admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
        await admin.close()


def memory_folder() -> str | None:
    """Return a folder in memory that has room, or None: a database is copied there in a tenth of the time."""
    memory = Path("/dev/shm")
    return str(memory) if memory.is_dir() and shutil.disk_usage(memory).free > MEMORY_FOLDER_BYTES else None


def with_database(server_url: str, name: str) -> str:
    """Return the address of another database of the same server."""
    return make_url(server_url).set(database=name).render_as_string(hide_password=False)
