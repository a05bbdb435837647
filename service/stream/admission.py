"""Admission of a stream: its query, the cursor to start from, its connection, or its rejection.

A transport verifies the token in its own way and asks for the rest here. Every refusal is an error
of the tree (``errors.py``). The room for a stream is kept by ``Hub.reserve`` while it is being
opened.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from service.alerts.fields import topic_patterns
from service.errors import RateLimited, TopicForbidden
from service.events.filter import EventFilter
from service.events.position import Cursor, HistoryChanged
from service.http.query import invalid_parameter
from service.ledger.records import ConnectionEntry, Rejection, printable
from service.ledger.resume_points import CONSUMER_MAX, CONSUMER_PATTERN, ResumeKey
from service.logs import get_logger
from service.metrics import HANDSHAKES_REJECTED
from service.settings import EVENT_MAX_BYTES
from service.severity import CHOICES, SEVERITIES
from service.stream import frames
from service.stream.connection import Connection
from service.stream.cursor_check import Start
from service.stream.frames import FrameBatch
from service.stream.protocol import StreamProtocol, Timing
from service.topics import EVERY_TOPIC, disjoint, intersect

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from starlette.requests import HTTPConnection

    from service.auth.principal import Principal
    from service.auth.tokens import TokenVerifier
    from service.http.rate_limits import ConnectionLimits, RestLimits
    from service.ledger.recorder import LedgerRecorder
    from service.ledger.resume_points import ResumePoint
    from service.settings import StreamSettings
    from service.stream.cursor_check import CursorCheck
    from service.stream.fanout import Fanout
    from service.stream.hub import Hub
    from service.stream.transports.interface import StreamTransport

log = get_logger(__name__)

_CONSUMER = re.compile(CONSUMER_PATTERN)


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

    @classmethod
    def of_request(cls, request: HTTPConnection) -> ClientInfo:
        """Read a request."""
        return cls.of(request.headers, (request.client.host, request.client.port) if request.client else None)


@dataclass(frozen=True, slots=True)
class StreamRequest:
    """The query of a stream.

    ``after`` is None for the resume point of ``consumer``, or (where that is empty) of the filter.
    """

    after: Cursor | Literal["latest"] | None
    filter: EventFilter
    consumer: str = ""

    @classmethod
    def of(
        cls,
        principal: Principal,
        *,
        after: str | None = None,
        topics: Sequence[str] = (),
        min_severity: str | None = None,
        consumer: str | None = None,
    ) -> StreamRequest:
        """Read the parameters; each of ``topics`` is one pattern, or several with commas between.

        Raises:
            InvalidRequest: one of them cannot be read; it says which, and what is allowed.
            TopicForbidden: the token does not cover the topics.

        """
        severity: Any = min_severity or "info"
        if severity not in SEVERITIES or min_severity == "":
            raise invalid_parameter("min_severity", f"must be {CHOICES}")
        if consumer is not None and (len(consumer) > CONSUMER_MAX or _CONSUMER.fullmatch(consumer) is None):
            raise invalid_parameter("consumer", f"must be 1 to {CONSUMER_MAX} of a-z, A-Z, 0-9, dot, _ and -")
        patterns = topic_patterns(topics)
        covered = intersect(principal.topics, patterns or EVERY_TOPIC)
        if not covered or disjoint(principal.topics, patterns):
            raise TopicForbidden("The token does not cover these topics.")
        return cls(_read_after(after), EventFilter(covered, severity), consumer or "")


def _read_after(text: str | None) -> Cursor | Literal["latest"] | None:
    if text is None:
        return None
    if text == "latest":
        return "latest"
    if (cursor := Cursor.parse(text)) is None:
        raise invalid_parameter("after", "must be a cursor such as 4711-9f3a2c1d, a seq, or latest")
    return cursor


class Admission:
    """Admits streams to one node."""

    def __init__(  # noqa: PLR0913 - the parts of the node that a stream needs
        self,
        *,
        hub: Hub,
        fanout: Fanout,
        cursor_check: CursorCheck,
        ledger: LedgerRecorder,
        verifier: TokenVerifier,
        rest_limits: RestLimits,
        limits: ConnectionLimits,
        settings: StreamSettings,
        event_max_bytes: int = EVENT_MAX_BYTES,
    ) -> None:
        self._hub = hub
        self._fanout = fanout
        self._cursor_check = cursor_check
        self._ledger = ledger
        self._verifier = verifier
        self._rest_limits = rest_limits
        self._limits = limits
        self._settings = settings
        self._event_max_bytes = event_max_bytes
        self._timing = Timing(settings.heartbeat_seconds, settings.slow_consumer_seconds)

    async def start_of(self, principal: Principal, request: StreamRequest, *, polls: bool = False) -> Start:
        """Return where a stream starts.

        One that ``polls`` without a cursor acknowledges the last answer to such a poll.

        Raises:
            ConsumerLimit: the recipient has too many resume points.
            DatabaseUnavailable: PostgreSQL cannot be reached.

        """
        if request.after == "latest":
            return Start(self._hub.position)
        if request.after is not None:
            return await self._cursor_check.start_after(request.after, principal.subject)
        key = ResumeKey(principal.subject, request.consumer, request.filter)
        point = await self._resume_point(key, principal)
        if polls:
            point = await self._acknowledged(point, key, principal)
        start = await self._cursor_check.start_after(point.cursor, principal.subject)
        if start.reset is None or not point.event_id:
            return Start(start.position)
        await self._ledger.move_resume_point(key, point, start.position)
        return Start(start.position, reset=start.reset)

    async def _acknowledged(self, point: ResumePoint, key: ResumeKey, principal: Principal) -> ResumePoint:
        """Return a point once the last answer to a poll without a cursor is acknowledged, unless that was lost."""
        answered_on = point.polled_on
        if answered_on is None or not point.is_polled:
            return point
        if point.polled_elsewhere:
            if not await self._ledger.is_written(answered_on, principal.subject):
                return point
            point = await self._resume_point(key, principal)
            if point.polled_on != answered_on or not point.is_polled:
                return point
        await self._ledger.record_late_receipt(answered_on, principal, point.polled_seq or 0)
        return await self._resume_point(key, principal)

    async def _resume_point(self, key: ResumeKey, principal: Principal) -> ResumePoint:
        while True:
            head = self._hub.position
            try:
                return await self._ledger.resume_point(key, principal.topics, head)
            except HistoryChanged:
                await self._fanout.leave(head)

    def check_pace(self, principal: Principal) -> None:
        """Check that a stream may be opened now; ``connection`` counts it.

        Raises:
            RateLimited: the subject has opened too many.

        """
        self._rest_limits.require("connect", principal.subject)

    def check_not_revoked(self, principal: Principal) -> None:
        """Check again the token of a stream that was being opened or resumed.

        Raises:
            TokenRevoked: it was revoked meanwhile.

        """
        self._verifier.check_not_revoked(principal)

    def connection(  # noqa: PLR0913 - what a connection is made of
        self,
        transport: StreamTransport,
        kind: str,
        client: ClientInfo,
        principal: Principal,
        *,
        request: StreamRequest,
        start: Start,
        timing: Timing | None = None,
    ) -> tuple[Connection, FrameBatch]:
        """Return a connection that starts at ``start``, and the welcome to open it with.

        Raises:
            TokenRevoked: the token was revoked while the stream was being opened.
            RateLimited: the subject has opened too many streams meanwhile.

        """
        self.check_not_revoked(principal)
        self._rest_limits.hit("connect", principal.subject)
        entry = ConnectionEntry(
            node_id=self._ledger.node_id,
            recipient=principal.subject,
            transport=kind,
            filter=request.filter,
            consumer=request.consumer,
            token_topics=principal.topics,
            remote_addr=client.remote_addr,
            user_agent=client.user_agent,
            jti=principal.jti,
            token_expires_at=datetime.fromtimestamp(principal.expires_at, UTC),
            after_seq=start.position.seq,
            has_cursor=isinstance(request.after, Cursor),
            sent_seq=start.position.seq,
        )
        connection_id = str(entry.id)
        protocol = StreamProtocol(
            start.position,
            token_expires_at=principal.expires_at,
            timing=timing or self._timing,
            now=time.monotonic(),
            may_send=lambda: self._limits.count_message(connection_id),
            retry_after=lambda: self._limits.retry_after(connection_id),
            may_stay=lambda: self._limits.count_violation(connection_id),
            taken=transport.taken_bytes,
        )
        connection = Connection(
            transport,
            protocol,
            entry,
            principal,
            hub=self._hub,
            replays=self._fanout.replays,
            ledger=self._ledger,
            verifier=self._verifier,
            limits=self._limits,
        )
        return connection, self._welcome(entry, start)

    def _welcome(self, entry: ConnectionEntry, start: Start) -> FrameBatch:
        welcome = frames.welcome(
            connection=str(entry.id),
            recipient=entry.recipient,
            head=self._hub.position.seq,
            after=start.position,
            heartbeat_seconds=self._settings.heartbeat_seconds,
            token_expires_at=entry.token_expires_at,
            event_bytes=self._event_max_bytes,
            limits={
                "message_bytes": self._settings.message_max_bytes,
                "messages": self._settings.message_limit,
            },
        )
        return FrameBatch(welcome) if start.reset is None else FrameBatch(welcome, start.reset)

    def record_rejection(self, reason: str, path: str, client: ClientInfo, subject: str | None) -> bool:
        """Record a rejected handshake, in the ledger and in the service's log.

        Each is counted, but one address gets no more rows and lines than its limit, so it fills
        neither. Returns whether it was within the limit.
        """
        HANDSHAKES_REJECTED.labels(reason).inc()
        self._ledger.count_rejection(reason)
        try:
            self._rest_limits.hit("rejection", client.remote_addr or "unknown")
        except RateLimited:
            return False
        log.info("handshake rejected", reason=reason, client=client.remote_addr, subject=subject)
        self._ledger.record_rejection(
            Rejection(client.remote_addr, path, reason, subject, client.origin, client.user_agent)
        )
        return True
