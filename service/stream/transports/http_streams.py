"""``GET /v1/events``, the stream for where WebSockets are blocked, and ``POST /v1/events/ack``.

One address, two transports: server-sent events (``sse.py``), or with ``Accept: application/json`` or ``?wait=`` a long
poll (``longpoll.py``). Both are refused as any request is, with a problem document, and each refusal is kept in the
ledger as those of the WebSocket are.

What was received is said in one of three ways: by resuming (``Last-Event-ID``, or ``connection`` and ``after``), by the
next poll, which is the same, or by ``POST /v1/events/ack``. It may reach another node than the stream did. It counts
for the connection that it names, and never beyond what that was sent, as far as this node and the ledger know.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from service.errors import (
    CloseReason,
    ConnectionLimit,
    DatabaseUnavailable,
    InvalidRequest,
    NotFound,
    Overloaded,
    RateLimited,
    RequestRefused,
    TokenRevoked,
    TopicForbidden,
)
from service.http.server_protocol import HttpServerProtocol
from service.stream.admission import Admission, Client, Refused, Wanted
from service.stream.protocol import Timing
from service.stream.transports.longpoll import Identity, PollResponse, PollSession, PollSessions
from service.stream.transports.sse import Encoder, SseResponse, SseTransport
from service.stream.transports.websocket import CLOSE_SECONDS

if TYPE_CHECKING:
    from uuid import UUID

    from starlette.requests import Request
    from starlette.responses import Response

    from service.auth.principal import Principal
    from service.http.rate_limits import ConnectionLimits
    from service.ledger.recorder import Ledger
    from service.settings import StreamSettings
    from service.stream.hub import Hub

PATH = "/v1/events"
RETRY_SECONDS = 5
LATER_SECONDS = (0.1, 0.3, 0.6)
"""When the ledger is asked again about a connection of which it does not know enough: another node flushes by then."""

RESUMED_MAX = 100
"""How many clients that resumed may have acknowledgements under way."""


class HttpStreams:
    """The streams of this node that are no WebSockets."""

    def __init__(
        self, admission: Admission, hub: Hub, ledger: Ledger, limits: ConnectionLimits, settings: StreamSettings
    ) -> None:
        self._admission = admission
        self._hub = hub
        self._ledger = ledger
        self._limits = limits
        self._encoder = Encoder()
        self._sessions = PollSessions()
        self._resumed: set[asyncio.Task[None]] = set()
        self._idle_timing = Timing(
            settings.heartbeat_seconds, settings.longpoll_idle_timeout_seconds, CloseReason.POLL_TIMEOUT
        )
        self._slow_seconds = settings.slow_consumer_seconds
        # Heartbeats are what is to be confirmed; a socket that is only slow must not be taken for one that is gone.
        alive = settings.ping_interval_seconds + settings.ping_timeout_seconds
        self._silence_seconds = max(alive, settings.slow_consumer_seconds + 2 * CLOSE_SECONDS)

    async def stream(
        self, request: Request, principal: Principal, query: dict[str, str], connection: UUID | None
    ) -> Response:
        """Open a stream of server-sent events; ``connection`` is the one that it resumes."""
        client = _client(request)
        try:
            wanted = Wanted.of(query, principal)
            self._admission.check(principal)
            after = await self._admission.start_of(principal, wanted)
            if wanted.names_seq:
                self._resume(principal, connection, after)
            self._admission.check(principal)  # others may have come in meanwhile
        except Refused as refused:
            raise _refusal(refused) from None

        def begin(transport: SseTransport) -> None:
            try:
                self._admission.check(principal)
            except Refused as refused:  # others have come in while the head was sent, or the token was revoked
                transport.end(refused.reason)
                return
            opened, welcome = self._admission.connection(
                transport, "sse", client, principal, event_filter=wanted.filter, after=after
            )
            transport.begin(opened.id, self._silence_seconds)
            opened.open(welcome)

        return SseResponse(begin, self._encoder)

    async def poll(
        self, request: Request, principal: Principal, query: dict[str, str], connection: UUID | None, wait: float
    ) -> Response:
        """Answer with the next events, after at most ``wait`` seconds."""
        http = HttpServerProtocol.of(request.scope)
        try:
            wanted = Wanted.of(query, principal)
            after = await self._admission.start_of(principal, wanted)
            client = _client(request)
            identity = Identity(principal.subject, wanted.filter, client.remote_addr, client.user_agent)
            session = self._sessions.following(identity, connection, after if wanted.names_seq else None)
            if session is None:
                if wanted.names_seq:
                    self._resume(principal, connection, after)
                self._admission.check(principal)
        except Refused as refused:
            raise _refusal(refused) from None
        if session is None:
            session = PollSession(identity, self._hub, self._sessions)
            session.connection, welcome = self._admission.connection(
                session,
                "longpoll",
                client,
                principal,
                event_filter=wanted.filter,
                after=after,
                timing=self._idle_timing,
            )
            session.answered = min(after, self._hub.position)
            self._sessions.add(session)
            poll = session.wait(http, wait, greets=True)
            session.connection.open(welcome)
        else:
            self._count_message(session.connection.id)
            session.connection.renewed(principal)
            poll = session.wait(http, wait, greets=connection is None)
            session.go_on()
        await poll.answer
        return PollResponse(session, poll, self._slow_seconds)

    async def acknowledge(self, principal: Principal, connection: UUID, seq: int) -> int:
        """Take an ack, and return up to where it counts.

        Raises:
            NotFound: the bearer has no such connection.
            RateLimited: it sends more than a connection may.
            DatabaseUnavailable: it is not of this node, and the ledger cannot be asked.

        """
        opened = self._hub.find(connection, principal.subject)
        if opened is not None:
            self._count_message(connection)
            return opened.acknowledge(seq)
        for patience in (*LATER_SECONDS, None):
            up_to = await self._ledger.acknowledge(connection, principal.subject, seq)
            if patience is None or (up_to is not None and up_to >= seq):
                break
            await asyncio.sleep(patience)  # another node may be about to write what it has sent
        if up_to is None:
            raise NotFound(f"There is no connection {connection}, or it is not this subject's.")
        return up_to

    def rejected(self, request: Request, error: RequestRefused, principal: Principal | None, *, counted: bool) -> None:
        """Keep a refusal in the ledger."""
        subject = principal.subject if principal is not None else None
        self._admission.refused(error.code, PATH, _client(request), subject, counted=counted)

    def _resume(self, principal: Principal, connection: UUID | None, after: int) -> None:
        """Take it that what came before was received, on the connection that is named; nothing waits for the ledger."""
        if connection is not None and len(self._resumed) < RESUMED_MAX:
            task = asyncio.get_running_loop().create_task(self._acknowledge_resumed(principal, connection, after))
            self._resumed.add(task)
            task.add_done_callback(self._resumed.discard)

    async def _acknowledge_resumed(self, principal: Principal, connection: UUID, after: int) -> None:
        with suppress(NotFound, RateLimited, DatabaseUnavailable):  # then the ledger claims less than happened
            await self.acknowledge(principal, connection, after)

    def _count_message(self, connection: UUID) -> None:
        if not self._limits.message(str(connection)):
            raise RateLimited("More messages than a connection may send; come back in a second.", retry_after=1)


def _client(request: Request) -> Client:
    address = (request.client.host, request.client.port) if request.client else None
    return Client.of(request.headers, address)


def _refusal(refused: Refused) -> RequestRefused:
    """Return the refusal of a request that means the same as that of a stream."""
    match refused.reason:
        case CloseReason.TOPIC_FORBIDDEN:
            return TopicForbidden("The token does not cover these topics.")
        case CloseReason.TOKEN_REVOKED:
            return TokenRevoked("The token was revoked. Sign in again.")
        case CloseReason.CONNECTION_LIMIT:
            return ConnectionLimit("This subject holds as many streams as it may.", retry_after=RETRY_SECONDS)
        case CloseReason.OVERLOADED:
            return Overloaded("This node cannot take another stream now.", retry_after=RETRY_SECONDS)
        case _:
            fault = {"pointer": "/query", "detail": "after must be a seq or latest, topics a list of patterns"}
            return InvalidRequest("The query cannot be read.", errors=[fault])
