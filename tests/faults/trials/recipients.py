"""Clients of the stream. They keep what came, acknowledge some of it, leave, stay away, and return with their cursor.

A client does what the contract asks of one, and no more: it keeps events in the order in which they come, takes its
cursor from the frames, and drops what a ``reset`` declares void. One kind keeps no cursor, and goes on where the
service says that its receipts end.
"""

from __future__ import annotations

import asyncio
import json
from abc import ABC, abstractmethod
from contextlib import aclosing, suppress
from random import Random
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import httpx2
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.typing import Subprotocol

from tests.faults.trials.records import Connection, Received, RecipientRecord, Subscription, now, token

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from tests.faults.trials.nodes import Node
    from tests.faults.trials.world import World

SILENCE_SECONDS = 8
"""How long a client waits for the next frame: several heartbeats."""
STAY_SECONDS, AWAY_SECONDS = 6, 0.5
"""How long a client stays and stays away, on average."""
ACK_PROBABILITY, SEEN_PROBABILITY = 0.2, 0.1

Frame = dict[str, Any]


class Recipient(ABC):
    """One client of one recipient."""

    transport = ""
    keeps_cursor = True

    def __init__(self, world: World, subscription: Subscription) -> None:
        self.world = world
        self.subscription = subscription
        self.random = Random(f"{world.seed}/{subscription.recipient}")
        self.token = token(subscription.recipient, "alerts:read")
        start = 0 if self.keeps_cursor else None
        self.record = RecipientRecord(subscription, self.transport, start, keeps_cursor=self.keeps_cursor)
        self.is_away = False
        """Whether a fault keeps it offline."""
        self.http = httpx2.AsyncClient(
            headers={"Authorization": f"Bearer {self.token}"}, timeout=SILENCE_SECONDS, trust_env=False
        )

    async def run(self) -> None:
        """Connect again and again, until the nodes stop for good."""
        async with self.http:
            while not self.world.is_stopping:
                if not self.is_away:
                    await self._stay()
                await asyncio.sleep(self.random.expovariate(1 / AWAY_SECONDS) if not self.world.is_over else 0.1)

    @property
    def connection(self) -> Connection:
        """The last connection."""
        return self.record.connections[-1]

    async def _stay(self) -> None:
        """Connect once, and read until somebody leaves."""
        node = self.world.choose_node(self.random)
        self.begin(self.record.cursor if self.keeps_cursor else None)
        loop = asyncio.get_running_loop()
        leaves_at = loop.time() + self.random.expovariate(1 / STAY_SECONDS)
        try:
            async with aclosing(self.frames(node)) as frames:
                async for frame in frames:
                    await self._read(frame)
                    if (loop.time() > leaves_at or self.is_away) and not self.world.is_over:
                        break
        except (OSError, TimeoutError, httpx2.HTTPError, WebSocketException):
            pass
        finally:
            self.connection.ended = now()

    def begin(self, asked: str | None) -> None:
        """Begin the record of a connection."""
        agent = f"trial/{self.subscription.recipient}/{len(self.record.connections)}"
        self.record.connections.append(Connection(agent, self.subscription, self.transport, asked, self.record.cursor))

    def query(self, **more: Any) -> str:
        """Return the query of the subscription."""
        topics = ",".join(self.subscription.topics)
        return urlencode({"topic": topics, "min_severity": self.subscription.min_severity, **more})

    @abstractmethod
    def frames(self, node: Node) -> AsyncGenerator[Frame]:
        """Open a stream and yield its frames, each with a ``cursor`` if it moves it."""

    @abstractmethod
    async def acknowledge(self, seq: int) -> None:
        """Acknowledge everything up to ``seq`` on the last connection."""

    async def report_seen(self, alert: str) -> None:
        """Report, to any node, that an alert was seen, which acknowledges nothing."""
        self.record.seen.add(alert)
        node = self.world.choose_node(self.random)
        with suppress(httpx2.HTTPError):
            await self.http.post(f"{node.base}/v1/events/seen", json={"alerts": [alert]})

    def acknowledging(self, seq: int) -> None:
        """Note an acknowledgement, before it is sent."""
        self.connection.acknowledged = max(seq, self.connection.acknowledged)

    async def _read(self, frame: Frame) -> None:
        connection = self.connection
        match frame["type"]:
            case "welcome":
                self._welcomed(frame)
            case "reset":
                self._reset(frame)
            case "event":
                received = Received.of(frame)
                connection.received.append(received)
                self.record.held.append(received)
                self._advance(frame)
                if self.random.random() < ACK_PROBABILITY:
                    await self.acknowledge(received.seq)
                if self.random.random() < SEEN_PROBABILITY:
                    await self.report_seen(frame["alert"]["id"])
            case "caught_up" | "heartbeat":
                self._advance(frame)
                await self._settle(frame["seq"])
            case "close":
                connection.close, connection.read_to_end = frame["reason"], True
            case "pong":
                self.record.is_settled = True

    def _welcomed(self, frame: Frame) -> None:
        self.connection.id, self.connection.after = frame["connection"], frame["after"]
        if self.record.start is None:
            self.record.start = frame["after"]

    def _reset(self, frame: Frame) -> None:
        self.connection.reset, self.connection.reset_at = frame, now()
        self.record.cursor = frame["cursor"]
        self.connection.after = int(self.record.cursor.partition("-")[0])
        after = frame["after"]
        if after is None:  # the list, which this client has no use for, shows what is up to the cursor
            self.record.held, self.record.start = [], self.connection.after
        else:
            self.record.held = [received for received in self.record.held if received.seq <= after]
            self.record.start = min(self.record.start or 0, after)

    def _advance(self, frame: Frame) -> None:
        self.record.cursor = str(frame.get("cursor", frame.get("seq", frame.get("after"))))

    async def _settle(self, seq: int) -> None:
        """At the end of the trial, acknowledge the last event when everything is here."""
        if self.world.head is not None and seq >= self.world.head and not self.record.is_settled:
            if self.connection.received:
                await self.acknowledge(self.connection.received[-1].seq)
            await self.confirm()

    async def confirm(self) -> None:
        """See to it that the node has the acknowledgement."""
        self.record.is_settled = True


class WebSocketRecipient(Recipient):
    """A client of the WebSocket."""

    transport = "websocket"
    _socket: ClientConnection

    async def frames(self, node: Node) -> AsyncGenerator[Frame]:
        more = {} if self.connection.asked is None else {"after": self.connection.asked}
        protocols = [Subprotocol("tocsin.v1"), Subprotocol(f"bearer.{self.token}")]
        self._socket = await connect(
            f"ws://{node.address}/v1/ws?{self.query(**more)}",
            subprotocols=protocols,
            user_agent_header=self.connection.agent,
            open_timeout=SILENCE_SECONDS,
            close_timeout=1,
            max_size=None,
            proxy=None,
        )
        try:
            while True:
                async with asyncio.timeout(SILENCE_SECONDS):
                    yield json.loads(await self._socket.recv())
        except ConnectionClosed as closed:
            if closed.rcvd is not None:
                yield {"type": "close", "reason": closed.rcvd.reason}
        finally:
            await self._socket.close()

    async def acknowledge(self, seq: int) -> None:
        self.acknowledging(seq)
        await self._send({"type": "ack", "seq": seq})

    async def report_seen(self, alert: str) -> None:
        self.record.seen.add(alert)
        await self._send({"type": "seen", "alerts": [alert]})

    async def confirm(self) -> None:
        await self._send({"type": "ping", "data": "settled"})

    async def _send(self, frame: Frame) -> None:
        with suppress(ConnectionClosed):  # what it still sent is read first
            await self._socket.send(json.dumps(frame))


class ForgetfulRecipient(WebSocketRecipient):
    """A client of the WebSocket that keeps no cursor."""

    keeps_cursor = False


class SseRecipient(Recipient):
    """A client of server-sent events. When it returns, its ``Last-Event-ID`` acknowledges what it has."""

    transport = "sse"
    _last_id: str | None = None
    _node: Node

    async def frames(self, node: Node) -> AsyncGenerator[Frame]:
        self._node = node
        headers = {"Accept": "text/event-stream", "User-Agent": self.connection.agent}
        more = {"after": self.connection.asked}
        if self._last_id is not None and len(self.record.connections) > 1:
            headers["Last-Event-ID"], more = self._last_id, {}
            cursor = self._last_id.partition(".")[0]
            self.connection.asked = cursor
            before = self.record.connections[-2]
            before.acknowledged = max(before.acknowledged, int(cursor.partition("-")[0]))
        self._last_id = None
        async with self.http.stream("GET", f"{node.base}/v1/events?{self.query(**more)}", headers=headers) as answer:
            if answer.status_code != 200:
                return
            async for line in answer.aiter_lines():
                name, _, value = line.partition(": ")
                if name == "id":
                    self._last_id = value
                elif name == "data":
                    yield json.loads(value)

    async def acknowledge(self, seq: int) -> None:
        self.acknowledging(seq)
        body = {"connection": self.connection.id, "seq": seq}
        answer = await self.http.post(f"{self._node.base}/v1/events/ack", json=body)
        if self.world.head is not None and answer.status_code != 200:
            raise TimeoutError  # it comes back, and tries again


class LongPollRecipient(Recipient):
    """A client of long polls. Each poll acknowledges the answer to the one before."""

    transport = "longpoll"

    async def frames(self, node: Node) -> AsyncGenerator[Frame]:
        after, current = self.connection.asked, None
        while True:
            query = self.query(after=after, wait=1, **({"connection": current} if current else {}))
            headers = {"Accept": "application/json", "User-Agent": self.connection.agent}
            if current is not None:
                self.acknowledging(int(str(after).partition("-")[0]))
            self.connection.read_to_end = False
            got = await self.http.get(f"{node.base}/v1/events?{query}", headers=headers)
            if got.status_code != 200:
                return
            answer = got.json()
            if current not in (None, answer["connection"]):  # another connection goes on
                agent = self.connection.agent
                self.connection.ended = now()
                self.begin(str(after))
                self.connection.agent = agent
            after, current = answer["next"], answer["connection"]
            for frame in _of_answer(answer):
                yield frame
            self.connection.read_to_end = True  # an answer is whole
            if answer["closed"]:
                return

    async def acknowledge(self, seq: int) -> None:
        """Wait for the next poll, which does."""

    async def _settle(self, seq: int) -> None:
        """At the end of the trial, everything is here when a poll has acknowledged it all."""
        if self.world.head is not None and seq >= self.world.head:
            received = self.connection.received
            self.record.is_settled = not received or self.connection.acknowledged >= received[-1].seq


def _of_answer(answer: dict[str, Any]) -> list[Frame]:
    """Return the frames that the answer to a poll holds."""
    seq = int(str(answer["next"]).partition("-")[0])
    caught_up = {"type": "caught_up" if answer["caught_up"] else "moved", "seq": seq, "cursor": answer["next"]}
    frames = [answer.get("welcome"), answer.get("reset"), *answer["events"], caught_up, answer["closed"]]
    return [frame for frame in frames if frame]
