"""A service whose database, bus and sockets are simulated, and whose nodes and clients are the real ones.

One primary whose history can change, nodes that follow it, a bus that drops, repeats and reorders, and
clients that come and go. ``Wrong`` is raised at the first broken promise.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import parse_qs, urlsplit

import orjson

from service.client.stream_state import Reset, StreamState, seq_of
from service.errors import CloseReason, DatabaseUnavailable
from service.events.filter import EventFilter
from service.events.log import Event
from service.http.rate_limits import RestLimits
from service.ledger.flusher import LedgerFlusher
from service.ledger.recorder import LedgerRecorder
from service.settings import LedgerSettings, LimitSettings, StreamSettings
from service.stream.admission import Admission, ClientInfo, StreamRequest
from service.stream.cursor_check import CursorCheck
from service.stream.fanout import Fanout
from service.stream.hub import Hub
from tests.fixtures.revocations import KnownRevocations
from tests.harness import BODY, PATIENCE
from tests.stream.fakes import AT, NoLimits, principal
from tests.stream.simulated_database import Primary, Tables, Wrong, turns

if TYPE_CHECKING:
    from collections.abc import Awaitable, Coroutine

    from service.client.models import AlertEvent
    from service.client.stream_state import Notice
    from service.events.position import Position
    from service.stream.connection import Connection
    from service.stream.frames import FrameBatch
    from service.stream.transports.interface import WindowListener

T = TypeVar("T")
TOPICS = ("a", "b")
NEVER = 3600
ROUNDS = 30
"""How often everything is tried again before it must have come to rest."""
STEPS = {
    "append": 8,
    "append elsewhere": 4,
    "hear": 8,
    "poll": 6,
    "flush": 6,
    "restart": 0.3,
    "replicate": 2,
    "promote": 2,
    "snapshot": 1,
    "restore": 0.5,
    "connect": 8,
    "leave": 4,
    "read": 20,
    "acknowledge": 6,
}
"""What may happen, and how often."""


class Socket:
    """The transport of one connection, and what is on its way to the client."""

    def __init__(self, choose: random.Random, event_filter: EventFilter) -> None:
        self._choose = choose
        self.filter = event_filter
        self.on_the_way: list[bytes] = []
        self.sent: set[Position] = set()
        self.received: set[Position] = set()
        self.closed: CloseReason | None = None
        self.is_full = False

    def attach(self, listener: WindowListener) -> None:
        """Do nothing: the client knows its connection."""

    def taken_bytes(self) -> int:
        """Return 0: nobody is slow here."""
        return 0

    def write_frames(self, batch: FrameBatch) -> bool:
        """Take frames; now and then nothing more until ``drained``."""
        for frame in batch.frames:
            self.on_the_way.append(frame.payload)
            if frame.type == "event" and frame.position is not None:
                self.sent.add(frame.position)
        self.is_full = self._choose.random() < 0.15
        return not self.is_full

    def close_stream(self, reason: CloseReason, _hint: str | None = None, /) -> bool:
        """End the connection; what is on its way may still arrive."""
        is_first, self.closed = self.closed is None, self.closed or reason
        return is_first


class Node:
    """A real node on the simulated database."""

    def __init__(self, service: Service) -> None:
        settings = StreamSettings(
            log_poll_interval_seconds=NEVER,
            replay_cache_events=service.choose.choice([3, 1000]),
            replay_chunk_events=service.choose.choice([1, 1000]),
        )
        database = service.primary.database
        self.recorder = LedgerRecorder(database, LedgerSettings(node_lease_seconds=NEVER))
        flusher = LedgerFlusher(database, self.recorder, LedgerSettings(node_lease_seconds=NEVER))
        self.hub = Hub(self.recorder, settings, KnownRevocations())
        self.fanout = Fanout(database, self.hub, flusher, settings, KnownRevocations())
        self.admission = Admission(
            hub=self.hub,
            fanout=self.fanout,
            cursor_check=CursorCheck(database, self.hub, self.fanout),
            ledger=self.recorder,
            verifier=cast("Any", _NoRevocations()),
            rest_limits=RestLimits(LimitSettings(connect_limit="1000000/second")),
            limits=cast("Any", NoLimits()),
            settings=settings,
        )
        self._flusher = flusher
        self._flushes = flusher.task(self._drop_connections, self.fanout.check_history)
        self._head = service.primary.position
        self._following: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Register, and follow the log."""
        self.fanout.start_at(self._head)
        await self._flusher.register(self._head)
        self._following = asyncio.create_task(self.fanout.task.run())

    async def flush(self) -> None:
        """Write the ledger, as every 200 ms."""
        await self._flushes._work()

    async def while_time_passes(self, work: Coroutine[Any, Any, T]) -> T:
        """Return what ``work`` returns, while the log is polled and the ledger flushed."""
        task = asyncio.create_task(work)
        while True:
            await turns(5)
            if task.done():
                return task.result()
            self.fanout.check_history()
            await self.flush()

    def _drop_connections(self) -> None:
        """Close all streams: the failover lost the registration of this node."""
        self.hub.close_all(CloseReason.SHUTTING_DOWN)

    async def end(self) -> None:
        """Crash."""
        assert self._following is not None
        self._drop_connections()
        self._following.cancel()
        await asyncio.wait([self._following])
        await turns(2)  # for the tasks of connections that were replaying


class _NoRevocations:
    def check_not_revoked(self, _principal: object) -> None:
        """Let everybody in."""


class Client:
    """A real client: what it holds of the log, by seq."""

    def __init__(self, service: Service, name: str, topics: tuple[str, ...]) -> None:
        self._service = service
        self._name = name
        self._topics = topics
        self._state = StreamState(0, topics, None, self._notice)
        self.node: Node | None = None
        self.connection: Connection | None = None
        self._socket: Socket
        self.held: dict[int, str] = {}
        self._list_at: str | None = None

    async def connect(self, node: Node) -> None:
        """Resume from the cursor."""
        cursor = self._state.cursor or "0"
        bearer = principal(self._name)
        query = parse_qs(urlsplit(self._state.address("http://node")).query)
        request = StreamRequest.of(bearer, after=query["after"][0], topics=query.get("topic", []))
        try:
            start = await node.while_time_passes(node.admission.start_of(bearer, request))
        except DatabaseUnavailable:
            raise Wrong("a client is not admitted") from None
        if start.reset is not None and self._service.primary.matches(cursor):
            raise Wrong("a client is reset without need")
        await self._service.meanwhile(node)
        socket = Socket(self._service.choose, request.filter)
        connection, welcome = node.admission.connection(
            socket, "websocket", ClientInfo(None, None, None), bearer, request=request, start=start
        )
        self._service.sockets[str(connection.id)] = socket
        self.node, self.connection, self._socket = node, connection, socket
        self._state.opened()
        connection.open(welcome)

    def read(self) -> None:
        """Read what is on its way, or a part of it, and let the socket drain."""
        self._load_list()
        if self.connection is None:
            return
        count = self._service.choose.randint(1, 6)
        arrived, self._socket.on_the_way = self._socket.on_the_way[:count], self._socket.on_the_way[count:]
        for message in arrived:
            event = self._state.receive(message)
            if event is not None:
                self._take(event)
                self._state.processed()
        if self._socket.closed is not None:
            self._lost(self._socket.closed.code, self._socket.closed.reason)
        elif not self._socket.on_the_way and self._socket.is_full:
            self._socket.is_full = False
            self.connection.drained()

    def acknowledge(self) -> None:
        """Send an ack of what was processed."""
        if self.connection is not None and self._socket.closed is None and (ack := self._state.ack()) is not None:
            self.connection.receive(ack)

    def leave(self) -> None:
        """Lose the connection, and what is on its way."""
        if self.connection is not None:
            self.connection.disconnected(1006, "")
            self._lost(None, "")

    def _lost(self, code: int | None, reason: str) -> None:
        self._state.lost(code, reason)
        self.node = self.connection = None

    @property
    def is_idle(self) -> bool:
        """Whether it is connected, and nothing is on its way."""
        return self.connection is not None and self.connection.is_live and not self._socket.on_the_way

    def _take(self, event: AlertEvent) -> None:
        if event.seq in self.held:
            raise Wrong("an event arrives that is held already")
        self.held[event.seq] = event.id
        position = next(sent for sent in self._socket.sent if sent.cursor == event.cursor)
        self._socket.received.add(position)

    def _notice(self, notice: Notice) -> None:
        match notice:
            case Reset(after=int(after), cursor=cursor):
                self.held = {seq: event_id for seq, event_id in self.held.items() if seq <= after}
                self._list_at = self._list_at and cursor
            case Reset(after=None, cursor=cursor):
                self.held = {}
                self._list_at = cursor

    def _load_list(self) -> None:
        """Load the list of what came before the stream, once the log holds the position that it began at."""
        if self._list_at is not None and self._service.primary.matches(self._list_at):
            self.held |= {seq: event_id for seq, event_id in self._in_log().items() if seq <= seq_of(self._list_at)}
            self._list_at = None

    def _in_log(self) -> dict[int, str]:
        event_filter = EventFilter(self._topics)
        return {
            event.seq: orjson.loads(event.line)["id"]
            for event in self._service.primary.events
            if event_filter.matches(event)
        }

    def check(self) -> None:
        """Check that the client holds exactly what the log holds for it."""
        expected = self._in_log()
        if missing := expected.keys() - self.held.keys():
            raise Wrong(f"a client misses the events {sorted(missing)}")
        if self.held != expected:
            raise Wrong("a client holds another history than the log")


class Service:
    """One primary, two standbys, two nodes, four clients, and a bus."""

    def __init__(self, seed: int) -> None:
        self.choose = random.Random(seed)
        self.sockets: dict[str, Socket] = {}
        self.primary = Primary(self.choose, self.sockets)
        self.standbys = [Tables(), Tables()]
        self.snapshots = [Tables()]
        self.bus: list[tuple[Position, list[Event]]] = []
        self.nodes: list[Node] = []
        self.is_at_rest = False
        self.clients = [Client(self, name, ("*",)) for name in ("alice", "bob", "carol")]
        self.clients.append(Client(self, "dave", TOPICS[:1]))

    def append(self, most: int = 3) -> tuple[Position, list[Event]]:
        """Append one to three events; return the position before them, and put both on the bus."""
        before = self.primary.position
        count = self.choose.randint(1, min(most, 3))
        events = [self._event(before.seq + number) for number in range(1, count + 1)]
        self.primary.events += events
        self.bus.append((before, events))
        return before, events

    def _event(self, seq: int) -> Event:
        event_id = self.choose.getrandbits(64) - 2**63
        topic = self.choose.choice(TOPICS)
        return Event(
            seq, event_id, uuid.UUID(int=seq), "alert.created", topic, "info", None, "billing", AT, orjson.dumps(BODY)
        )

    async def step(self) -> None:
        """Do something at random."""
        [step] = self.choose.choices(list(STEPS), list(STEPS.values()))
        node, client = self.choose.choice(self.nodes), self.choose.choice(self.clients)
        await (self._change_history(step) or self._follow(step, node) or self._receive(step, client, node))
        await turns(self.choose.randint(0, 6))

    async def _nothing(self) -> None:
        """Do nothing."""

    def _change_history(self, step: str) -> Awaitable[None] | None:
        match step:
            case "replicate":
                self.standbys[self.choose.randrange(2)] = self.primary.tables.copy()
            case "promote":
                self._promote()
            case "snapshot":
                self.snapshots.append(self.primary.tables.copy())
            case "restore":
                self.primary.tables = self.choose.choice(self.snapshots).copy()
            case _:
                return None
        return self._nothing()

    def _follow(self, step: str, node: Node) -> Awaitable[None] | None:
        match step:
            case "append":  # the node that commits fans out its own commit at once
                node.fanout.enqueue_committed(*self.append())
            case "append elsewhere":
                self.append()
            case "hear":
                self._hear(node)
            case "poll":
                node.fanout.check_history()
            case "flush":
                return node.flush()
            case "restart":
                return self._restart(node)
            case _:
                return None
        return self._nothing()

    def _hear(self, node: Node) -> None:
        """Let a node hear of events: repeated, reordered, or never."""
        if self.bus:
            before, events = self.choose.choice(self.bus[-6:])
            if self.choose.random() < 0.5:
                node.fanout.enqueue_committed(before, events)
            else:
                node.fanout.wake(events[-1].seq)

    def _receive(self, step: str, client: Client, node: Node) -> Awaitable[None]:
        match step:
            case "connect" if client.connection is None:
                return client.connect(node)
            case "leave":
                client.leave()
            case "read":
                client.read()
            case "acknowledge":
                client.acknowledge()
        return self._nothing()

    async def meanwhile(self, node: Node) -> None:
        """Fail over, now and then, while a stream is being opened."""
        if self.is_at_rest:
            return
        if self.choose.random() < 0.3:
            self._promote()
            for _ in range(self.choose.choice([0, 3])):  # until the node follows the new history
                node.fanout.check_history()
                await turns(10)
                await node.flush()

    def _promote(self) -> None:
        """Fail over; now and then the new log is soon as long as the old one."""
        lost = self.primary.position.seq
        self.primary.tables = self.choose.choice(self.standbys).copy()
        while self.primary.position.seq < lost and self.choose.random() < 0.8:
            self.append(most=lost - self.primary.position.seq)
        if self.choose.random() < 0.5:
            self.choose.choice(self.nodes).fanout.enqueue_committed(*self.append())

    async def _restart(self, node: Node) -> None:
        for client in self.clients:
            if client.node is node:
                client.leave()
        await node.end()
        self.nodes[self.nodes.index(node)] = await self._started()

    async def _started(self) -> Node:
        node = Node(self)
        await node.start()
        return node

    async def run(self, steps: int) -> None:
        """Take random steps, let everything come to rest, and check what every client holds."""
        self.nodes = [await self._started() for _ in range(2)]
        try:
            for _ in range(steps):
                await self.step()
            await self._rest()
        finally:
            for node in self.nodes:
                await node.end()

    async def _rest(self) -> None:
        self.is_at_rest = True
        for _ in range(ROUNDS):
            for node in self.nodes:
                node.fanout.check_history()
                await turns(20)
                await node.flush()
            for client in self.clients:
                if client.connection is None:
                    await client.connect(self.choose.choice(self.nodes))
                await turns(5)
                client.read()
                client.acknowledge()
            await turns(5)
        if not all(client.is_idle for client in self.clients):
            raise Wrong("a client does not come to rest")
        for client in self.clients:
            client.check()


async def trial(seed: int, steps: int = 80) -> None:
    """Run one trial."""
    async with asyncio.timeout(PATIENCE):
        await Service(seed).run(steps)
