"""The state machine of one connection: each input returns actions. No I/O, and no clock.

::

                        stalled                       drained
         ┌───────────┐ ─────────► ┌─────────┐ ─────────────────────┐
    ───► │ REPLAYING │            │ LAGGING │                      │
         └───────────┘ ◄───────── └─────────┘ ◄──┐                 │
           │       ▲      drained                │ stalled         │
           │       └─────────────────────────────┼─────────────────┘
           │ joined (written = position)         │
           ▼                                     │
         ┌──────┐ ───────────────────────────────┘
         │ LIVE │
         └──────┘              any ──► CLOSED: by the server with a reason, by the client, or by the network

- REPLAYING: the connection is sent its own range of the log, chunk by chunk, up to ``written`` so
  far.
- LIVE: the connection is in its group of the hub, and everything up to the hub's position was
  written.
- LAGGING: the socket is full, or the client has yet to read what it was sent. Everything up to the
  seq ``sent`` went to the socket; what was written after that, up to ``written``, has not gone
  entirely. No further event is written until all of it has, so a connection holds at most one chunk.

A client may send ``ack`` (cumulative, never beyond what was written to the connection), ``seen``
(which moves no cursor and is no receipt), ``authenticate`` and ``ping``. A message over the rate
limit is dropped with an ``error`` frame and counts as a violation; too many violations close the
stream. WebSocket frames that are not messages count, too (pings, unsolicited pongs, fragments).
What a client sends at the pace at which it is sent events does not count: an ``ack`` that advances,
and a ``seen`` with no more alerts, in all, than there were events. A message that is no JSON object
of a known type closes the stream at once: a client that sends one is broken.

A connection is slow if it lags and the client takes nothing for a while. One that takes a few bytes
now and then is slow, too, but alive, and is sent everything.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any
from uuid import UUID

import orjson
from pydantic_core import from_json

from service.errors import CloseReason
from service.http.problems import repetition
from service.http.repeated_members import first_repetition
from service.stream import frames

if TYPE_CHECKING:
    from collections.abc import Callable

    from service.events.position import Position

SEQ_MAX = 2**63 - 1
SEEN_MAX = 100
"""Alerts that one ``seen`` may name."""


class Phase(Enum):
    """The phases of a connection, as drawn above."""

    REPLAYING = "replaying"
    LIVE = "live"
    LAGGING = "lagging"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class SendFrame:
    """Write this frame; it carries no event."""

    frame: frames.Frame


@dataclass(frozen=True, slots=True)
class SendHeartbeat:
    """Write a heartbeat with the position up to which the connection was written."""


@dataclass(frozen=True, slots=True)
class CloseStream:
    """Close the stream. ``hint`` says what was wrong with a message."""

    reason: CloseReason
    hint: str | None = None


@dataclass(frozen=True, slots=True)
class RecordSent:
    """``(after_seq, up_to_seq]`` has gone to the socket."""

    after_seq: int
    up_to_seq: int


@dataclass(frozen=True, slots=True)
class RecordReceipt:
    """The client acknowledged everything up to ``seq``."""

    seq: int


@dataclass(frozen=True, slots=True)
class RecordSightings:
    """The client reported that the recipient saw these alerts."""

    alerts: tuple[UUID, ...]


@dataclass(frozen=True, slots=True)
class Authenticate:
    """Verify this token, then call ``renewed`` or send an error."""

    token: str


@dataclass(frozen=True, slots=True)
class CatchUp:
    """Read on after ``written``."""


Action = SendFrame | SendHeartbeat | CloseStream | RecordSent | RecordReceipt | RecordSightings | Authenticate | CatchUp


@dataclass(slots=True)
class Timing:
    """The periods of a stream, in seconds; one object for all connections."""

    heartbeat: float
    slow_consumer: float
    slow_reason: CloseReason = CloseReason.SLOW_CONSUMER


class StreamProtocol:
    """One connection, from its welcome to its close.

    ``now`` is seconds on a monotonic clock, ``wall`` seconds since the epoch. ``may_send`` counts a
    message and ``may_stay`` a violation; each returns whether the connection is still within the
    limit. ``retry_after`` returns in how many seconds the next message is within it, ``taken`` how
    many bytes the client's side has taken since the connection began.
    """

    __slots__ = (
        "_lagging_since",
        "_may_send",
        "_may_stay",
        "_next_heartbeat",
        "_reportable",
        "_retry_after",
        "_taken",
        "_taken_before",
        "_timing",
        "acknowledged",
        "phase",
        "sent",
        "token_expires_at",
        "written",
    )

    def __init__(  # noqa: PLR0913 - what a connection starts with
        self,
        start: Position,
        *,
        token_expires_at: float,
        timing: Timing,
        now: float,
        may_send: Callable[[], bool],
        retry_after: Callable[[], int],
        may_stay: Callable[[], bool],
        taken: Callable[[], int],
    ) -> None:
        self.phase = Phase.REPLAYING
        self.sent = start.seq
        self.written = start
        self.acknowledged = start.seq
        self.token_expires_at = token_expires_at
        self._timing = timing
        self._may_send = may_send
        self._retry_after = retry_after
        self._may_stay = may_stay
        self._taken = taken
        self._taken_before = 0
        self._reportable = -start.seq
        """Added to a seq: how many alerts ``seen`` may name up to there without being counted."""
        self._next_heartbeat = now + timing.heartbeat
        self._lagging_since = now

    # The sending side.

    def joined(self) -> None:
        """The connection entered its live group; from here on it is sent what the hub is."""
        assert self.phase is Phase.REPLAYING  # noqa: S101 - only a connection that has caught up joins
        self.phase = Phase.LIVE

    def advanced(self, up_to: Position) -> list[Action]:
        """Everything up to ``up_to`` has gone to the socket of a replaying connection."""
        after, self.sent, self.written = self.sent, up_to.seq, up_to
        return [RecordSent(after, up_to.seq)]

    def stalled(self, sent: int, written: Position, now: float) -> None:
        """The socket is full: ``(sent, written]`` was written and has not gone entirely."""
        if self.phase in (Phase.LIVE, Phase.REPLAYING):
            self.phase = Phase.LAGGING
            self.sent = sent
            self.written = written
            self._lagging_since = now
            self._taken_before = self._taken()

    def part_sent(self, seq: int) -> list[Action]:
        """Everything up to ``seq`` went to the socket, though what was written after it has not."""
        if self.phase is not Phase.LAGGING or seq <= self.sent:
            return []
        after, self.sent = self.sent, seq
        return [RecordSent(after, seq)]

    def drained(self) -> list[Action]:
        """The socket was full and has taken everything."""
        if self.phase is not Phase.LAGGING:
            return []
        self.phase = Phase.REPLAYING
        actions: list[Action] = []
        if self.written.seq > self.sent:
            actions += self.advanced(self.written)
        return [*actions, CatchUp()]

    def flushed(self, now: float) -> list[Action]:
        """Everything written has gone, and no more can follow: a long poll has its answer."""
        if self.phase is not Phase.LAGGING:
            return []
        self._lagging_since = now
        return self.advanced(self.written) if self.written.seq > self.sent else []

    def closed(self) -> None:
        """The stream is over."""
        self.phase = Phase.CLOSED

    # The clock.

    def tick(self, now: float, wall: float) -> list[Action]:
        """Return what is due: the close of an expired or stuck stream, or a heartbeat."""
        if self.phase is Phase.CLOSED:
            return []
        if wall >= self.token_expires_at:
            return [CloseStream(CloseReason.TOKEN_EXPIRED)]
        if self.phase is Phase.LAGGING:
            return [CloseStream(self._timing.slow_reason)] if self._is_stuck(now) else []
        if now >= self._next_heartbeat:
            self._next_heartbeat = now + self._timing.heartbeat
            return [SendHeartbeat()]
        return []

    def _is_stuck(self, now: float) -> bool:
        if now - self._lagging_since < self._timing.slow_consumer:
            return False
        if (taken := self._taken()) == self._taken_before:
            return True
        self._taken_before, self._lagging_since = taken, now
        return False

    # The receiving side.

    def receive_binary(self) -> list[Action]:
        """Refuse a binary message (RFC 6455, section 7.4.1: 1003)."""
        return [CloseStream(CloseReason.BINARY_MESSAGE)]

    def receive_text(self, text: str, written: int) -> list[Action]:
        """Handle a text message; ``written`` is the last seq that was written to the connection."""
        if self.phase is Phase.CLOSED:
            return []
        message, hint = _read(text)
        if not self._is_paced(message, written) and not self._may_send():
            detail = "Too many messages; this one was dropped."
            return self._refuse_message("rate_limited", detail, retry_after=self._retry_after())
        return self._receive(message, written) if hint is None else [CloseStream(CloseReason.BAD_MESSAGE, hint)]

    def _is_paced(self, message: Any, written: int) -> bool:
        """Return whether the client cannot send more of these than it is sent events, and so none too many."""
        match message:
            case {"type": "ack", "seq": int(seq)}:
                return self.advances(seq) and seq <= written
            case {"type": "seen", "alerts": [_, *_] as alerts} if len(alerts) <= written + self._reportable:
                self._reportable -= len(alerts)
                return True
            case _:
                return False

    def advances(self, seq: int) -> bool:
        """Return whether the client has not acknowledged ``seq`` yet."""
        return seq > self.acknowledged

    def count_frame(self) -> list[Action]:
        """Count a WebSocket frame that is not a message against the same limit; one over it is a violation."""
        if self.phase is Phase.CLOSED or self._may_send() or self._may_stay():
            return []
        return [CloseStream(CloseReason.RATE_LIMITED)]

    def _receive(self, message: Any, written: int) -> list[Action]:
        match message:
            case {"type": "ack", "seq": int(seq)} if not isinstance(seq, bool) and 0 <= seq <= SEQ_MAX:
                return self._ack(seq, written)
            case {"type": "seen", "alerts": list(alerts)} if len(alerts) <= SEEN_MAX:
                return self._seen(alerts)
            case {"type": "authenticate", "token": str(token)}:
                return [Authenticate(token)]
            case {"type": "ping"}:
                return self._ping(message.get("data"))
            case _:
                return [CloseStream(CloseReason.BAD_MESSAGE)]

    def _ping(self, data: Any) -> list[Action]:
        try:
            return [SendFrame(frames.pong(data))]
        except orjson.JSONEncodeError:  # an integer beyond 64 bits
            return [CloseStream(CloseReason.BAD_MESSAGE)]

    def _seen(self, alerts: list[Any]) -> list[Action]:
        try:
            return [RecordSightings(tuple(UUID(alert) for alert in alerts))]
        except (AttributeError, TypeError, ValueError):
            return [CloseStream(CloseReason.BAD_MESSAGE)]

    def _ack(self, seq: int, written: int) -> list[Action]:
        if seq > written:
            return self._refuse_message("ack_ahead", f"Only {written} was sent.")
        if not self.advances(seq):
            return []
        self.acknowledged = seq
        return [*self.part_sent(seq), RecordReceipt(seq)]  # what the client has received went to the socket

    def acknowledge(self, seq: int, written: int) -> list[Action]:
        """Handle an ack from a separate request; one ahead of ``written`` counts up to there."""
        return self._ack(min(seq, written), written)

    def _refuse_message(self, code: frames.FrameErrorCode, detail: str, retry_after: int | None = None) -> list[Action]:
        if not self._may_stay():
            return [CloseStream(CloseReason.RATE_LIMITED)]
        return [SendFrame(frames.error(code, detail, retry_after))]

    def renewed(self, token_expires_at: float) -> None:
        """A fresh token was verified; the connection ends with it, no longer with the old one."""
        self.token_expires_at = token_expires_at


def _read(text: str) -> tuple[Any, str | None]:
    """Return the message that is in a text, None where there is none, and what is wrong with its members."""
    try:
        message = from_json(text, allow_inf_nan=False)  # orjson makes floats of integers beyond 64 bits
        place = first_repetition(text.encode())
    except ValueError:
        return None, None
    return (message, None) if place is None else (None, repetition(place).detail.removesuffix("."))
