"""The state of a stream, without I/O: its cursor, its frames, when to ack, when to reconnect.

::

             address()          receive()              lost()
    (start) ──────────► connected ──────► event ──► … ──────► Reconnect: after a pause, maybe with a fresh token
                               processed()  │ the loop body has finished
                                     ack()  ▼ at most four times a second
                                                              └───► StreamRejected: reconnecting cannot cure it

The cursor is the last event that was returned, or further where the service says that nothing
between was for us. It has the seq and the mark of the event there (``4711-9f3a2c1d``), so that the
service can tell whether the log still holds what was returned. Where it does not, a ``reset`` says
from where on: the same seqs come again, with other events. So nothing that was processed before is
acknowledged on a connection that does not begin at the cursor: it would be the receipt of another
event.
"""

from __future__ import annotations

import json
import logging
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlencode, urlsplit, urlunsplit
from uuid import UUID

from service.client.errors import StreamRejected
from service.client.models import AlertEvent
from service.client.validation import checked_consumer, start_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from service.client.models import Severity

log = logging.getLogger("tocsin.client")

SUBPROTOCOL = "tocsin.v1"
ACK_SECONDS = 0.25
WELCOME_SECONDS = 15.0
SILENT_HEARTBEATS = 2.5
STABLE_SECONDS = 2.0
MESSAGE_MAX_BYTES = 4 * 1024 * 1024
SEEN_MAX = 100
"""Alerts that one ``seen`` message may name."""
SEEN_WAITING_MAX = 5_000
"""Alerts that may wait for a connection to be reported as seen; further ones are not reported."""

Policy = Literal["refresh", "stop", "retry", "retry_later"]
REFRESH = frozenset({"token_missing", "token_invalid", "token_expired", "token_revoked"})
STOP = frozenset(
    {
        "scope_missing",
        "topic_forbidden",
        "origin_forbidden",
        "consumer_limit",
        "kicked",
        "invalid_request",
        "bad_message",
    }
)
POLICY_VIOLATION = 1008
_CLIENT_FAULTS = frozenset({1003, 1007, 1009})
_BACKOFF = {"retry": (0.5, 30.0), "refresh": (0.5, 30.0), "retry_later": (15.0, 120.0)}
"""The first and the longest back-off of each policy, in seconds."""


@dataclass(frozen=True, slots=True)
class Connected:
    """The stream is open and continues after ``after``; the log stands at ``head``."""

    after: int
    head: int


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The connection was lost; the next attempt follows in ``retry_seconds``."""

    reason: str
    retry_seconds: float


@dataclass(frozen=True, slots=True)
class Gap:
    """The events ``first`` to ``last`` cannot be had: they were ``purged`` from the log."""

    first: int
    last: int
    reason: str


@dataclass(frozen=True, slots=True)
class Reset:
    """The log lost events that were returned: a failover lost commits, or a backup was restored.

    Those after seq ``after`` are void, and other events come with the same numbers; None: all of
    them may be void, and the stream goes on at the head of the log. It continues after ``cursor``.
    """

    after: int | None
    cursor: str


Notice = Connected | Disconnected | Gap | Reset


@dataclass(frozen=True, slots=True)
class Reconnect:
    """When to connect again. With ``fresh_token`` the token that was refused is not sent again."""

    pause_seconds: float
    fresh_token: bool


def seq_of(cursor: str | None) -> int:
    """Return the seq of a cursor; 0: there is none."""
    return int(cursor.partition("-")[0]) if cursor else 0


def _is_marked(cursor: str, bare: str) -> bool:
    """Say whether ``cursor`` is at the seq ``bare``, and has the mark that it lacks."""
    return cursor.startswith(f"{bare}-")


def close_policy(code: int | None, reason: str) -> Policy:
    """Return what a client does when its stream was closed, as the ``CloseReason`` of the service says."""
    if code in _CLIENT_FAULTS:
        return "stop"  # the same message would be refused again
    if code != POLICY_VIOLATION:
        return "retry"
    if reason in REFRESH:
        return "refresh"
    return "stop" if reason in STOP else "retry_later"


class StreamState:
    """The state of one stream over all its connections. ``cursor`` is where it would resume."""

    def __init__(  # noqa: PLR0913 - the options of a stream
        self,
        after: int | str | None,
        topics: Sequence[str],
        min_severity: Severity | None,
        on_notice: Callable[[Notice], None] | None,
        clock: Callable[[], float] = time.monotonic,
        *,
        consumer: str | None = None,
    ) -> None:
        self._after = start_of(after)
        self.cursor: str | None = None if self._after == "latest" else self._after
        self.silence_seconds = WELCOME_SECONDS
        self.connected_once = False
        self._topics = topics
        self._min_severity = min_severity
        self._consumer = checked_consumer(consumer)
        self._on_notice = on_notice or _log
        self._clock = clock
        self._is_welcomed = False
        self._returned = self._processed = self._acked = 0
        self._ack_due: float | None = None
        self._seen: dict[str, None] = {}
        self._reported: dict[str, None] = {}
        self._live_since: float | None = None
        self._failures = 0

    def address(self, base: str) -> str:
        """Return the address of the stream from the cursor on, at the service at ``base``."""
        query: dict[str, str | Sequence[str]] = {}
        if start := self.cursor or self._after:
            query["after"] = start
        if self._topics:
            query["topic"] = self._topics
        if self._min_severity:
            query["min_severity"] = self._min_severity
        if self._consumer is not None:
            query["consumer"] = self._consumer
        parts = urlsplit(base)
        scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
        return urlunsplit((scheme, parts.netloc, f"{parts.path.rstrip('/')}/v1/ws", urlencode(query, doseq=True), ""))

    def opened(self) -> None:
        """Start on a new connection. Nothing is acknowledged before its welcome; what was seen is reported again."""
        self.silence_seconds = WELCOME_SECONDS
        self._is_welcomed = False
        self._ack_due = None
        self._seen = self._reported | self._seen
        self._reported = {}
        self._live_since = None

    def receive(self, message: str | bytes) -> AlertEvent | None:
        """Process a message; return its event, if it is one that was not returned before.

        Raises:
            ValueError: it is no frame.

        """
        try:
            frame = json.loads(message)
        except RecursionError:
            raise ValueError("a frame is nested too deeply") from None
        if not isinstance(frame, dict):
            raise ValueError("a frame must be an object")  # noqa: TRY004 - the same as unreadable JSON
        if not self.connected_once and frame.get("type") != "welcome":
            raise ValueError("the first frame must be a welcome")
        try:
            return self._frame(frame)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"a {frame.get('type')} frame lacks {error}") from error

    def _frame(self, frame: dict[str, Any]) -> AlertEvent | None:
        match frame.get("type"):
            case "welcome":
                self._welcomed(frame)
            case "event" if frame["seq"] > seq_of(self.cursor):
                event = AlertEvent.of(frame)
                self.cursor, self._returned = event.cursor, event.seq
                return event
            case "caught_up":
                self._advance(frame["cursor"])
                self._live_since = self._live_since or self._clock()
            case "heartbeat":
                self._advance(frame["cursor"])
                self._reported = {}
            case "gap":
                self._advance(str(frame["to"]))
                self._on_notice(Gap(frame["from"], frame["to"], frame["reason"]))
            case "reset":
                self.cursor = frame["cursor"]
                self._forget_events()
                self._on_notice(Reset(frame["after"], frame["cursor"]))
            case "error":
                log.warning("the service refused a message: %s", frame["code"])
        return None  # unknown types are those of a newer service, and are ignored

    def _welcomed(self, frame: dict[str, Any]) -> None:
        self.silence_seconds = SILENT_HEARTBEATS * frame["heartbeat_seconds"]
        self.connected_once = self._is_welcomed = True
        if frame["cursor"] == self.cursor:
            self._acked = 0  # the last ack may have been lost with its connection, so it is sent again
        else:
            self._forget_events()
        if self.cursor is None or _is_marked(frame["cursor"], self.cursor):
            self.cursor = frame["cursor"]  # a further one is not taken before the gap or the reset that explains it
        self._on_notice(Connected(frame["after"], frame["head"]))
        self._schedule_ack()

    def _forget_events(self) -> None:
        """Acknowledge nothing that was returned so far: the log may not hold it any more."""
        self._returned = self._processed = self._acked = 0
        self._ack_due = None

    def _advance(self, cursor: str) -> None:
        """Move the cursor forward; at the same seq, it may gain the mark that a bare seq lacks."""
        if self.cursor is None or seq_of(cursor) > seq_of(self.cursor) or _is_marked(cursor, self.cursor):
            self.cursor = cursor

    def processed(self) -> None:
        """Note that the event that was returned last has been processed."""
        self._processed = self._returned
        self._schedule_ack()

    def _schedule_ack(self) -> None:
        if self._is_welcomed and self._processed > self._acked and self._ack_due is None:
            self._ack_due = self._clock() + (ACK_SECONDS if self._acked else 0)

    def ack_in(self) -> float | None:
        """Return in how many seconds an ack is due; None: there is nothing to acknowledge."""
        return None if self._ack_due is None else max(0.0, self._ack_due - self._clock())

    def ack(self) -> str | None:
        """Return the ack of all processed events, unless it was sent already."""
        self._ack_due = None
        if not self._is_welcomed or self._processed <= self._acked:
            return None
        self._acked = self._processed
        return json.dumps({"type": "ack", "seq": self._acked})

    def saw(self, alerts: Iterable[str]) -> None:
        """Note alerts that a person saw, to be reported on this connection or the next.

        Raises:
            ValueError: one is no id of an alert.

        """
        for alert_id in [str(UUID(alert_id)) for alert_id in alerts]:
            if len(self._seen) < SEEN_WAITING_MAX:
                self._seen[alert_id] = None

    def take_seen(self) -> list[str]:
        """Return the alerts to report as seen now, as many as one message may name.

        Until the next heartbeat they may be lost with the connection, and are then reported again.
        """
        taken = list(self._seen)[:SEEN_MAX]
        for alert_id in taken:
            self._reported[alert_id] = self._seen.pop(alert_id)
        return taken

    def lost(self, code: int | None, reason: str) -> Reconnect:
        """Return when to reconnect; ``code`` is that of a close frame, or None.

        Raises:
            StreamRejected: reconnecting cannot cure it.

        """
        policy = close_policy(code, reason.partition(":")[0])
        if policy == "stop":
            raise StreamRejected(reason or "message_too_big", code)
        was_stable = self._live_since is not None and self._clock() - self._live_since > STABLE_SECONDS
        self._failures = 1 if was_stable else self._failures + 1
        self._live_since = None
        base, cap = _BACKOFF[policy]
        pause = random.random() * min(cap, base * 2.0 ** min(self._failures, 30))  # noqa: S311 - jitter
        if policy == "refresh" and self._failures == 1:
            pause = 0.0  # the service is well; only when a fresh token is refused too, back off
        self._on_notice(Disconnected(reason or "connection_lost", pause))
        return Reconnect(pause, fresh_token=policy == "refresh")


def _log(notice: Notice) -> None:
    log.log(logging.DEBUG if isinstance(notice, Connected) else logging.WARNING, "%s", notice)
