"""Clients of a history: they connect and leave, read or stop reading, acknowledge some events, and record it all."""

from __future__ import annotations

import asyncio
import json
from abc import ABC, abstractmethod
from operator import attrgetter
from random import Random
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from tests.faults.client_sockets import Answer, ClientSocket, Dialect, OverEvents, OverWebSocket, ask, get, post
from tests.faults.history import NEVER, Ack, ObservedConnection, Unread, seq_of
from tests.harness import token
from tests.http_streams import texts_of

if TYPE_CHECKING:
    from tests.faults.history_runner import History, NodeSlot
    from tests.faults.trials.records import Subscription

SILENCE_SECONDS = 6
"""How long a client waits for the next byte: several heartbeats."""
AHEAD = 1_000_000


class SimulatedClient(ABC):
    """One client. A ``resuming`` one always goes on from its own cursor and may miss nothing; others start anywhere."""

    transport = ""

    def __init__(self, history: History, subscription: Subscription, number: int, *, resuming: bool) -> None:
        self.history = history
        self.subscription = subscription
        self.resuming = resuming
        self.random = Random(f"{history.seed}/{number}")
        # A resuming client has to receive everything; with small buffers it gets a few dozen kilobytes a second.
        self.small = not resuming and self.random.random() < 0.6
        self.sloth = self.random.choice((0, 0, 0.02, 0.2))
        self.token = token(subscription.recipient)
        self.connections: list[ObservedConnection] = []
        self.has_all = False

    async def run(self) -> None:
        """Connect again and again, until the history is over and a resuming client has everything."""
        while not (self.history.is_over and (self.has_all or not self.resuming)):
            slot = self.history.choose_slot(self.random)
            try:
                await self.connect_once(slot)
            except (OSError, TimeoutError):
                await asyncio.sleep(0.1)

    @abstractmethod
    async def connect_once(self, slot: NodeSlot) -> None:
        """Connect once."""

    def begin(self, slot: NodeSlot, asked: int | str | None) -> ObservedConnection:
        """Begin the record of a connection."""
        observed = ObservedConnection(self.history.new_agent(), self.subscription, self.transport, slot.pid, asked)
        self.connections.append(observed)
        return observed

    def cursor(self) -> int | str | None:
        """Choose where to start from."""
        if self.resuming:
            return None
        seen = self.history.frames_seen
        lately, ever = max(0, seen - self.random.randint(0, 300)), self.random.randint(0, seen)
        return self.random.choice((None, "latest", lately, ever))

    def query(self, after: int | str | None) -> dict[str, Any]:
        """Return the query of the subscription."""
        query: dict[str, Any] = {
            "topic": ",".join(self.subscription.topics),
            "min_severity": self.subscription.min_severity,
        }
        return query if after is None else {"after": after, **query}

    def record(self, observed: ObservedConnection, payload: bytes) -> None:
        """Record a frame of a stream."""
        if (seq := seq_of(payload)) is not None:
            observed.seqs.append(seq)
            self.history.saw(seq, payload)
            return
        frame = json.loads(payload)
        if frame["type"] == "welcome":
            observed.welcome(frame["connection"], frame["after"])
        elif frame["type"] != "close":
            observed.prove()
        if frame["type"] == "pong":
            observed.acks[frame["data"]].confirm()
        if frame["type"] in ("heartbeat", "caught_up"):
            self.reached(frame["seq"])

    def reached(self, seq: int) -> None:
        """Note up to which seq the client has everything."""
        if self.history.is_over and seq >= self.history.head:
            self.has_all = True

    async def acknowledge_by_request(self, observed: ObservedConnection) -> None:
        """Acknowledge by a request, to any node."""
        slot = self.history.choose_slot(self.random)
        is_elsewhere = slot.pid != observed.pid
        ack = Ack(self.random.choice(observed.seqs[-20:]))
        observed.acks.append(ack)
        answer = await ask(slot.port, post("/v1/events/ack", self.token, {"connection": observed.id, "seq": ack.seq}))
        if answer is not None and answer.status == 200:
            ack.confirm(answer.json()["seq"], stored=is_elsewhere)

    async def acknowledge_for_another(self) -> None:
        """Try to acknowledge what another recipient was sent; it must not count, and so is not recorded."""
        others = [
            client for client in self.history.clients if client.subscription.recipient != self.subscription.recipient
        ]
        connections = [observed for client in others for observed in client.connections[-1:] if observed.id is not None]
        if not connections:
            return
        observed = self.random.choice(connections)
        slot = self.history.choose_slot(self.random)
        body = {"connection": observed.id, "seq": AHEAD}
        answer = await ask(slot.port, post("/v1/events/ack", self.token, body))
        if answer is not None and answer.status == 200:
            self.history.complaints.append(
                f"{self.subscription.recipient} acknowledged for {observed}: {answer.body!r}"
            )

    def ended_by_node(self, observed: ObservedConnection, sock: ClientSocket, partial: int) -> None:
        """Note that the node closed; what was in flight from a node that was killed is known already."""
        observed.ended = "torn" if sock.is_torn else "ended by the node"
        if observed.was_killed or sock.is_torn:
            observed.unread.append(Unread(partial, NEVER, NEVER))
        if sock.is_torn and not observed.was_killed:
            observed.unread.append(sock.torn())

    def reset(self, observed: ObservedConnection, sock: ClientSocket, dialect: Dialect) -> None:
        """Reset the connection, and record first what had arrived."""
        data, unread = sock.reset()
        for payload in dialect.feed(data) if data else ():
            self.record(observed, payload)
        observed.unread += (unread, Unread(dialect.partial, NEVER, NEVER))
        observed.ended = "reset"


class StreamClient(SimulatedClient):
    """A client of a stream."""

    @abstractmethod
    def dialect(self, observed: ObservedConnection) -> Dialect:
        """Return how this stream is read."""

    async def connect_once(self, slot: NodeSlot) -> None:
        observed = self.begin(slot, self.cursor())
        sock, dialect = ClientSocket(slot.port, small=self.small), self.dialect(observed)
        observed.socket = sock
        try:
            async with asyncio.timeout(SILENCE_SECONDS):
                await sock.open()
            await sock.write(dialect.request())
            await self.stay(observed, sock, dialect)
        finally:
            sock.close()

    async def stay(self, observed: ObservedConnection, sock: ClientSocket, dialect: Dialect) -> None:
        """Read and acknowledge until this client leaves or the node closes."""
        frames, enough = 0, self.random.randint(5, 600)
        while True:
            if self.random.random() < self.sloth:
                await asyncio.sleep(self.random.uniform(0.1, 1.5))
            try:
                async with asyncio.timeout(SILENCE_SECONDS):
                    data = await sock.read()
            except TimeoutError:
                self.reset(observed, sock, dialect)
                return
            if not data:
                self.ended_by_node(observed, sock, dialect.partial)
                return
            for payload in dialect.feed(data):
                frames += 1
                self.record(observed, payload)
            await sock.write(dialect.to_send())
            if observed.id is not None and dialect.closed is None:
                await self.acknowledge(observed, sock, dialect)
            if frames > enough or (self.history.is_over and (self.has_all or not self.resuming)):
                await self.leave(observed, sock, dialect)
                return

    async def acknowledge(self, observed: ObservedConnection, sock: ClientSocket, dialect: Dialect) -> None:
        """Acknowledge now and then, also events of an earlier connection."""
        if not observed.seqs or self.random.random() > 0.2:
            return
        dice = self.random.random()
        earlier = [one for one in self.connections[-3:-1] if one.id is not None and one.seqs]
        if dice < 0.02 and not self.resuming:
            await self.acknowledge_for_another()
        elif dice < 0.05 and earlier:
            await self.acknowledge_by_request(self.random.choice(earlier))
        elif dice < 0.1:
            await self.acknowledge_by_request(observed)
        else:
            await self.acknowledge_in_stream(observed, sock, dialect)

    async def acknowledge_in_stream(self, observed: ObservedConnection, sock: ClientSocket, dialect: Dialect) -> None:  # noqa: ARG002 - a WebSocket does
        """Acknowledge in the stream itself where the transport can."""
        await self.acknowledge_by_request(observed)

    async def leave(self, observed: ObservedConnection, sock: ClientSocket, dialect: Dialect) -> None:
        """End the connection in a random manner."""
        how = self.random.choice(("hang up", "reset", "vanish", "goodbye"))
        if how == "vanish":
            await asyncio.sleep(self.random.uniform(1, 5))
        if how in ("reset", "vanish"):
            self.reset(observed, sock, dialect)
            return
        if (
            how == "goodbye"
            and isinstance(dialect, OverWebSocket)
            and observed.id is not None
            and dialect.closed is None
        ):
            dialect.goodbye()
            await sock.write(dialect.to_send())
        else:
            sock.hang_up()
        observed.ended = how
        try:
            async with asyncio.timeout(SILENCE_SECONDS):
                while data := await sock.read():
                    for payload in dialect.feed(data):
                        self.record(observed, payload)
                    await sock.write(dialect.to_send())
        except TimeoutError:
            self.reset(observed, sock, dialect)
            return
        if sock.is_torn or observed.was_killed:
            self.ended_by_node(observed, sock, dialect.partial)
        if how == "goodbye" and dialect.closed == (1000, ""):
            # What it said by a request may have come to a node that was frozen.
            for ack in filter(attrgetter("in_stream"), observed.acks):
                ack.confirm()


class WebSocketClient(StreamClient):
    """A client of the WebSocket."""

    transport = "websocket"

    def dialect(self, observed: ObservedConnection) -> OverWebSocket:
        return OverWebSocket(f"/v1/ws?{urlencode(self.query(observed.asked))}", self.token, observed.agent)

    async def acknowledge_in_stream(self, observed: ObservedConnection, sock: ClientSocket, dialect: Dialect) -> None:
        """Acknowledge, sometimes ahead of what was sent; mostly ping too, for a pong confirms the acks before it."""
        assert isinstance(dialect, OverWebSocket)
        if self.random.random() < 0.02:
            await sock.write(dialect.say({"type": "ack", "seq": AHEAD}))
            return
        observed.acks.append(Ack(self.random.choice(observed.seqs[-20:]), in_stream=True))
        said = dialect.say({"type": "ack", "seq": observed.acks[-1].seq})
        if self.random.random() < 0.7:
            said += dialect.say({"type": "ping", "data": len(observed.acks) - 1})
        await sock.write(said)


class SseClient(StreamClient):
    """A client of server-sent events."""

    transport = "sse"

    def dialect(self, observed: ObservedConnection) -> OverEvents:
        last_id = None
        earlier = [one for one in self.connections[-2:-1] if one.id is not None and one.seqs]
        if earlier and not self.resuming and self.random.random() < 0.5:
            observed.asked = earlier[0].seqs[-1]
            last_id = f"{observed.asked}.{earlier[0].id}"
            earlier[0].acks.append(Ack(observed.asked))
        return OverEvents(f"/v1/events?{urlencode(self.query(observed.asked))}", self.token, observed.agent, last_id)


class LongPollClient(SimulatedClient):
    """A client of the long poll."""

    transport = "longpoll"
    polled: tuple[ObservedConnection, int] | None = None
    """The connection and the cursor of the last answer to a poll without a cursor."""

    def cursor(self) -> int | str | None:
        """Choose where to start from: without a cursor only if no other client of the recipient polls so, too."""
        chosen = super().cursor()
        return 0 if chosen is None and not self.resuming else chosen

    async def connect_once(self, slot: NodeSlot) -> None:
        """Poll several times over one connection to the node."""
        sock = ClientSocket(slot.port, small=self.small)
        try:
            async with asyncio.timeout(SILENCE_SECONDS):
                await sock.open()
            current: ObservedConnection | None = None
            after = self.cursor()
            for _ in range(self.random.randint(1, 40)):
                answer = await self.poll(slot, sock, current, after)
                if answer is None:
                    return
                current, after = answer
                if self.random.random() < self.sloth:
                    await asyncio.sleep(self.random.uniform(0.1, 1.5))
                if self.random.random() < 0.05 and current.seqs:
                    await self.acknowledge_by_request(current)
                if self.history.is_over and (self.has_all or not self.resuming):
                    return
        finally:
            sock.close()

    async def poll(
        self, slot: NodeSlot, sock: ClientSocket, current: ObservedConnection | None, after: Any
    ) -> tuple[ObservedConnection, int] | None:
        """Poll once, and return the connection that answered and its cursor, or None if the socket is closed."""
        fresh = self.begin(slot, after)
        asked = [fresh] if current is None else [fresh, current]
        query = {"wait": self.random.choice((0, 0.3, 1)), **self.query(after)}
        ack: Ack | None = None
        if after is None and self.polled is not None:  # to poll so again acknowledges it
            answered, seq = self.polled
            answered.acks.append(Ack(seq))
        if current is not None:
            query["connection"] = current.id
            ack = Ack(after)
            current.acks.append(ack)
        for observed in asked:
            observed.socket = sock
        request = get(f"/v1/events?{urlencode(query)}", self.token, fresh.agent, "application/json", {})
        document = await self.answer_to(request, sock, asked)
        if document is None:
            return None
        if current is not None and document["connection"] == current.id:
            assert ack is not None
            ack.confirm()
            current.prove()
            self.connections.remove(fresh)
            fresh = current
        else:
            fresh.welcome(document["connection"], document["welcome"]["after"])
        for frame in document["events"]:
            fresh.seqs.append(frame["seq"])
        position = int(document["next"].partition("-")[0])
        if after is None:
            self.polled = fresh, position
        if document["caught_up"]:
            self.reached(position)
        fresh.ended = "left between polls"
        return (fresh, position) if sock.is_open and not document["closed"] else None

    async def answer_to(self, request: bytes, sock: ClientSocket, asked: list[ObservedConnection]) -> Any:
        """Return the answer to a poll, unless it is dropped before."""
        answer = Answer()
        patience = self.random.uniform(0, 0.3) if self.random.random() < 0.1 else SILENCE_SECONDS
        try:
            async with asyncio.timeout(patience):
                await sock.write(request)
                while not answer.is_complete:
                    data = await sock.read()
                    if not data:
                        for observed in asked:
                            self.ended_by_node(observed, sock, len(answer.body))
                        return None
                    answer.feed(data)
        except TimeoutError:
            data, unread = sock.reset()
            if data:
                answer.feed(data)
            for observed in asked:
                observed.unread += (unread, Unread(0 if answer.is_complete else len(answer.body), NEVER, NEVER))
                observed.ended = "reset"
        if not answer.is_complete or answer.status != 200:
            return None
        for payload in texts_of(answer.body):
            seq = seq_of(payload)
            assert seq is not None
            self.history.saw(seq, payload)
        return answer.json()
