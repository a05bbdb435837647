"""Load for the fault tests: backends that post and retry, admins that keep a cursor and come back."""

from __future__ import annotations

import asyncio
import itertools
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from websockets.exceptions import ConnectionClosed, WebSocketException

from service.severity import SEVERITIES
from tests import prefork
from tests.contract import checked_frame
from tests.harness import PATIENCE, READ, WRITE, token

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from tests.harness import Node, Process

UNLIMITED = {f"TOCSIN_{limit}_LIMIT": "1000000/second" for limit in ("WRITE", "AUTH_FAILURE", "CONNECT")}
TOPICS = ("payments.eu", "payments.us", "search", "default")


def alerts() -> Iterator[dict[str, Any]]:
    """Yield alerts of all topics and severities, some of them for one admin alone."""
    for number in itertools.count():
        recipients = [("alice", "bob", "carol")[number % 3]] if number % 7 == 0 else None
        yield {
            "topic": TOPICS[number % 4],
            "severity": SEVERITIES[number % 5 % 4],
            "title": f"alert {number}",
            "recipients": recipients,
        }


@dataclass
class Answer:
    """What a backend was answered."""

    status: int
    headers: dict[str, str]
    document: dict[str, Any]


class Backend:
    """A backend service with one keep-alive connection.

    It writes its HTTP itself: a full client library would use the CPU that the nodes under load need.
    """

    def __init__(self, node: Node, subject: str = "billing") -> None:
        address = urlsplit(node.base)
        self._address = (address.hostname, address.port)
        self._token = token(subject, WRITE)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._hang_up()

    async def post(self, alert: dict[str, Any], key: str | None = None) -> Answer:
        """Post an alert once."""
        body = json.dumps(alert)
        head = f"POST /v1/alerts HTTP/1.1\r\nHost: tocsin\r\nAuthorization: Bearer {self._token}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        head += f"Idempotency-Key: {key}\r\n\r\n" if key else "\r\n"
        try:
            if self._streams is None:
                self._streams = await asyncio.open_connection(*self._address)
            reader, writer = self._streams
            writer.write((head + body).encode())
            status, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
            headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
            content = await reader.readexactly(int(headers["content-length"]))
        except BaseException:
            self._hang_up()
            raise
        if headers.get("connection") == "close":
            self._hang_up()
        assert headers["content-type"].endswith("json"), (status, headers, content)
        return Answer(int(status.split()[1]), headers, json.loads(content))

    async def insist(self, alert: dict[str, Any], key: str, refusals: list[Answer]) -> dict[str, Any]:
        """Post an alert until it is stored, as a careful backend does, and note every refusal."""
        while True:
            try:
                answer = await self.post(alert, key)
            except (OSError, EOFError):
                await asyncio.sleep(0.05)
                continue
            if answer.status == 201:
                return answer.document
            assert answer.status == 503, answer
            refusals.append(answer)
            await asyncio.sleep(0.05)

    def _hang_up(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def post_all(nodes: Iterable[Node], count: int, workers: int) -> list[dict[str, Any]]:
    """Post ``count`` alerts from concurrent workers to the nodes in turn; none may be refused."""
    todo = itertools.islice(alerts(), count)
    stored: list[dict[str, Any]] = []

    async def worker(node: Node) -> None:
        async with Backend(node) as backend:
            for alert in todo:
                answer = await backend.post(alert)
                assert answer.status == 201, answer
                stored.append(answer.document)

    await asyncio.gather(*(worker(node) for node, _ in zip(itertools.cycle(nodes), range(workers), strict=False)))
    return stored


@dataclass
class Load:
    """Alerts that several backends post, each until it is stored, from ``run()`` until ``finish()``.

    So there is load during a fault, however soon or late it comes. Between two of its alerts a backend waits ``pause``
    seconds.
    """

    pause: float = 0
    count: int = 0
    """How many were posted."""
    is_over: bool = False
    stored: list[dict[str, Any]] = field(default_factory=list)
    refusals: list[Answer] = field(default_factory=list)

    async def run(self, node: Node, workers: int = 16) -> None:
        """Post, and return when the last alert is stored."""
        todo = alerts()

        async def worker() -> None:
            async with Backend(node) as backend:
                while not self.is_over:
                    alert = next(todo)
                    self.count += 1
                    self.stored.append(await backend.insist(alert, f"key of {alert['title']}", self.refusals))
                    await asyncio.sleep(self.pause)

        async with asyncio.timeout(4 * PATIENCE):
            await asyncio.gather(*(worker() for _ in range(workers)))

    def finish(self) -> None:
        """Begin no more posts."""
        self.is_over = True

    async def assert_stored_once(self, node: Node) -> None:
        """Compare what was answered with the log, the table of alerts and the keys: each alert is there, once."""
        everything = list(range(1, self.count + 1))
        rows = await node.sql("SELECT e.seq, a.id::text, a.title FROM events e LEFT JOIN alerts a ON a.id = alert_id")
        assert sorted(row[0] for row in rows) == everything
        answered = {(alert["seq"], alert["id"], alert["title"]) for alert in self.stored}
        assert {tuple(row) for row in rows} == answered
        assert len({title for _, _, title in answered}) == self.count
        keys = await node.sql("SELECT seq, key FROM idempotency_keys")
        assert {tuple(row) for row in keys} == {(seq, f"key of {title}") for seq, _, title in answered}


@dataclass
class Session:
    """One connection of an admin, as the client saw it."""

    id: str
    after: int
    seqs: list[int] = field(default_factory=list)
    acked: int = 0
    code: int | None = None
    reason: str | None = None


@dataclass
class Admin:
    """An admin whose client keeps its cursor, and comes back with it after every end."""

    node: Node
    subject: str
    topics: tuple[str, ...] = ("*",)
    min_severity: str = "info"
    acks: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    cursor: int = 0
    sessions: list[Session] = field(default_factory=list)
    _task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._stay())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait([self._task])
        if not self._task.cancelled():
            self._task.result()

    @property
    def seqs(self) -> list[int]:
        """Everything that was received, in the order in which it was."""
        return [seq for session in self.sessions for seq in session.seqs]

    def sees(self, topic: str, severity: str, recipients: list[str] | None) -> bool:
        """Say whether an event is for this admin: the rule of the design, written once more."""
        return (
            SEVERITIES.index(severity) >= SEVERITIES.index(self.min_severity)
            and (recipients is None or self.subject in recipients)
            and any(
                pattern in ("*", topic) or (pattern.endswith(".*") and topic.startswith(pattern[:-1]))
                for pattern in self.topics
            )
        )

    async def expected(self) -> list[int]:
        """Ask the log what this admin is to receive."""
        rows = await self.node.sql("SELECT seq, topic, severity::text, recipients FROM events ORDER BY seq")
        return [seq for seq, *event in rows if self.sees(*event)]

    async def _stay(self) -> None:
        while True:
            try:
                await self._session()
            except (OSError, EOFError, TimeoutError, WebSocketException):
                await asyncio.sleep(0.05)

    async def _session(self) -> None:
        stream = await self.node.stream(
            self.subject,
            scope=READ,
            after=self.cursor,
            topic=",".join(self.topics),
            min_severity=self.min_severity,
            options={"ping_interval": None, **self.options},
        )
        session: Session | None = None
        try:
            async for text in stream.connection:
                frame = checked_frame(json.loads(text))
                if frame["type"] == "welcome":
                    assert frame["after"] == self.cursor
                    session = Session(frame["connection"], frame["after"])
                    self.sessions.append(session)
                elif frame["type"] == "event":
                    assert session is not None
                    session.seqs.append(frame["seq"])
                    self.cursor = frame["seq"]
                    if self.acks and len(session.seqs) % 50 == 0:
                        await stream.ack(self.cursor)
                        session.acked = self.cursor
                elif frame["type"] == "heartbeat":
                    self.cursor = max(self.cursor, frame["seq"])
                else:
                    assert frame["type"] in ("caught_up", "presence"), frame
        except ConnectionClosed:
            pass
        finally:
            if session is not None:
                session.code, session.reason = stream.connection.close_code, stream.connection.close_reason
            await stream.close()


async def assert_untampered(node: Process) -> None:
    """Let ``tocsin audit verify`` check the hash chains of the log and the ledger."""
    log = node.log.with_name("verify.log")
    with log.open("w") as errors:
        process = prefork.start(["audit", "verify"], env=node.environment, cwd=log.parent, stderr=errors)
    output, _ = await asyncio.to_thread(process.communicate)
    assert process.returncode == 0, output + log.read_text()


async def received_all(admins: Iterable[Admin]) -> Callable[[], bool]:
    """Return the condition that each admin received as many events as the log holds for them."""
    expected = [(admin, len(await admin.expected())) for admin in admins]
    return lambda: all(len(admin.seqs) >= count for admin, count in expected)


async def ledger_knows(admins: Iterable[Admin]) -> bool:
    """Say whether the ledger has a delivery to each admin, and a receipt of each who acknowledges."""
    for admin in admins:
        rows = await admin.node.sql(
            "SELECT bool_or(received_at IS NOT NULL) FROM audit.deliveries WHERE recipient = $1", admin.subject
        )
        if rows[0][0] is None or rows[0][0] < admin.acks:
            return False
    return True


async def assert_ledger_within(admins: Iterable[Admin]) -> None:
    """Compare the ledger with what the clients received and acknowledged: it claims nothing beyond."""
    for admin in admins:
        for session in admin.sessions:
            rows = await admin.node.sql(
                "SELECT seq, received_at FROM audit.deliveries WHERE connection = $1::text::uuid ORDER BY seq",
                session.id,
            )
            assert {row[0] for row in rows} <= set(session.seqs), session
            assert all(row[0] <= session.acked for row in rows if row[1] is not None), session


async def assert_ledger_is_complete(admins: Iterable[Admin]) -> None:
    """Compare the ledger with what the clients received, where nothing crashed: the same, and nothing else."""
    for admin in admins:
        for session in admin.sessions:
            rows = await admin.node.sql(
                "SELECT seq, sent_at FROM audit.deliveries WHERE connection = $1::text::uuid ORDER BY seq", session.id
            )
            assert [row[0] for row in rows] == session.seqs
            assert all(row[1] is not None for row in rows)
