"""``GET /v1/ws``: the handshake, and the endpoint that returns when the stream is open or refused.

A refusal is accept, then close 1008 with a reason: closing before accepting would be an HTTP 403, which a browser
shows its page as 1006 without a word. Nothing else is ever sent on a refused connection, and the ledger keeps the
refusal.

The order of the questions: the Origin, the token (and, where it is bad, whether this address has shown too many such),
its scope, the query, the topics, the limits; and after the database was asked for the cursor, the limits again and
whether the token was revoked meanwhile. The token comes from the ``Authorization`` header, a ``bearer.<token>``
subprotocol or ``?token=``.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, get_args

from starlette.datastructures import Headers, QueryParams

from service.auth.principal import EVERY_TOPIC, Principal, Scope, intersect, is_topic_pattern
from service.deliveries.facts import ConnectionEntry, Rejection, plain
from service.errors import (
    CloseReason,
    DatabaseUnavailable,
    KeysUnavailable,
    RateLimited,
    RequestRefused,
    TokenMissing,
    TokenRevoked,
)
from service.events.filter import EventFilter, Severity
from service.logs import get_logger
from service.realtime import frames
from service.realtime.connection import Connection
from service.realtime.protocol import SEQ_MAX, StreamProtocol, Timing
from service.realtime.transport import EXTENSION, StreamTransport
from service.web.metrics import HANDSHAKES_REFUSED

if TYPE_CHECKING:
    from starlette.types import Receive, Send
    from starlette.types import Scope as AsgiScope

    from service.auth.tokens import TokenVerifier
    from service.deliveries.ledger import Ledger
    from service.realtime.fanout import Fanout
    from service.realtime.hub import Hub
    from service.settings import StreamSettings
    from service.web.limits import ConnectionLimits, RestLimits

log = get_logger(__name__)

PATH = "/v1/ws"
PATTERNS_MAX = 100
_BEARER = "bearer."


class Refused(Exception):
    """The handshake is refused."""

    def __init__(self, reason: CloseReason, subject: str | None = None) -> None:
        super().__init__(reason.reason)
        self.reason = reason
        self.subject = subject


@dataclass(frozen=True, slots=True)
class Handshake:
    """What a client asked for."""

    headers: Headers
    query: QueryParams
    subprotocols: tuple[str, ...]
    remote_addr: str | None

    @classmethod
    def of(cls, scope: AsgiScope) -> Handshake:
        """Read the ASGI scope."""
        client = scope.get("client")
        return cls(
            Headers(scope=scope),
            QueryParams(scope["query_string"]),
            tuple(scope["subprotocols"]),
            client[0] if client else None,
        )

    def token(self) -> str:
        """Return the bearer token: header, then subprotocol, then query.

        Raises:
            TokenMissing: there is none.

        """
        scheme, _, token = self.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and token.strip():
            return token.strip()
        for subprotocol in self.subprotocols:
            if subprotocol.startswith(_BEARER):
                return subprotocol.removeprefix(_BEARER)
        if in_query := self.query.get("token"):
            return in_query
        raise TokenMissing("Send a token: header, subprotocol or query.")

    def is_of_this_site(self) -> bool:
        """Say whether a page of this very host opened the stream; clients that are no browser send no Origin."""
        origin = self.headers.get("origin")
        return origin is None or origin.partition("://")[2].lower() == self.headers.get("host", "").lower()

    def header(self, name: str) -> str | None:
        """Return a header as the ledger keeps it."""
        return plain(self.headers.get(name))


@dataclass(frozen=True, slots=True)
class _Wanted:
    """The query of a handshake. ``after`` is the digits of a seq, ``latest``, or None for the admin's own cursor."""

    after: str | None
    filter: EventFilter


class StreamEndpoint:
    """The ASGI application behind ``/v1/ws``."""

    def __init__(  # noqa: PLR0913 - the parts that a stream touches
        self,
        *,
        hub: Hub,
        fanout: Fanout,
        ledger: Ledger,
        verifier: TokenVerifier,
        rest_limits: RestLimits,
        limits: ConnectionLimits,
        settings: StreamSettings,
    ) -> None:
        self._hub = hub
        self._fanout = fanout
        self._ledger = ledger
        self._verifier = verifier
        self._rest_limits = rest_limits
        self._limits = limits
        self._settings = settings
        self._timing = Timing(settings.heartbeat_seconds, settings.slow_consumer_seconds)

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Serve one connection, from the handshake to its end."""
        transport: StreamTransport = scope["extensions"][EXTENSION]["transport"]
        handshake = Handshake.of(scope)
        await receive()
        accept = {"type": "websocket.accept"}
        if frames.SUBPROTOCOL in handshake.subprotocols:
            accept["subprotocol"] = frames.SUBPROTOCOL
        await send(accept)
        try:
            principal, wanted = await self._admit(handshake)
            after = await self._start_of(principal, wanted)
            self._check_room(principal)  # others may have come in meanwhile
            self._check_token(principal)
        except Refused as refused:
            self._refuse(transport, handshake, refused)
            return
        connection, entry = self._connection(transport, handshake, principal, wanted, after)
        self._greet(connection, entry, after)

    # The handshake.

    async def _admit(self, handshake: Handshake) -> tuple[Principal, _Wanted]:
        origins = self._settings.allowed_origins
        if not handshake.is_of_this_site() and "*" not in origins and handshake.headers["origin"] not in origins:
            raise Refused(CloseReason.ORIGIN_FORBIDDEN)
        principal = await self._authenticate(handshake)
        subject = principal.subject
        if not principal.may(Scope.ALERTS_READ):
            raise Refused(CloseReason.SCOPE_MISSING, subject)
        wanted = _read_query(handshake.query, principal)
        self._check_room(principal)
        return principal, wanted

    def _check_room(self, principal: Principal) -> None:
        if (reason := self._hub.refuses(principal.subject)) is not None:
            raise Refused(reason, principal.subject)

    def _check_token(self, principal: Principal) -> None:
        try:
            self._verifier.check_not_revoked(principal)
        except TokenRevoked:
            raise Refused(CloseReason.TOKEN_REVOKED, principal.subject) from None

    async def _authenticate(self, handshake: Handshake) -> Principal:
        try:
            return await self._verifier.admit(handshake.token())
        except KeysUnavailable:
            raise Refused(CloseReason.KEYS_UNAVAILABLE) from None  # whoever sent it
        except RequestRefused as error:
            # Asked only now: one caller's bad tokens must not lock out the good ones behind the same address.
            if self._rest_limits.would_refuse("refused", handshake.remote_addr or "unknown"):
                raise Refused(CloseReason.RATE_LIMITED) from None
            raise Refused(CloseReason.named(error.code)) from None

    async def _start_of(self, principal: Principal, wanted: _Wanted) -> int:
        """Return the cursor to start from; it may lie beyond the head, and is then of another log."""
        if wanted.after == "latest":
            return self._hub.position
        try:
            if wanted.after is not None:
                cursor = int(wanted.after)
            else:
                cursor = await self._ledger.start_of(principal.subject, principal.topics, self._hub.position)
            await self._fanout.reach(cursor)  # it may be ahead of this node, and yet of this log
        except DatabaseUnavailable:
            raise Refused(CloseReason.OVERLOADED, principal.subject) from None
        return cursor if wanted.after is not None else min(cursor, self._hub.position)

    def _refuse(self, transport: StreamTransport, handshake: Handshake, refused: Refused) -> None:
        reason = refused.reason
        transport.close_stream(reason.code, reason.reason)
        HANDSHAKES_REFUSED.labels(reason.reason).inc()
        log.info("handshake refused", reason=reason.reason, client=handshake.remote_addr, subject=refused.subject)
        try:
            self._rest_limits.hit("refused", handshake.remote_addr or "unknown")
        except RateLimited:
            return  # counted above; a row each would let anybody fill the table
        self._ledger.rejected(
            Rejection(
                remote_addr=handshake.remote_addr,
                path=PATH,
                reason=reason.reason,
                subject=refused.subject,
                origin=handshake.header("origin"),
                user_agent=handshake.header("user-agent"),
            )
        )

    # The stream.

    def _connection(
        self,
        transport: StreamTransport,
        handshake: Handshake,
        principal: Principal,
        wanted: _Wanted,
        after: int,
    ) -> tuple[Connection, ConnectionEntry]:
        cursor = min(after, self._hub.position)
        entry = ConnectionEntry(
            node_id=self._ledger.node_id,
            recipient=principal.subject,
            transport="websocket",
            filter=wanted.filter,
            token_topics=principal.topics,
            remote_addr=handshake.remote_addr,
            user_agent=handshake.header("user-agent"),
            token_id=principal.token_id,
            token_expires_at=datetime.fromtimestamp(principal.expires_at, UTC),
            after_seq=cursor,
            sent_seq=cursor,
        )
        connection_id = str(entry.id)
        protocol = StreamProtocol(
            cursor,
            token_expires_at=principal.expires_at,
            timing=self._timing,
            now=time.monotonic(),
            may_send=lambda: self._limits.message(connection_id),
            may_stay=lambda: self._limits.strike(connection_id),
        )
        connection = Connection(
            transport,
            protocol,
            entry,
            principal,
            hub=self._hub,
            fanout=self._fanout,
            ledger=self._ledger,
            verifier=self._verifier,
            limits=self._limits,
        )
        return connection, entry

    def _greet(self, connection: Connection, entry: ConnectionEntry, after: int) -> None:
        head = self._hub.position
        welcome = frames.welcome(
            connection=str(entry.id),
            recipient=entry.recipient,
            head=head,
            after=entry.after_seq,
            heartbeat_seconds=self._settings.heartbeat_seconds,
            token_expires_at=entry.token_expires_at,
            limits={
                "message_bytes": self._settings.message_max_bytes,
                "messages": self._settings.message_limit,
            },
        )
        if after > head:
            welcome += frames.gap(head + 1, after, "reset")
        connection.open(welcome)


def _is_seq(value: str) -> bool:
    # Its length comes first: int() refuses thousands of digits with an error.
    return value.isascii() and value.isdecimal() and len(value) <= len(str(SEQ_MAX)) and int(value) <= SEQ_MAX


def _read_query(query: QueryParams, principal: Principal) -> _Wanted:
    """Read ``after``, ``topics`` and ``min_severity``.

    Raises:
        Refused: one of them cannot be read, or the token does not cover the topics.

    """
    bad = Refused(CloseReason.BAD_MESSAGE, principal.subject)
    severity: Any = query.get("min_severity", "info")
    if severity not in get_args(Severity):
        raise bad
    after = query.get("after")
    if after not in (None, "latest") and not _is_seq(after):
        raise bad
    patterns = [pattern for pattern in query.get("topics", "").split(",") if pattern]
    if len(patterns) > PATTERNS_MAX or not all(map(is_topic_pattern, patterns)):
        raise bad
    topics = intersect(principal.topics, patterns or EVERY_TOPIC)
    if not topics or not all(intersect(principal.topics, [pattern]) for pattern in patterns):
        raise Refused(CloseReason.TOPIC_FORBIDDEN, principal.subject)
    return _Wanted(after, EventFilter(topics, severity))
