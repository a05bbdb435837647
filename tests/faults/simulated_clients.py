"""The recorder's clients: they come and go, read and do not read, acknowledge some of it, and write everything down."""

from __future__ import annotations

import asyncio
import json
from abc import ABC, abstractmethod
from random import Random
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from tests.faults.client_sockets import Answer, Dialect, Line, OverEvents, OverWebSocket, ask, get, post
from tests.faults.history import NEVER, Ack, Unread, Visit, seq_of
from tests.harness import token
from tests.http_streams import texts_of

if TYPE_CHECKING:
    from tests.faults.history import Wanted
    from tests.faults.history_runner import History, Seat

SILENCE_SECONDS = 6
"""How long a client waits for the next byte: several heartbeats."""
AHEAD = 1_000_000


class Guest(ABC):
    """One client. A ``keeper`` goes by its own cursor alone, so that it may miss nothing; others go anywhere."""

    transport = ""

    def __init__(self, history: History, wanted: Wanted, number: int, *, keeper: bool) -> None:
        self.history = history
        self.wanted = wanted
        self.keeper = keeper
        self.random = Random(f"{history.seed}/{number}")
        # A keeper has to have everything in the end; with small buffers a few dozen kilobytes come in a second.
        self.small = not keeper and self.random.random() < 0.6
        self.sloth = self.random.choice((0, 0, 0.02, 0.2))
        self.token = token(wanted.recipient)
        self.visits: list[Visit] = []
        self.has_all = False

    async def run(self) -> None:
        """Come again and again, until the history is over and a keeper has everything."""
        while not (self.history.is_over and (self.has_all or not self.keeper)):
            seat = self.history.choose_seat(self.random)
            try:
                await self.visit(seat)
            except (OSError, TimeoutError):
                await asyncio.sleep(0.1)

    @abstractmethod
    async def visit(self, seat: Seat) -> None:
        """Come once."""

    def begin(self, seat: Seat, asked: int | str | None) -> Visit:
        """Begin the record of a connection."""
        visit = Visit(self.history.new_agent(), self.wanted, self.transport, seat.pid, asked)
        self.visits.append(visit)
        return visit

    def cursor(self) -> int | str | None:
        """Choose where to start from."""
        if self.keeper:
            return None
        seen = self.history.frames_seen
        lately, ever = max(0, seen - self.random.randint(0, 300)), self.random.randint(0, seen)
        return self.random.choice((None, "latest", lately, ever))

    def query(self, after: int | str | None) -> dict[str, Any]:
        """Return the query that asks for what is wanted."""
        query: dict[str, Any] = {"topics": ",".join(self.wanted.topics), "min_severity": self.wanted.min_severity}
        return query if after is None else {"after": after, **query}

    def take(self, visit: Visit, payload: bytes) -> None:
        """Write down a frame of a stream."""
        if (seq := seq_of(payload)) is not None:
            visit.seqs.append(seq)
            self.history.saw(seq, payload)
            return
        frame = json.loads(payload)
        if frame["type"] == "welcome":
            visit.welcome(frame["connection"], frame["after"])
        elif frame["type"] != "close":
            visit.prove()
        if frame["type"] == "pong":
            visit.acks[frame["data"]].take()
        if frame["type"] in ("heartbeat", "caught_up"):
            self.reached(frame["seq"])

    def reached(self, seq: int) -> None:
        """Note how far the client has everything."""
        if self.history.is_over and seq >= self.history.head:
            self.has_all = True

    async def acknowledge_beside(self, visit: Visit) -> None:
        """Acknowledge by a request, to any node."""
        seat = self.history.choose_seat(self.random)
        is_elsewhere = seat.pid != visit.pid
        ack = Ack(self.random.choice(visit.seqs[-20:]))
        visit.acks.append(ack)
        answer = await ask(seat.port, post("/v1/events/ack", self.token, {"connection": visit.id, "seq": ack.seq}))
        if answer is not None and answer.status == 200:
            ack.take(answer.json()["seq"], stored=is_elsewhere)

    async def acknowledge_for_another(self) -> None:
        """Try to acknowledge what another admin was sent; it must not count, and so is not written down."""
        others = [guest for guest in self.history.guests if guest.wanted.recipient != self.wanted.recipient]
        visits = [visit for guest in others for visit in guest.visits[-1:] if visit.id is not None]
        if not visits:
            return
        visit = self.random.choice(visits)
        seat = self.history.choose_seat(self.random)
        body = {"connection": visit.id, "seq": AHEAD}
        answer = await ask(seat.port, post("/v1/events/ack", self.token, body))
        if answer is not None and answer.status == 200:
            self.history.complaints.append(f"{self.wanted.recipient} acknowledged for {visit}: {answer.body!r}")

    def ended_by_node(self, visit: Visit, line: Line, partial: int) -> None:
        """Note that the other end has ended: what was on its way from a node that was killed is known already."""
        visit.ended = "torn" if line.is_torn else "ended by the node"
        if visit.was_killed or line.is_torn:
            visit.unread.append(Unread(partial, NEVER, NEVER))
        if line.is_torn and not visit.was_killed:
            visit.unread.append(line.torn())

    def reset(self, visit: Visit, line: Line, dialect: Dialect) -> None:
        """End without a word; what had come is written down before."""
        data, unread = line.reset()
        for payload in dialect.feed(data) if data else ():
            self.take(visit, payload)
        visit.unread += (unread, Unread(dialect.partial, NEVER, NEVER))
        visit.ended = "reset"


class StreamGuest(Guest):
    """A client of a stream."""

    @abstractmethod
    def dialect(self, visit: Visit) -> Dialect:
        """Return how this stream is read."""

    async def visit(self, seat: Seat) -> None:
        visit = self.begin(seat, self.cursor())
        line, dialect = Line(seat.port, small=self.small), self.dialect(visit)
        visit.line = line
        try:
            async with asyncio.timeout(SILENCE_SECONDS):
                await line.open()
            await line.write(dialect.request())
            await self.stay(visit, line, dialect)
        finally:
            line.close()

    async def stay(self, visit: Visit, line: Line, dialect: Dialect) -> None:
        """Read, acknowledge, and leave some time, or be left."""
        frames, enough = 0, self.random.randint(5, 600)
        while True:
            if self.random.random() < self.sloth:
                await asyncio.sleep(self.random.uniform(0.1, 1.5))
            try:
                async with asyncio.timeout(SILENCE_SECONDS):
                    data = await line.read()
            except TimeoutError:
                self.reset(visit, line, dialect)
                return
            if not data:
                self.ended_by_node(visit, line, dialect.partial)
                return
            for payload in dialect.feed(data):
                frames += 1
                self.take(visit, payload)
            await line.write(dialect.to_send())
            if visit.id is not None and dialect.closed is None:
                await self.acknowledge(visit, line, dialect)
            if frames > enough or (self.history.is_over and (self.has_all or not self.keeper)):
                await self.leave(visit, line, dialect)
                return

    async def acknowledge(self, visit: Visit, line: Line, dialect: Dialect) -> None:
        """Acknowledge now and then, also what came by the connection before."""
        if not visit.seqs or self.random.random() > 0.2:
            return
        dice = self.random.random()
        earlier = [one for one in self.visits[-3:-1] if one.id is not None and one.seqs]
        if dice < 0.02 and not self.keeper:
            await self.acknowledge_for_another()
        elif dice < 0.05 and earlier:
            await self.acknowledge_beside(self.random.choice(earlier))
        elif dice < 0.1:
            await self.acknowledge_beside(visit)
        else:
            await self.acknowledge_on(visit, line, dialect)

    async def acknowledge_on(self, visit: Visit, line: Line, dialect: Dialect) -> None:  # noqa: ARG002 - a WebSocket does
        """Acknowledge by the stream itself, where it can be."""
        await self.acknowledge_beside(visit)

    async def leave(self, visit: Visit, line: Line, dialect: Dialect) -> None:
        """Leave in one of the ways that there are."""
        how = self.random.choice(("hang up", "reset", "vanish", "goodbye"))
        if how == "vanish":
            await asyncio.sleep(self.random.uniform(1, 5))
        if how in ("reset", "vanish"):
            self.reset(visit, line, dialect)
            return
        if how == "goodbye" and isinstance(dialect, OverWebSocket) and visit.id is not None and dialect.closed is None:
            dialect.goodbye()
            await line.write(dialect.to_send())
        else:
            line.hang_up()
        visit.ended = how
        try:
            async with asyncio.timeout(SILENCE_SECONDS):
                while data := await line.read():
                    for payload in dialect.feed(data):
                        self.take(visit, payload)
                    await line.write(dialect.to_send())
        except TimeoutError:
            self.reset(visit, line, dialect)
            return
        if line.is_torn or visit.was_killed:
            self.ended_by_node(visit, line, dialect.partial)
        if how == "goodbye" and dialect.closed == (1000, ""):
            for ack in visit.acks:
                ack.take()


class WebSocketGuest(StreamGuest):
    """A client of the WebSocket."""

    transport = "websocket"

    def dialect(self, visit: Visit) -> OverWebSocket:
        return OverWebSocket(f"/v1/ws?{urlencode(self.query(visit.asked))}", self.token, visit.agent)

    async def acknowledge_on(self, visit: Visit, line: Line, dialect: Dialect) -> None:
        """Acknowledge, sometimes ahead of what was sent, and mostly ask whether it has come: frames are in order."""
        assert isinstance(dialect, OverWebSocket)
        if self.random.random() < 0.02:
            await line.write(dialect.say({"type": "ack", "seq": AHEAD}))
            return
        visit.acks.append(Ack(self.random.choice(visit.seqs[-20:])))
        said = dialect.say({"type": "ack", "seq": visit.acks[-1].seq})
        if self.random.random() < 0.7:
            said += dialect.say({"type": "ping", "data": len(visit.acks) - 1})
        await line.write(said)


class EventsGuest(StreamGuest):
    """A client of server-sent events."""

    transport = "sse"

    def dialect(self, visit: Visit) -> OverEvents:
        last_id = None
        earlier = [one for one in self.visits[-2:-1] if one.id is not None and one.seqs]
        if earlier and not self.keeper and self.random.random() < 0.5:
            visit.asked = earlier[0].seqs[-1]
            last_id = f"{visit.asked}.{earlier[0].id}"
            earlier[0].acks.append(Ack(visit.asked))
        return OverEvents(f"/v1/events?{urlencode(self.query(visit.asked))}", self.token, visit.agent, last_id)


class PollGuest(Guest):
    """A client of the long poll."""

    transport = "longpoll"

    async def visit(self, seat: Seat) -> None:
        """Poll some times, one after the other, on one line to the node."""
        line = Line(seat.port, small=self.small)
        try:
            async with asyncio.timeout(SILENCE_SECONDS):
                await line.open()
            current: Visit | None = None
            after = self.cursor()
            for _ in range(self.random.randint(1, 40)):
                answer = await self.poll(seat, line, current, after)
                if answer is None:
                    return
                current, after = answer
                if self.random.random() < self.sloth:
                    await asyncio.sleep(self.random.uniform(0.1, 1.5))
                if self.random.random() < 0.05 and current.seqs:
                    await self.acknowledge_beside(current)
                if self.history.is_over and (self.has_all or not self.keeper):
                    return
        finally:
            line.close()

    async def poll(self, seat: Seat, line: Line, current: Visit | None, after: Any) -> tuple[Visit, int] | None:
        """Ask once, and return the connection that answered and its cursor, or None where the line is over."""
        fresh = self.begin(seat, after)
        asked = [fresh] if current is None else [fresh, current]
        query = {"wait": self.random.choice((0, 0.3, 1)), **self.query(after)}
        ack: Ack | None = None
        if current is not None:
            query["connection"] = current.id
            ack = Ack(after)
            current.acks.append(ack)
        for visit in asked:
            visit.line = line
        request = get(f"/v1/events?{urlencode(query)}", self.token, fresh.agent, "application/json", {})
        document = await self.answer_to(request, line, asked)
        if document is None:
            return None
        if current is not None and document["connection"] == current.id:
            assert ack is not None
            ack.take()
            current.prove()
            self.visits.remove(fresh)
            fresh = current
        else:
            fresh.welcome(document["connection"], document["welcome"]["after"])
        for frame in document["events"]:
            fresh.seqs.append(frame["seq"])
        if document["caught_up"]:
            self.reached(document["next"])
        fresh.ended = "left between polls"
        return (fresh, document["next"]) if line.is_open and not document["closed"] else None

    async def answer_to(self, request: bytes, line: Line, asked: list[Visit]) -> Any:
        """Return the answer to a poll, unless it is dropped before."""
        answer = Answer()
        patience = self.random.uniform(0, 0.3) if self.random.random() < 0.1 else SILENCE_SECONDS
        try:
            async with asyncio.timeout(patience):
                await line.write(request)
                while not answer.is_complete:
                    data = await line.read()
                    if not data:
                        for visit in asked:
                            self.ended_by_node(visit, line, len(answer.body))
                        return None
                    answer.feed(data)
        except TimeoutError:
            data, unread = line.reset()
            if data:
                answer.feed(data)
            for visit in asked:
                visit.unread += (unread, Unread(0 if answer.is_complete else len(answer.body), NEVER, NEVER))
                visit.ended = "reset"
        if not answer.is_complete or answer.status != 200:
            return None
        for payload in texts_of(answer.body):
            seq = seq_of(payload)
            assert seq is not None
            self.history.saw(seq, payload)
        return answer.json()
