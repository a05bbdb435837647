"""The state of a stream, without I/O: its cursor, its frames, when to ack, when to reconnect.

::

             address()          receive()              lost()
    (start) ──────────► connected ──────► event ──► … ──────► Reconnect: after a pause, maybe with a fresh token
                               processed()  │ the loop body has finished
                                     ack()  ▼ at most four times a second
                                                              └───► StreamRejected: reconnecting cannot cure it

The cursor is the last event that was returned, or further where the service says that nothing
between was for us.
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
STOP = frozenset({"scope_missing", "topic_forbidden", "origin_forbidden", "kicked", "bad_message"})
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
    """The events ``first`` to ``last`` are gone: ``purged``, or of another log (``reset``)."""

    first: int
    last: int
    reason: str


Notice = Connected | Disconnected | Gap


@dataclass(frozen=True, slots=True)
class Reconnect:
    """When to connect again. With ``fresh_token`` the token that was refused is not sent again."""

    pause_seconds: float
    fresh_token: bool


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

    def __init__(
        self,
        after: int | Literal["latest"] | None,
        topics: Sequence[str],
        min_severity: Severity | None,
        on_notice: Callable[[Notice], None] | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.cursor: int | None = after if isinstance(after, int) else None
        self.silence_seconds = WELCOME_SECONDS
        self.connected_once = False
        self._after = after
        self._topics = topics
        self._min_severity = min_severity
        self._on_notice = on_notice or _log
        self._clock = clock
        self._start = 0
        self._returned = self._processed = self._acked = 0
        self._ack_due: float | None = None
        self._seen: dict[str, None] = {}
        self._reported: dict[str, None] = {}
        self._live_since: float | None = None
        self._failures = 0

    def address(self, base: str) -> str:
        """Return the address of the stream from the cursor on, at the service at ``base``."""
        query: dict[str, str] = {}
        if (start := self.cursor if self.cursor is not None else self._after) is not None:
            query["after"] = str(start)
        if self._topics:
            query["topics"] = ",".join(self._topics)
        if self._min_severity:
            query["min_severity"] = self._min_severity
        parts = urlsplit(base)
        scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
        return urlunsplit((scheme, parts.netloc, f"{parts.path.rstrip('/')}/v1/ws", urlencode(query), ""))

    def opened(self) -> None:
        """Start on a new connection; what was sent last is sent again, because it may be lost."""
        self.silence_seconds = WELCOME_SECONDS
        self._acked = 0
        self._seen = self._reported | self._seen
        self._reported = {}
        self._live_since = None

    def receive(self, message: str | bytes) -> AlertEvent | None:
        """Process a message; return its event, if it is one that was not returned before.

        Raises:
            ValueError: it is no frame.

        """
        frame = json.loads(message)
        if not isinstance(frame, dict):
            raise ValueError("a frame must be an object")  # noqa: TRY004 - the same as unreadable JSON
        try:
            return self._frame(frame)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"a {frame.get('type')} frame lacks {error}") from error

    def _frame(self, frame: dict[str, Any]) -> AlertEvent | None:
        match frame.get("type"):
            case "welcome":
                self._welcomed(frame)
            case "event" if frame["seq"] > (self.cursor or 0):
                event = AlertEvent.of(frame)
                self.cursor = self._returned = event.seq
                return event
            case "caught_up":
                self._advance(frame["seq"])
                self._live_since = self._live_since or self._clock()
            case "heartbeat":
                self._advance(frame["seq"])
                self._reported = {}
            case "gap":
                self._gap(Gap(frame["from"], frame["to"], frame["reason"]))
            case "error":
                log.warning("the service refused a message: %s", frame["code"])
        return None  # unknown types are those of a newer service, and are ignored

    def _welcomed(self, frame: dict[str, Any]) -> None:
        self.silence_seconds = SILENT_HEARTBEATS * frame["heartbeat_seconds"]
        self.connected_once = True
        self._start = min(frame["after"], frame["head"])
        if self.cursor is None:
            self.cursor = frame["after"]
        self._on_notice(Connected(self.cursor, frame["head"]))
        self._schedule_ack()

    def _gap(self, gap: Gap) -> None:
        if gap.reason == "reset":
            # The cursor is ahead of this log: another one, or a restored one, in which our numbers mean nothing.
            self.cursor = self._start
            self._returned = self._processed = self._acked = 0
        else:
            self._advance(gap.last)
        self._on_notice(gap)

    def _advance(self, seq: int) -> None:
        self.cursor = max(self.cursor or 0, seq)

    def processed(self) -> None:
        """Note that the event that was returned last has been processed."""
        self._processed = self._returned
        self._schedule_ack()

    def _schedule_ack(self) -> None:
        if self._processed > self._acked and self._ack_due is None:
            self._ack_due = self._clock() + (ACK_SECONDS if self._acked else 0)

    def ack_in(self) -> float | None:
        """Return in how many seconds an ack is due; None: there is nothing to acknowledge."""
        return None if self._ack_due is None else max(0.0, self._ack_due - self._clock())

    def ack(self) -> str | None:
        """Return the ack of all processed events, unless it was sent already."""
        self._ack_due = None
        if self._processed <= self._acked:
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
        policy = close_policy(code, reason)
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
