"""Who is let in to the stream, and with what: the questions of every transport, and the connection that it opens.

A transport reads what its client asked for, and verifies the token in its own way. The rest is one: the query, the
topics, the cursor to start from, the limits, the entry in the ledger, the welcome, and the record of a refusal.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, get_args

from service.errors import CloseReason, DatabaseUnavailable, RateLimited, TokenRevoked
from service.events.filter import EventFilter
from service.ledger.records import ConnectionEntry, Rejection, plain
from service.logs import get_logger
from service.metrics import HANDSHAKES_REJECTED
from service.severity import Severity
from service.stream import frames
from service.stream.connection import Connection, Transport
from service.stream.protocol import SEQ_MAX, StreamProtocol, Timing
from service.topics import EVERY_TOPIC, intersect, is_topic_pattern

if TYPE_CHECKING:
    from collections.abc import Mapping

    from service.auth.principal import Principal
    from service.auth.tokens import TokenVerifier
    from service.http.rate_limits import ConnectionLimits, RestLimits
    from service.ledger.recorder import Ledger
    from service.settings import StreamSettings
    from service.stream.fanout import Fanout
    from service.stream.hub import Hub

log = get_logger(__name__)

PATTERNS_MAX = 100


class Refused(Exception):
    """The stream is refused."""

    def __init__(self, reason: CloseReason, subject: str | None = None) -> None:
        super().__init__(reason.reason)
        self.reason = reason
        self.subject = subject


@dataclass(frozen=True, slots=True)
class Client:
    """Who asks, as the ledger keeps it."""

    remote_addr: str | None
    user_agent: str | None
    origin: str | None

    @classmethod
    def of(cls, headers: Mapping[str, str], address: tuple[str, int] | None) -> Client:
        """Read what a client says of itself."""
        return cls(address[0] if address else None, plain(headers.get("user-agent")), plain(headers.get("origin")))


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for. ``after`` is the digits of a seq, ``latest``, or None for the admin's own cursor."""

    after: str | None
    filter: EventFilter

    @property
    def names_seq(self) -> bool:
        """Say whether the client itself named a seq: then it has what came before."""
        return self.after not in (None, "latest")

    @classmethod
    def of(cls, query: Mapping[str, str], principal: Principal) -> Wanted:
        """Read ``after``, ``topics`` and ``min_severity``.

        Raises:
            Refused: one of them cannot be read, or the token does not cover the topics.

        """
        bad = Refused(CloseReason.BAD_MESSAGE, principal.subject)
        severity: Any = query.get("min_severity", "info")
        if severity not in get_args(Severity):
            raise bad
        after = query.get("after")
        if after not in (None, "latest") and not is_seq(after):
            raise bad
        patterns = [pattern for pattern in query.get("topics", "").split(",") if pattern]
        if len(patterns) > PATTERNS_MAX or not all(map(is_topic_pattern, patterns)):
            raise bad
        topics = intersect(principal.topics, patterns or EVERY_TOPIC)
        if not topics or not all(intersect(principal.topics, [pattern]) for pattern in patterns):
            raise Refused(CloseReason.TOPIC_FORBIDDEN, principal.subject)
        return cls(after, EventFilter(topics, severity))


def is_seq(value: str) -> bool:
    """Say whether ``value`` is the digits of a seq."""
    # Its length comes first: int() refuses thousands of digits with an error.
    return value.isascii() and value.isdecimal() and len(value) <= len(str(SEQ_MAX)) and int(value) <= SEQ_MAX


class Admission:
    """Lets streams in to one node."""

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

    def check(self, principal: Principal) -> None:
        """Refuse a stream for which there is no room, or no longer a token.

        Raises:
            Refused: this admin, or this node, holds as many as it may; or the token was revoked.

        """
        try:
            self._verifier.check_not_revoked(principal)
        except TokenRevoked:
            raise Refused(CloseReason.TOKEN_REVOKED, principal.subject) from None
        if (reason := self._hub.refuses(principal.subject)) is not None:
            raise Refused(reason, principal.subject)

    async def start_of(self, principal: Principal, wanted: Wanted) -> int:
        """Return the cursor to start from; it may lie beyond the head, and is then of another log.

        Raises:
            Refused: PostgreSQL cannot be reached.

        """
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

    def connection(  # noqa: PLR0913 - what a connection is made of
        self,
        transport: Transport,
        kind: str,
        client: Client,
        principal: Principal,
        *,
        event_filter: EventFilter,
        after: int,
        timing: Timing | None = None,
    ) -> tuple[Connection, bytes]:
        """Return a connection that starts after ``after``, and the welcome to open it with."""
        cursor = min(after, self._hub.position)
        entry = ConnectionEntry(
            node_id=self._ledger.node_id,
            recipient=principal.subject,
            transport=kind,
            filter=event_filter,
            token_topics=principal.topics,
            remote_addr=client.remote_addr,
            user_agent=client.user_agent,
            jti=principal.jti,
            token_expires_at=datetime.fromtimestamp(principal.expires_at, UTC),
            after_seq=cursor,
            sent_seq=cursor,
        )
        connection_id = str(entry.id)
        protocol = StreamProtocol(
            cursor,
            token_expires_at=principal.expires_at,
            timing=timing or self._timing,
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
        return connection, self._welcome(entry, after)

    def _welcome(self, entry: ConnectionEntry, after: int) -> bytes:
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
        return welcome + frames.gap(head + 1, after, "reset") if after > head else welcome

    def refused(self, reason: str, path: str, client: Client, subject: str | None, *, counted: bool = False) -> None:
        """Record a refusal, unless this address has been refused too often: a row each would let it fill the table.

        ``counted`` says that it counts against the address already.
        """
        HANDSHAKES_REJECTED.labels(reason).inc()
        log.info("handshake refused", reason=reason, client=client.remote_addr, subject=subject)
        try:
            self._rest_limits.hit("refused", client.remote_addr or "unknown", cost=0 if counted else 1)
        except RateLimited:
            return
        self._ledger.rejected(Rejection(client.remote_addr, path, reason, subject, client.origin, client.user_agent))
