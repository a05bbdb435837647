"""Long poll: the stream as JSON answers, for where not even a streamed answer comes through.

The polls of a client are one connection, and one row of the ledger. The client names it in its next
poll, which asks with ``after`` for what follows on the last answer, and so acknowledges that
answer. To the connection this is a socket that is full after each answer, and drains with the next
poll:

::

    poll ──► waits ──► events: answered ──► the kernel has them: sent ──► idle ──► next poll: received, waits again
               │                                                            │
               └─ nothing within ``wait`` seconds: answered empty ──────────┤
                                                                            └ idle timeout: closed poll_timeout

A poll that does not follow on the last answer, because that was lost or another node has answered
since, begins a new connection, as after a dropped WebSocket: what a connection was sent is one
range of the log. A poll that names no connection goes on with that of the same recipient, filter,
address and user agent, if it follows on its last answer.

A poll without a cursor starts at the resume point. It acknowledges the last answer to such a poll of
the same filter or consumer, unless that was lost as far as the node can know: its client had gone
before the kernel had all of it, or reset the connection. So a loop that asks for the same address
again and again gets each event once, and what did not arrive again.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

from starlette.responses import Response

from service.errors import CloseReason
from service.events.position import ORIGIN
from service.http.server_protocol import HttpServerProtocol
from service.ledger.resume_points import ResumeKey
from service.stream import frames

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from starlette.types import Receive, Scope, Send

    from service.events.filter import EventFilter
    from service.events.position import Position
    from service.stream.connection import Connection
    from service.stream.frames import Frame, FrameBatch
    from service.stream.hub import Hub
    from service.stream.transports.interface import StreamListener

CATCH_UP_SECONDS = 5
"""How much longer than its ``wait`` a poll may take while there may be older events for it."""


class Identity(NamedTuple):
    """Polls that name no connection continue one another where these are the same."""

    recipient: str
    consumer: str
    filter: EventFilter
    remote_addr: str | None
    user_agent: str | None

    @property
    def key(self) -> ResumeKey:
        """Whose resume point the polls move."""
        return ResumeKey(self.recipient, self.consumer, self.filter)


class Poll:
    """One request that waits for its answer."""

    def __init__(self, session: PollSession, http: HttpServerProtocol, *, has_cursor: bool) -> None:
        self._session = session
        self.has_cursor = has_cursor
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        http.attach(self, streams=False)

    def settle(self, answer: bytes) -> None:
        """Answer."""
        if not self.answer.done():
            self.answer.set_result(answer)

    def reset(self) -> None:
        """The client reset the connection, by which the answer went."""
        self._session.answer_lost(self)

    def drained(self) -> None:
        """Do nothing: the task of the request writes the answer and waits for the socket."""

    def disconnected(self) -> None:
        """The client disconnected."""
        self._session.poll_disconnected(self)

    def shut_down(self) -> None:
        """The server stops."""
        self._session.connection.close(CloseReason.SHUTTING_DOWN)


class PollSession:
    """The transport of one connection: its polls, one after the other.

    ``cursor`` is that of the last answer.
    """

    def __init__(self, identity: Identity, hub: Hub, sessions: PollSessions) -> None:
        self.identity = identity
        self.cursor = ORIGIN
        self.connection: Connection
        self._hub = hub
        self._sessions = sessions
        self._poll: Poll | None = None
        self._answered: Poll | None = None
        self._has_arrived = False
        """Whether the last answer went to a poll without a cursor, and arrived as far as the node knows."""
        self._welcome: Frame | None = None
        self._with_welcome = True
        self._overdue = False
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_idle(self) -> bool:
        """Whether no poll waits."""
        return self._poll is None

    def begin(self, http: HttpServerProtocol, seconds: float, *, with_welcome: bool, has_cursor: bool) -> Poll:
        """Begin a poll of at most ``seconds``; ``with_welcome``, its answer has the welcome frame.

        A poll that still waits is answered empty, because its client has asked again.
        """
        if self._poll is not None:
            self._poll.settle(self._body(self.cursor))
        self._poll, self._answered = Poll(self, http, has_cursor=has_cursor), None
        self._has_arrived = False
        self._overdue = False
        self._with_welcome = with_welcome
        self._set_timer(seconds)
        return self._poll

    def acknowledge_answer(self) -> None:
        """Acknowledge the last answer, because the client asks for what follows it, and go on."""
        self.connection.acknowledge(self.cursor.seq)
        self.connection.drained()

    def acknowledge_arrived(self) -> None:
        """Acknowledge the last answer to a poll without a cursor, because the client polls again."""
        if self._has_arrived:
            self.connection.acknowledge(self.cursor.seq)

    def abandon(self) -> None:
        """End the connection, whose client goes on with another."""
        poll = self._end()
        if poll is not None:
            poll.settle(self._body(self.cursor))
        self.connection.disconnected(1006, "")

    # What the connection uses.

    def attach(self, listener: StreamListener) -> None:
        """Do nothing: the session knows its connection."""

    def write_frames(self, batch: FrameBatch) -> bool:
        """Answer the poll with the events, the gap and the reset of ``batch``, if any.

        After an answer nothing more can be written.
        """
        for frame in batch.frames:
            if frame.type == "welcome":
                self._welcome = frame
        answer = [frame for frame in batch.frames if frame.type in ("event", "gap", "reset")]
        if answer:
            self._answer(answer[-1].position or self.cursor, answer)
            return False
        if self._overdue and self.connection.is_live:
            self._answer(self._hub.position)
            return False
        return True

    def taken_bytes(self) -> int:
        """Return 0: a client takes nothing between two polls."""
        return 0

    def close_stream(self, reason: CloseReason, _hint: str | None = None, /) -> bool:
        """Answer the poll that waits with the reason."""
        poll = self._end()
        if poll is not None:
            poll.settle(self._body(self.cursor, [frames.close(reason.code, reason.reason)]))
        return True

    # Answering.

    def response_ended(self, poll: Poll, *, flushed: bool) -> None:
        """The response to a poll was flushed, or never will be. Ignored unless it is the last."""
        if poll is self._answered:
            if flushed:
                self.connection.flushed()
                self._has_arrived = not poll.has_cursor
                self.connection.polled(self.cursor.seq if self._has_arrived else 0)
            else:
                self.connection.close(CloseReason.SLOW_CONSUMER)

    def answer_lost(self, poll: Poll) -> None:
        """The connection was reset by which the answer to a poll went. Ignored unless it is the last."""
        if poll is self._answered and self._has_arrived:
            self._has_arrived = False
            self.connection.polled(0)

    def poll_disconnected(self, poll: Poll) -> None:
        """Wait for the next poll: the client of this one disconnected."""
        poll.settle(b"")
        if self._poll is poll:
            self._stop_waiting()
            self.connection.pause()

    def _expired(self) -> None:
        """Answer: the time of the poll is over. A connection that catches up gets a moment more."""
        if self.connection.is_live or self._overdue:
            self._answer(self.connection.pause(), caught_up=not self._overdue)
        else:
            self._overdue = True
            self._set_timer(CATCH_UP_SECONDS)

    def _answer(self, cursor: Position, contents: Sequence[Frame] = (), *, caught_up: bool | None = None) -> None:
        self._answered = self._poll
        self._stop_waiting()
        self.cursor = cursor
        if self._answered is not None:
            self._answered.settle(self._body(cursor, contents, caught_up=caught_up))

    def _body(self, cursor: Position, contents: Sequence[Frame] = (), *, caught_up: bool | None = None) -> bytes:
        if caught_up is None:
            caught_up = cursor.seq >= self._hub.position.seq
        named = {frame.type: frame.payload for frame in contents}
        return (
            b'{"connection":"%b","welcome":%b,"events":[%b],"next":"%b","caught_up":%b,"gap":%b,"reset":%b,"closed":%b}'
            % (
                str(self.connection.id).encode(),
                self._welcome.payload if self._welcome and self._with_welcome else b"null",
                b",".join(frame.payload for frame in contents if frame.type == "event"),
                cursor.cursor.encode(),
                b"true" if caught_up else b"false",
                named.get("gap", b"null"),
                named.get("reset", b"null"),
                named.get("close", b"null"),
            )
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
        self._sessions.remove(self)
        return poll


class PollSessions:
    """The poll sessions of this node."""

    def __init__(self) -> None:
        self._by_id: dict[UUID, PollSession] = {}
        self._by_identity: dict[Identity, PollSession] = {}

    def add(self, session: PollSession) -> None:
        """Add a session whose connection is known."""
        self._by_id[session.connection.id] = session
        self._by_identity[session.identity] = session

    def remove(self, session: PollSession) -> None:
        """Remove a session that is over."""
        self._by_id.pop(session.connection.id, None)
        if self._by_identity.get(session.identity) is session:
            del self._by_identity[session.identity]

    def is_paced(self, identity: Identity, connection: UUID | None, after: str | None) -> bool:
        """Return whether a poll acknowledges events: there cannot be more such polls than answers with events."""
        session = self.find(identity, connection)
        return (
            session is not None
            and after in {session.cursor.cursor, str(session.cursor.seq)}
            and session.connection.advances(session.cursor.seq)
        )

    def following(self, identity: Identity, connection: UUID | None, after: Position | None) -> PollSession | None:
        """Return the session that a poll continues, which starts at ``after``.

        A session that the poll shows to be abandoned ends.
        """
        session = self.find(identity, connection)
        if session is None or session.cursor == after:
            return session
        session.abandon()
        return None

    def find(self, identity: Identity, connection: UUID | None) -> PollSession | None:
        """Return the session of the client, by the ``connection`` that it names, or else by who it is."""
        session = self._by_id.get(connection) if connection is not None else None
        if session is None:
            session = self._by_identity.get(identity)
            return session if session is not None and session.is_idle else None
        return session if session.identity.key == identity.key else None


class PollResponse(Response):
    """The answer to a poll, which reports to the session when it has gone to the socket."""

    media_type = "application/json"

    def __init__(self, session: PollSession, poll: Poll, slow_seconds: float) -> None:
        super().__init__(poll.answer.result())
        self._session = session
        self._poll = poll
        self._slow_seconds = slow_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI
        """Send it, and wait until the kernel has all of it."""
        http = HttpServerProtocol.of(scope)
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        try:
            flushed = await http.flushed(self._slow_seconds)
        except TimeoutError:
            self._session.response_ended(self._poll, flushed=False)
            http.transport.abort()
            return
        http.detach()
        if flushed:
            self._session.response_ended(self._poll, flushed=True)
            http.on_reset = self._poll.reset
        await send({"type": "http.response.body", "body": b""})
