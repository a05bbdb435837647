"""How a stream is followed, without any I/O: what to ask for, what a frame means, when to ack, when to come back.

::

             address()          receive()             lost()
    (start) ──────────► connected ──────► event ──► … ──────► Comeback: pause, maybe a fresh token, and again
                                   taken()  │ the loop's body has finished with it
                                   ack()    ▼ at most four times a second
                                                              └───► StreamRefused: coming back would not mend it

The cursor is the last event that was given out, or further where the service says that nothing between was for us.
"""

from __future__ import annotations

import json
import logging
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlencode, urlsplit, urlunsplit

from service.client.errors import StreamRefused
from service.client.models import Event

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from service.client.models import Severity

log = logging.getLogger("tocsin.client")

SUBPROTOCOL = "tocsin.v1"
ACK_SECONDS = 0.25
WELCOME_SECONDS = 15.0
SILENT_HEARTBEATS = 2.5
STABLE_SECONDS = 2.0
MESSAGE_MAX_BYTES = 4 * 1024 * 1024

Policy = Literal["refresh", "stop", "retry", "retry_later"]
REFRESH = frozenset({"token_missing", "token_invalid", "token_expired", "token_revoked"})
STOP = frozenset({"scope_missing", "topic_forbidden", "origin_forbidden", "kicked", "bad_message"})
_REFUSED = 1008
_OUR_FAULT = frozenset({1003, 1007, 1009})
_BACKOFF = {"retry": (0.5, 30.0), "refresh": (0.5, 30.0), "retry_later": (15.0, 120.0)}


@dataclass(frozen=True, slots=True)
class Connected:
    """The stream is open, and goes on after ``after``; the log stands at ``head``."""

    after: int
    head: int


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The connection was lost; the next attempt follows in ``retry_seconds``."""

    reason: str
    retry_seconds: float


@dataclass(frozen=True, slots=True)
class Gap:
    """The events ``first`` to ``last`` cannot be had: ``purged`` from the log, or (``reset``) it is another log."""

    first: int
    last: int
    reason: str


Notice = Connected | Disconnected | Gap


@dataclass(frozen=True, slots=True)
class Comeback:
    """When to connect again, and with which token: where ``fresh_token``, not with the one that was refused."""

    pause_seconds: float
    fresh_token: bool


def close_policy(code: int | None, reason: str) -> Policy:
    """Say what a client does when its stream was closed: the table of ``docs/reference.md``."""
    if code in _OUR_FAULT:
        return "stop"  # the same message would be refused again
    if code != _REFUSED:
        return "retry"
    if reason in REFRESH:
        return "refresh"
    return "stop" if reason in STOP else "retry_later"


class StreamState:
    """One stream, over as many connections as it takes. ``cursor`` is where it would resume."""

    def __init__(
        self,
        after: int | Literal["latest"] | None,
        topics: Sequence[str],
        min_severity: Severity | None,
        on_notice: Callable[[Notice], None] | None,
    ) -> None:
        self.cursor: int | None = after if isinstance(after, int) else None
        self.silence_seconds = WELCOME_SECONDS
        self.connected_once = False
        self._after = after
        self._topics = topics
        self._min_severity = min_severity
        self._on_notice = on_notice or _log
        self._start = 0
        self._given = self._taken = self._acked = 0
        self._ack_due: float | None = None
        self._live_since: float | None = None
        self._failures = 0

    def address(self, base: str) -> str:
        """Return the address of the stream from the cursor on; ``base`` is the service's, with or without a path."""
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
        """Note that a new connection is there. The last ack may have died with its connection: it is sent again."""
        self.silence_seconds = WELCOME_SECONDS
        self._acked = 0
        self._live_since = None

    def receive(self, text: str) -> Event | None:
        """Take a message; return the event that it is, if it is one, and not one that was given out before.

        Raises:
            ValueError: it is no frame.

        """
        frame = json.loads(text)
        if not isinstance(frame, dict):
            raise ValueError("a frame must be an object")  # noqa: TRY004 - the same as unreadable JSON
        try:
            return self._frame(frame)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"a {frame.get('type')} frame lacks {error}") from error

    def _frame(self, frame: dict[str, Any]) -> Event | None:
        match frame.get("type"):
            case "welcome":
                self._welcomed(frame)
            case "event" if frame["seq"] > (self.cursor or 0):
                event = Event.of(frame)
                self.cursor = self._given = event.seq
                return event
            case "caught_up":
                self._advance(frame["seq"])
                self._live_since = self._live_since or time.monotonic()
            case "heartbeat":
                self._advance(frame["seq"])
            case "gap":
                self._gap(Gap(frame["from"], frame["to"], frame["reason"]))
            case "error":
                log.warning("the service refused a message: %s", frame["code"])
        return None  # a type that is not listed is a newer service's, and not for us

    def _welcomed(self, frame: dict[str, Any]) -> None:
        self.silence_seconds = SILENT_HEARTBEATS * frame["heartbeat_seconds"]
        self.connected_once = True
        self._start = min(frame["after"], frame["head"])
        if self.cursor is None:
            self.cursor = frame["after"]
        self._on_notice(Connected(self.cursor, frame["head"]))
        self._due_soon()

    def _gap(self, gap: Gap) -> None:
        if gap.reason == "reset":
            # The cursor is ahead of this log: it is another one, or a restored one, where our numbers mean nothing.
            self.cursor = self._start
            self._given = self._taken = self._acked = 0
        else:
            self._advance(gap.last)
        self._on_notice(gap)

    def _advance(self, seq: int) -> None:
        self.cursor = max(self.cursor or 0, seq)

    def taken(self) -> None:
        """Note that the event that was given out last was dealt with."""
        self._taken = self._given
        self._due_soon()

    def _due_soon(self) -> None:
        if self._taken > self._acked and self._ack_due is None:
            self._ack_due = time.monotonic() + (ACK_SECONDS if self._acked else 0)

    def ack_in(self) -> float | None:
        """Return in how many seconds an ack is due; None: there is nothing to acknowledge."""
        return None if self._ack_due is None else max(0.0, self._ack_due - time.monotonic())

    def ack(self) -> str | None:
        """Return the ack of what was taken, if it has not been sent."""
        self._ack_due = None
        if self._taken <= self._acked:
            return None
        self._acked = self._taken
        return json.dumps({"type": "ack", "seq": self._acked})

    def lost(self, code: int | None, reason: str) -> Comeback:
        """Say when to come back; ``code`` is that of a close frame, or None.

        Raises:
            StreamRefused: coming back would not mend it.

        """
        policy = close_policy(code, reason)
        if policy == "stop":
            raise StreamRefused(reason or "message_too_big", code)
        lasted = self._live_since is not None and time.monotonic() - self._live_since > STABLE_SECONDS
        self._failures = 1 if lasted else self._failures + 1
        self._live_since = None
        base, cap = _BACKOFF[policy]
        pause = random.random() * min(cap, base * 2.0 ** min(self._failures, 30))  # noqa: S311 - jitter
        if policy == "refresh" and self._failures == 1:
            pause = 0.0  # the service is well; only when a fresh token is refused too does it need a rest
        self._on_notice(Disconnected(reason or "connection_lost", pause))
        return Comeback(pause, fresh_token=policy == "refresh")


def _log(notice: Notice) -> None:
    log.log(logging.DEBUG if isinstance(notice, Connected) else logging.WARNING, "%s", notice)
