"""Long poll: the stream as JSON answers, for where not even a streamed answer comes through.

One connection is kept for the polls of a client, and one row of the ledger. The client names it in its next poll,
which asks with ``after`` for what follows on the last answer, and so acknowledges that answer. To the connection this
is a socket that is full after each answer, and drains with the next poll:

::

    poll ──► waits ──► events: answered ──► the kernel has them: sent ──► idle ──► next poll: received, waits again
               │                                                            │
               └─ nothing within ``wait`` seconds: answered empty ──────────┤
                                                                            └ idle timeout: closed poll_timeout

A poll that does not follow on the last answer, because that was lost or another node has answered since, begins a new
connection, as a WebSocket that was dropped would: what a connection was sent is one range of the log. A poll that names
no connection goes on with that of the same admin, filter, address and user agent, if it follows on its last answer.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

import orjson
from starlette.responses import Response

from service.errors import CloseReason
from service.http.server_protocol import HttpServerProtocol
from service.stream import frames

if TYPE_CHECKING:
    from uuid import UUID

    from starlette.types import Receive, Scope, Send

    from service.events.filter import EventFilter
    from service.stream.connection import Connection
    from service.stream.hub import Hub
    from service.stream.transports.websocket import Stream

CATCH_UP_SECONDS = 5
"""How much longer than its ``wait`` a poll may take while there may be older events for it."""


class Identity(NamedTuple):
    """Whose polls go on with one another when they name no connection."""

    recipient: str
    filter: EventFilter
    remote_addr: str | None
    user_agent: str | None


class Poll:
    """One request that waits for its answer."""

    def __init__(self, session: PollSession, http: HttpServerProtocol) -> None:
        self._session = session
        self._http = http
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        http.attach(self, streams=False)

    def settle(self, answer: bytes) -> None:
        """Answer."""
        if not self.answer.done():
            self.answer.set_result(answer)

    def drained(self) -> None:
        """Nothing waits for it: the answer is written by the task of the request."""

    def disconnected(self) -> None:
        """The client has gone."""
        self._session.abandoned(self)

    def shut_down(self) -> None:
        """The server stops."""
        self._session.close(CloseReason.SHUTTING_DOWN)


class PollSession:
    """The transport of one connection: its polls, one by one. ``answered`` is the cursor of the last answer."""

    def __init__(self, identity: Identity, hub: Hub, sessions: PollSessions) -> None:
        self.identity = identity
        self.answered = 0
        self.connection: Connection
        self._hub = hub
        self._sessions = sessions
        self._poll: Poll | None = None
        self._answered: Poll | None = None
        self._welcome = b"null"
        self._greets = True
        self._overdue = False
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_idle(self) -> bool:
        """Say whether no poll waits."""
        return self._poll is None

    def wait(self, http: HttpServerProtocol, seconds: float, *, greets: bool) -> Poll:
        """Begin a poll, whose answer has the welcome if it ``greets``.

        One that still waits is answered empty, for its client has asked again.
        """
        if self._poll is not None:
            self._poll.settle(self._body([], self.answered))
        self._poll, self._answered = Poll(self, http), None
        self._overdue = False
        self._greets = greets
        self._set_timer(seconds)
        return self._poll

    def go_on(self) -> None:
        """Take it that the last answer was received, as the client asks for what follows it."""
        self.connection.acknowledge(self.answered)
        self.connection.drained()

    def close(self, reason: CloseReason) -> None:
        """Close the connection from our side."""
        self.connection.close(reason)

    def leave(self) -> None:
        """End the connection without a word: its client goes on with another."""
        poll = self._end()
        if poll is not None:
            poll.settle(self._body([], self.answered))
        self.connection.disconnected(1006, "")

    # What the connection uses.

    def attach(self, stream: Stream) -> None:
        """Do nothing: the session knows its connection."""

    def write_frames(self, data: bytes) -> bool:
        """Answer the poll with the events of ``data``, if there are any; after an answer no more can be written."""
        events: list[bytes] = []
        gap: bytes | None = None
        for payload in frames.payloads(data):
            if payload.startswith(b'{"type":"event",'):
                events.append(payload)
            elif payload.startswith(b'{"type":"gap",'):
                gap = payload
            elif payload.startswith(b'{"type":"welcome",'):
                self._welcome = payload
        if events or gap:
            self._answer(events, _cursor_after(events, gap, self.answered), gap)
            return False
        if self._overdue and self.connection.is_live:
            self._answer([], self._hub.position)
            return False
        return True

    def close_stream(self, code: int, reason: str) -> bool:
        """Answer the poll that waits with the reason."""
        poll = self._end()
        if poll is not None:
            poll.settle(self._body([], self.answered, closed=next(frames.payloads(frames.close(code, reason)))))
        return True

    # Answering.

    def gone(self, poll: Poll, *, entirely: bool) -> None:
        """The answer to a poll has gone to the socket, or never will; what is no longer the last tells nothing."""
        if poll is self._answered:
            if entirely:
                self.connection.taken()
            else:
                self.close(CloseReason.SLOW_CONSUMER)

    def abandoned(self, poll: Poll) -> None:
        """The client of a poll has gone; it may come back."""
        poll.settle(b"")
        if self._poll is poll:
            self._stop_waiting()
            self.connection.pause()

    def _expired(self) -> None:
        """The time of the poll is over: answer, but give it a moment more while it still catches up."""
        if self.connection.is_live or self._overdue:
            self._answer([], self.connection.pause(), caught_up=not self._overdue)
        else:
            self._overdue = True
            self._set_timer(CATCH_UP_SECONDS)

    def _answer(
        self, events: list[bytes], cursor: int, gap: bytes | None = None, *, caught_up: bool | None = None
    ) -> None:
        self._answered = self._poll
        self._stop_waiting()
        self.answered = cursor
        if self._answered is not None:
            self._answered.settle(self._body(events, cursor, gap, caught_up=caught_up))

    def _body(
        self,
        events: list[bytes],
        cursor: int,
        gap: bytes | None = None,
        *,
        closed: bytes | None = None,
        caught_up: bool | None = None,
    ) -> bytes:
        if caught_up is None:
            caught_up = cursor >= self._hub.position
        return b'{"connection":"%b","welcome":%b,"events":[%b],"next":%d,"caught_up":%b,"gap":%b,"closed":%b}' % (
            str(self.connection.id).encode(),
            self._welcome if self._greets else b"null",
            b",".join(events),
            cursor,
            b"true" if caught_up else b"false",
            gap or b"null",
            closed or b"null",
        )

    def _set_timer(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._expired)

    def _stop_waiting(self) -> None:
        self._poll = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end(self) -> Poll | None:
        poll = self._poll
        self._stop_waiting()
        self._sessions.forget(self)
        return poll


def _cursor_after(events: list[bytes], gap: bytes | None, otherwise: int) -> int:
    """Return the cursor at which an answer ends."""
    if events:
        return int(orjson.loads(events[-1])["seq"])
    if gap is not None and (fields := orjson.loads(gap))["reason"] == "purged":
        return int(fields["to"])
    return otherwise


class PollSessions:
    """The connections of this node that are kept for polls."""

    def __init__(self) -> None:
        self._by_id: dict[UUID, PollSession] = {}
        self._by_identity: dict[Identity, PollSession] = {}

    def add(self, session: PollSession) -> None:
        """Keep a session whose connection is known."""
        self._by_id[session.connection.id] = session
        self._by_identity[session.identity] = session

    def forget(self, session: PollSession) -> None:
        """Keep a session no longer."""
        self._by_id.pop(session.connection.id, None)
        if self._by_identity.get(session.identity) is session:
            del self._by_identity[session.identity]

    def following(self, identity: Identity, connection: UUID | None, after: int | None) -> PollSession | None:
        """Return the session that a poll goes on with; ``after`` is what it named itself.

        One that it shows to be abandoned ends.
        """
        session = self._by_id.get(connection) if connection is not None else None
        if session is None:
            session = self._by_identity.get(identity)
            if session is None or not session.is_idle:
                return None
        elif session.identity.recipient != identity.recipient or session.identity.filter != identity.filter:
            return None
        if session.answered == after:
            return session
        session.leave()
        return None


class PollResponse(Response):
    """The answer to a poll; the session is told when it has gone to the socket."""

    media_type = "application/json"

    def __init__(self, session: PollSession, poll: Poll, slow_seconds: float) -> None:
        super().__init__(poll.answer.result(), headers={"Cache-Control": "no-store"})
        self._session = session
        self._poll = poll
        self._slow_seconds = slow_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI
        """Send it, and wait until the kernel has all of it."""
        http = HttpServerProtocol.of(scope)
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        try:
            async with asyncio.timeout(self._slow_seconds):
                gone = await http.flushed()
        except TimeoutError:
            self._session.gone(self._poll, entirely=False)
            http.transport.abort()
            return
        http.detach()
        if gone:
            self._session.gone(self._poll, entirely=True)
        await send({"type": "http.response.body", "body": b""})
