"""``GET /v1/events``, the stream for where WebSockets are blocked, and its ``/ack`` and ``/seen``.

One address, two transports: server-sent events (``sse.py``), or with ``Accept: application/json``
or ``?wait=`` a long poll (``longpoll.py``). Both are refused like any request, with a problem
document, and the ledger records each refusal like the rejection of a WebSocket
(``http_rejections.py``).

A client acknowledges in one of three ways: by resuming (``Last-Event-ID``, or ``connection`` and
``after``), by the next poll, which is the same, or by ``POST /v1/events/ack``. Each may reach
another node than the stream did. An acknowledgement counts for the connection that it names, and
never beyond what that was sent, as far as this node and the ledger know.
"""

from __future__ import annotations

import asyncio
from contextlib import ExitStack, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, TypedDict

from service.errors import CloseReason, DatabaseUnavailable, NotFound, Overloaded, RateLimited, TokenRevoked
from service.http.charges import charge
from service.http.server_protocol import HttpServerProtocol
from service.stream.admission import Admission, ClientInfo, StreamRequest
from service.stream.protocol import Timing
from service.stream.transports.http_rejections import PATH, set_connected
from service.stream.transports.longpoll import Identity, PollResponse, PollSession, PollSessions
from service.stream.transports.sse import SseResponse, SseTransport
from service.stream.transports.websocket import CLOSE_SECONDS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
    from uuid import UUID

    from starlette.requests import Request

    from service.auth.principal import Principal
    from service.http.rate_limits import ConnectionLimits
    from service.ledger.recorder import LedgerRecorder
    from service.settings import StreamSettings
    from service.stream.cursor_check import Start
    from service.stream.hub import Hub

RETRY_SECONDS = (0.1, 0.3, 0.6)
"""The pauses before the ledger is asked again: another node may not have flushed yet."""

RESUMED_AT_ONCE = 100
"""How many acknowledgements of clients that resumed are recorded at a time; others wait for their turn."""

RESUME_RETRY_SECONDS = 1
DATABASE_RETRIES = 60
"""How often one of these is tried while the database is not available, with a pause after each time."""

SHUTDOWN_SECONDS = 2
"""How long a node that stops waits for them."""


class StreamQuery(TypedDict):
    """The query of a stream, as it was sent; see ``StreamRequest.of``."""

    after: str | None
    topics: Sequence[str]
    min_severity: str
    consumer: str | None


class HttpEndpoint:
    """The streams of this node that are no WebSockets."""

    def __init__(
        self, admission: Admission, hub: Hub, ledger: LedgerRecorder, limits: ConnectionLimits, settings: StreamSettings
    ) -> None:
        self._admission = admission
        self._hub = hub
        self._ledger = ledger
        self._limits = limits
        self._sessions = PollSessions()
        self._resumed: set[asyncio.Task[None]] = set()
        self._resumed_max = settings.connections_max
        self._turns = asyncio.Semaphore(RESUMED_AT_ONCE)
        self._idle_timing = Timing(
            settings.heartbeat_seconds, settings.longpoll_idle_timeout_seconds, CloseReason.POLL_TIMEOUT
        )
        self._slow_seconds = settings.slow_consumer_seconds
        # The peer confirms heartbeats at least. A socket that is only slow must not count as gone.
        alive = settings.ping_interval_seconds + settings.ping_timeout_seconds
        self._silence_seconds = max(alive, settings.slow_consumer_seconds + 2 * CLOSE_SECONDS)

    def stream(
        self, request: Request, principal: Principal, query: StreamQuery, connection: UUID | None
    ) -> SseResponse:
        """Answer with server-sent events; ``connection`` is the one that they resume."""
        return SseResponse(self._reserved(request, principal, query, connection))

    @asynccontextmanager
    async def _reserved(
        self, request: Request, principal: Principal, query: StreamQuery, connection: UUID | None
    ) -> AsyncIterator[Callable[[SseTransport], None]]:
        """Reserve room for a stream of server-sent events, and yield what opens it."""
        requested = StreamRequest.of(principal, **query)
        charge(request)
        with self._room(principal):
            start = await self._admission.start_of(principal, requested)
            self._resume(principal, connection, start)

            def open_on(transport: SseTransport) -> None:
                client = ClientInfo.of_request(request)
                try:
                    opened, welcome = self._admission.connection(
                        transport, "sse", client, principal, request=requested, start=start
                    )
                except (TokenRevoked, RateLimited) as refusal:  # the head was sent
                    self._admission.record_rejection(refusal.code, PATH, client, principal.subject)
                    transport.end(CloseReason.named(refusal.code))
                    return
                transport.begin(opened.id, self._silence_seconds)
                opened.open(welcome)

            yield open_on

    async def poll(
        self, request: Request, principal: Principal, query: StreamQuery, connection: UUID | None, wait: float
    ) -> PollResponse:
        """Answer with the next events, after at most ``wait`` seconds."""
        http = HttpServerProtocol.of(request.scope)
        requested = StreamRequest.of(principal, **query)
        client = ClientInfo.of_request(request)
        identity = Identity(
            principal.subject, requested.consumer, requested.filter, client.remote_addr, client.user_agent
        )
        has_cursor = requested.after is not None
        found = self._sessions.find(identity, connection)
        set_connected(request, is_connected=found is not None)
        if not has_cursor and found is not None:
            found.acknowledge_arrived()
        is_paced = self._sessions.is_paced(identity, connection, query["after"])
        if not is_paced:
            charge(request)
        with ExitStack() as room:
            if found is None:  # before anything is stored about somebody who may have to be refused
                room.enter_context(self._room(principal))
            start = await self._admission.start_of(principal, requested, polls=True)
            is_known = start.received is not None or not has_cursor
            follows = start.position if is_known and start.reset is None else None
            session = self._sessions.following(identity, connection, follows)
            set_connected(request, is_connected=session is not None)
            if session is not None:
                self._admission.check_not_revoked(principal)
                if not is_paced:
                    self._limits.require_message(session.connection.id)
                session.connection.renewed(principal)
                poll = session.begin(http, wait, with_welcome=connection is None, has_cursor=has_cursor)
                session.acknowledge_answer()
            else:
                self._resume(principal, connection, start)
                if found is not None:
                    room.enter_context(self._room(principal))
                session = PollSession(identity, self._hub, self._sessions)
                session.connection, welcome = self._admission.connection(
                    session, "longpoll", client, principal, request=requested, start=start, timing=self._idle_timing
                )
                session.cursor = start.position
                self._sessions.add(session)
                poll = session.begin(http, wait, with_welcome=True, has_cursor=has_cursor)
                session.connection.open(welcome)
                set_connected(request, is_connected=True)
        await poll.answer
        return PollResponse(session, poll, self._slow_seconds)

    @contextmanager
    def _room(self, principal: Principal) -> Iterator[None]:
        """Keep room for one more stream, if there is any and it is not too soon."""
        with self._hub.reserve(principal.subject):
            self._admission.check_pace(principal)
            yield

    async def acknowledge(
        self, principal: Principal, connection: UUID, seq: int, count: Callable[[], None] = lambda: None
    ) -> int:
        """Handle an acknowledgement, and return up to where it counts.

        ``count`` is called with one that does not advance: it counts against the limit of reads.

        Raises:
            NotFound: the bearer has no such connection, or its token does not cover what that was sent.
            RateLimited: the client sends more than a connection may.
            DatabaseUnavailable: the connection is not of this node, and the ledger cannot be asked.

        """
        opened = self._hub.find(connection, principal)
        if opened is not None:
            if not opened.advances(seq):
                count()
                self._limits.require_message(connection)
            return opened.acknowledge(seq)
        count()
        for pause in (*RETRY_SECONDS, None):
            up_to = await self._ledger.record_late_receipt(connection, principal, seq)
            if pause is None or (up_to is not None and up_to >= seq):
                break
            await asyncio.sleep(pause)  # another node may be about to write what it has sent
        if up_to is None:
            raise NotFound(f"There is no connection {connection}, or it is not one of this token.")
        return up_to

    def record_seen(self, principal: Principal, alerts: Iterable[UUID]) -> None:
        """Record that the bearer saw these alerts."""
        self._ledger.record_sightings(principal.subject, principal.topics, alerts)

    def _resume(self, principal: Principal, connection: UUID | None, start: Start) -> None:
        """Acknowledge what the client has received on the connection that is resumed, in the background.

        Raises:
            Overloaded: as many wait as there may be streams. The client comes back with its acknowledgement.

        """
        if connection is not None and start.received is not None:
            if len(self._resumed) >= self._resumed_max:
                raise Overloaded("Too many clients resume at once.", retry_after=RESUME_RETRY_SECONDS)
            acknowledging = self._acknowledge_resumed(principal, connection, start.received)
            task = asyncio.get_running_loop().create_task(acknowledging)
            self._resumed.add(task)
            task.add_done_callback(self._resumed.discard)

    async def close(self) -> None:
        """Wait for what clients that resumed acknowledged, and give up what takes longer than ``SHUTDOWN_SECONDS``."""
        if self._resumed:
            _, late = await asyncio.wait(self._resumed, timeout=SHUTDOWN_SECONDS)
            for task in late:
                task.cancel()

    async def _acknowledge_resumed(self, principal: Principal, connection: UUID, received: int) -> None:
        for _ in range(DATABASE_RETRIES):
            try:
                async with self._turns:
                    await self.acknowledge(principal, connection, received)
            except DatabaseUnavailable:
                await asyncio.sleep(RESUME_RETRY_SECONDS)
            except (NotFound, RateLimited):
                return  # the ledger claims less than happened
            else:
                return
