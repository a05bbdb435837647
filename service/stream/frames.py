"""The frames of the stream: one JSON object each, ``type`` first. No I/O.

A frame is encoded to JSON once. The frames that leave in one write are a ``FrameBatch``, which is
encoded once for each kind of transport, however many connections it goes to. The frame of an event
is built around the text of its ``body`` as the log holds it, so a replayed frame equals the live
one byte for byte.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import orjson

from service.timestamps import rfc3339

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from service.events.log import Event
    from service.events.position import Position
    from service.severity import Severity

SUBPROTOCOL = "tocsin.v1"

SERVER_FRAMES = (
    "welcome",
    "event",
    "caught_up",
    "heartbeat",
    "gap",
    "reset",
    "presence",
    "authenticated",
    "pong",
    "error",
)
CLIENT_FRAMES = ("ack", "seen", "authenticate", "ping")

_TEXT_MESSAGE = 0x81  # FIN and opcode 1 (RFC 6455, section 5.2); a server's frames are not masked
_SHORT, _MEDIUM = 126, 1 << 16

FrameErrorCode = Literal[
    "rate_limited",
    "ack_ahead",
    "token_invalid",
    "token_expired",
    "token_revoked",
    "keys_unavailable",
    "database_unavailable",
    "subject_changed",
    "scope_missing",
    "topic_forbidden",
]


@dataclass(slots=True)
class Frame:
    """A frame. ``position`` is where it moves the cursor of its client to, None where it does not."""

    type: str
    position: Position | None
    payload: bytes
    header: bytes = field(init=False, repr=False, compare=False)
    """What stands before the payload in a text message (RFC 6455, section 5.2)."""

    def __post_init__(self) -> None:
        self.header = _text_header(len(self.payload))

    @property
    def size(self) -> int:
        """Bytes of its text message."""
        return len(self.header) + len(self.payload)


@dataclass(slots=True)
class PreparedEvent(Frame):
    """The frame of an event, and what a filter asks of it."""

    position: Position
    topic: str
    severity: Severity
    recipients: frozenset[str] | None


class FrameBatch:
    """Frames that leave in one write."""

    def __init__(self, *frames: Frame) -> None:
        self.frames = frames

    @cached_property
    def text_messages(self) -> bytes:
        """The frames as unfragmented text messages (RFC 6455, section 5.2)."""
        return b"".join([part for frame in self.frames for part in (frame.header, frame.payload)])

    @cached_property
    def event_stream(self) -> list[bytes]:
        """The frames as server-sent events (HTML standard, section 9.2.6), in pieces.

        Frames that move the cursor have an ``id``: the cursor, a dot and the connection. The id of
        the connection belongs between the pieces: ``connection_id.join(pieces)``.
        """
        pieces: list[bytes] = []
        open_piece = b""
        for frame in self.frames:
            if frame.position is not None:
                pieces.append(b"%bid: %b." % (open_piece, frame.position.cursor.encode()))
                open_piece = b"\n"
            open_piece += b"data: %b\n\n" % frame.payload
        return [*pieces, open_piece]


def _text_header(size: int) -> bytes:
    if size < _SHORT:
        return bytes((_TEXT_MESSAGE, size))
    if size < _MEDIUM:
        return bytes((_TEXT_MESSAGE, 126)) + size.to_bytes(2, "big")
    return bytes((_TEXT_MESSAGE, 127)) + size.to_bytes(8, "big")


def prepare(event: Event) -> PreparedEvent:
    """Encode an event, once for all connections."""
    position = event.position
    payload = b'{"type":"event","seq":%d,"cursor":"%b",%b' % (event.seq, position.cursor.encode(), event.line[1:])
    return PreparedEvent("event", position, payload, event.topic, event.severity, event.recipients)


def encode(kind: str, **members: Any) -> Frame:
    """Encode a frame that does not move the cursor."""
    return Frame(kind, None, orjson.dumps({"type": kind, **members}))


def welcome(  # noqa: PLR0913 - the fields of the frame
    *,
    connection: str,
    recipient: str,
    head: int,
    after: Position,
    heartbeat_seconds: float,
    token_expires_at: datetime,
    event_bytes: int,
    limits: dict[str, Any],
) -> Frame:
    """Greet a client: its connection, the head of the log, its start, what it is sent and what it may send."""
    return encode(
        "welcome",
        connection=connection,
        recipient=recipient,
        head=head,
        after=after.seq,
        cursor=after.cursor,
        heartbeat_seconds=heartbeat_seconds,
        token_expires_at=rfc3339(token_expires_at),
        event_bytes=event_bytes,
        limits=limits,
    )


def caught_up(position: Position) -> Frame:
    """End a replay: everything up to ``position`` was sent, and what follows is live."""
    return _at(position, "caught_up")


def heartbeat(position: Position, at: datetime) -> Frame:
    """Show that the server lives, and that nothing up to ``position`` was for this connection."""
    return _at(position, "heartbeat", at=rfc3339(at))


def _at(position: Position, kind: str, **members: Any) -> Frame:
    payload = orjson.dumps({"type": kind, "seq": position.seq, "cursor": position.cursor, **members})
    return Frame(kind, position, payload)


def gap(first: int, last: int, *, up_to: Position | None = None) -> Frame:
    """Name a range, both ends included, that was purged. ``up_to`` is where it moves the cursor to."""
    return Frame("gap", up_to, orjson.dumps({"type": "gap", "from": first, "to": last, "reason": "purged"}))


def reset(position: Position, *, is_common: bool) -> Frame:
    """Declare void what the client holds; the stream goes on after ``position``.

    ``is_common``: only what comes after ``position`` is void, otherwise all of it.
    """
    after = position.seq if is_common else None
    return Frame("reset", position, orjson.dumps({"type": "reset", "after": after, "cursor": position.cursor}))


def close(code: int, reason: str) -> Frame:
    """Give the reason of the end, on transports that have no close code of their own."""
    return encode("close", code=code, reason=reason)


def presence(
    joined: Sequence[dict[str, Any]],
    left: Sequence[str],
    *,
    changed: Sequence[dict[str, Any]] = (),
    present: int,
    truncated: bool,
) -> Frame:
    """List who joined, who left, and whose number of connections changed.

    ``truncated``: the lists are not complete.
    """
    return encode("presence", joined=joined, left=left, changed=changed, present=present, truncated=truncated)


def authenticated(token_expires_at: datetime) -> Frame:
    """Confirm a fresh token."""
    return encode("authenticated", token_expires_at=rfc3339(token_expires_at))


def pong(data: Any) -> Frame:
    """Echo the data of a ping."""
    return encode("pong", data=data)


def error(code: FrameErrorCode, detail: str, retry_after: int | None = None) -> Frame:
    """Refuse a message without closing the stream; ``retry_after`` is in seconds."""
    return encode("error", code=code, detail=detail, retry_after=retry_after)
