"""Admission of a stream: its query, the cursor to start from, its connection, or its rejection.

A transport verifies the token in its own way and asks for the rest here. Every refusal is an error
of the tree (``errors.py``). The room for a stream is kept by ``Hub.reserve`` while it is being
opened.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, get_args

from service.errors import InvalidRequest, RateLimited, TopicForbidden
from service.events.filter import EventFilter
from service.ledger.records import ConnectionEntry, Rejection, printable
from service.logs import get_logger
from service.metrics import HANDSHAKES_REJECTED
from service.severity import Severity
from service.stream import frames
from service.stream.connection import Connection
from service.stream.frames import FrameBatch
from service.stream.protocol import SEQ_MAX, StreamProtocol, Timing
from service.topics import EVERY_TOPIC, intersect, is_topic_pattern

if TYPE_CHECKING:
    from collections.abc import Mapping

    from service.auth.principal import Principal
    from service.auth.tokens import TokenVerifier
    from service.http.rate_limits import ConnectionLimits, RestLimits
    from service.ledger.recorder import LedgerRecorder
    from service.settings import StreamSettings
    from service.stream.fanout import Fanout
    from service.stream.hub import Hub
    from service.stream.transports.interface import StreamTransport

log = get_logger(__name__)

PATTERNS_MAX = 100


@dataclass(frozen=True, slots=True)
class ClientInfo:
    """The client of a stream, as the ledger records it."""

    remote_addr: str | None
    user_agent: str | None
    origin: str | None

    @classmethod
    def of(cls, headers: Mapping[str, str], address: tuple[str, int] | None) -> ClientInfo:
        """Read the headers of a request, and the address that it came from."""
        return cls(
            address[0] if address else None, printable(headers.get("user-agent")), printable(headers.get("origin"))
        )


@dataclass(frozen=True, slots=True)
class StreamRequest:
    """The query of a stream.

    ``after`` is the digits of a seq, ``latest``, or None for the recipient's own cursor.
    """

    after: str | None
    filter: EventFilter

    @property
    def names_seq(self) -> bool:
        """Whether the client itself named a seq, and so has received what came before."""
        return self.after not in (None, "latest")

    @classmethod
    def of(cls, query: Mapping[str, str], principal: Principal) -> StreamRequest:
        """Read ``after``, ``topics`` and ``min_severity``.

        Raises:
            InvalidRequest: one of them cannot be read.
            TopicForbidden: the token does not cover the topics.

        """
        severity: Any = query.get("min_severity", "info")
        if severity not in get_args(Severity):
            raise _invalid_query()
        after = query.get("after")
        if after not in (None, "latest") and not is_seq(after):
            raise _invalid_query()
        patterns = [pattern for pattern in query.get("topics", "").split(",") if pattern]
        if len(patterns) > PATTERNS_MAX or not all(map(is_topic_pattern, patterns)):
            raise _invalid_query()
        topics = intersect(principal.topics, patterns or EVERY_TOPIC)
        if not topics or not all(intersect(principal.topics, [pattern]) for pattern in patterns):
            raise TopicForbidden("The token does not cover these topics.")
        return cls(after, EventFilter(topics, severity))


def is_seq(value: str) -> bool:
    """Return whether ``value`` is the digits of a seq."""
    # The length comes first: int() raises an error on thousands of digits.
    return value.isascii() and value.isdecimal() and len(value) <= len(str(SEQ_MAX)) and int(value) <= SEQ_MAX


def _invalid_query() -> InvalidRequest:
    fault = {"pointer": "/query", "detail": "after must be a seq or latest, topics a list of patterns"}
    return InvalidRequest("The query cannot be read.", errors=[fault])


class Admission:
    """Admits streams to one node."""

    def __init__(  # noqa: PLR0913 - the parts of the node that a stream needs
        self,
        *,
        hub: Hub,
        fanout: Fanout,
        ledger: LedgerRecorder,
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

    async def starting_cursor(self, principal: Principal, request: StreamRequest) -> int:
        """Return the cursor to start from. One beyond the head of the log is of another log.

        Raises:
            DatabaseUnavailable: PostgreSQL cannot be reached.

        """
        if request.after == "latest":
            return self._hub.position
        if request.after is not None:
            cursor = int(request.after)
        else:
            cursor = await self._ledger.resume_seq(principal.subject, principal.topics, self._ledger.position)
        await self._fanout.wait_until(cursor)  # it may be ahead of this node, and still be of this log
        return cursor if request.after is not None else min(cursor, self._hub.position)

    def connection(  # noqa: PLR0913 - what a connection is made of
        self,
        transport: StreamTransport,
        kind: str,
        client: ClientInfo,
        principal: Principal,
        *,
        event_filter: EventFilter,
        after: int,
        timing: Timing | None = None,
    ) -> tuple[Connection, FrameBatch]:
        """Return a connection that starts after ``after``, and the welcome to open it with.

        Raises:
            TokenRevoked: the token was revoked while the stream was being opened.

        """
        self._verifier.check_not_revoked(principal)
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
            may_send=lambda: self._limits.count_message(connection_id),
            may_stay=lambda: self._limits.count_violation(connection_id),
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

    def _welcome(self, entry: ConnectionEntry, after: int) -> FrameBatch:
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
            return FrameBatch(welcome, frames.gap(head + 1, after, "reset"))
        return FrameBatch(welcome)

    def record_rejection(
        self, reason: str, path: str, client: ClientInfo, subject: str | None, *, counted: bool = False
    ) -> None:
        """Record a rejected handshake.

        One address gets no more rows than its limit, so it cannot fill the table.

        ``counted``: the rejection counts against the limit of the address already.
        """
        HANDSHAKES_REJECTED.labels(reason).inc()
        log.info("handshake rejected", reason=reason, client=client.remote_addr, subject=subject)
        try:
            self._rest_limits.hit("auth_failure", client.remote_addr or "unknown", cost=0 if counted else 1)
        except RateLimited:
            return
        self._ledger.record_rejection(
            Rejection(client.remote_addr, path, reason, subject, client.origin, client.user_agent)
        )
