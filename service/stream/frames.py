"""The frames of the stream: one JSON object each, ``type`` first, as RFC 6455 text messages. No I/O.

An event is encoded once, header and all, and the same bytes go to every connection that matches. The frame of an event
is built around the text of its ``body`` as the log holds it, so a replayed frame equals the live one byte for byte.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import orjson

from service.timestamps import rfc3339

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from service.events.log import Event
    from service.severity import Severity

SUBPROTOCOL = "tocsin.v1"

SERVER_FRAMES = (
    "welcome",
    "event",
    "caught_up",
    "heartbeat",
    "gap",
    "presence",
    "authenticated",
    "pong",
    "error",
)
CLIENT_FRAMES = ("ack", "authenticate", "ping")

_TEXT_MESSAGE = 0x81  # FIN and opcode 1 (RFC 6455, section 5.2); a server's frames are not masked
_SHORT, _MEDIUM = 126, 1 << 16

ErrorCode = Literal[
    "rate_limited",
    "ack_ahead",
    "token_invalid",
    "token_expired",
    "token_revoked",
    "keys_unavailable",
    "subject_changed",
    "scope_missing",
    "topic_forbidden",
]
GapReason = Literal["purged", "reset"]


class PreparedEvent(NamedTuple):
    """An event ready to be written: what the filter asks for, and the bytes."""

    seq: int
    topic: str
    severity: Severity
    recipients: frozenset[str] | None
    frame: bytes


def text_message(payload: bytes) -> bytes:
    """Return ``payload`` as one unfragmented text message (RFC 6455, section 5.2)."""
    size = len(payload)
    if size < _SHORT:
        return bytes((_TEXT_MESSAGE, size)) + payload
    if size < _MEDIUM:
        return bytes((_TEXT_MESSAGE, 126)) + size.to_bytes(2, "big") + payload
    return bytes((_TEXT_MESSAGE, 127)) + size.to_bytes(8, "big") + payload


def payloads(data: bytes) -> Iterator[bytes]:
    """Yield the payloads of the text messages that ``data`` is made of; the other transports send them."""
    start, end = 0, len(data)
    while start < end:
        size, start = data[start + 1], start + 2
        if size >= _SHORT:
            width = 2 if size == _SHORT else 8
            size, start = int.from_bytes(data[start : start + width], "big"), start + width
        yield data[start : start + size]
        start += size


def prepare(event: Event) -> PreparedEvent:
    """Encode an event, once for everybody."""
    payload = b'{"type":"event","seq":%d,%b' % (event.seq, event.line[1:])
    return PreparedEvent(event.seq, event.topic, event.severity, event.recipients, text_message(payload))


def _frame(kind: str, **fields: Any) -> bytes:
    return text_message(orjson.dumps({"type": kind, **fields}))


def welcome(  # noqa: PLR0913 - the fields of the frame
    *,
    connection: str,
    recipient: str,
    head: int,
    after: int,
    heartbeat_seconds: float,
    token_expires_at: datetime,
    limits: dict[str, Any],
) -> bytes:
    """Greet a connection: who it is, where the log stands, where it starts, and what it may send."""
    return _frame(
        "welcome",
        connection=connection,
        recipient=recipient,
        head=head,
        after=after,
        heartbeat_seconds=heartbeat_seconds,
        token_expires_at=rfc3339(token_expires_at),
        limits=limits,
    )


def caught_up(seq: int) -> bytes:
    """Say that the replay is over: everything up to ``seq`` was sent, and what follows is live."""
    return _frame("caught_up", seq=seq)


def heartbeat(seq: int, at: datetime) -> bytes:
    """Say that the server lives, and that the cursor may advance to ``seq``: nothing between was for this one."""
    return _frame("heartbeat", seq=seq, at=rfc3339(at))


def gap(after: int, before: int, reason: GapReason) -> bytes:
    """Say that ``after`` to ``before``, both included, cannot be sent: purged, or the cursor is not of this log."""
    return text_message(orjson.dumps({"type": "gap", "from": after, "to": before, "reason": reason}))


def close(code: int, reason: str) -> bytes:
    """Say why the stream ends, on transports that have no close code of their own."""
    return _frame("close", code=code, reason=reason)


def presence(
    joined: Sequence[dict[str, Any]],
    left: Sequence[str],
    *,
    changed: Sequence[dict[str, Any]] = (),
    present: int,
    truncated: bool,
) -> bytes:
    """Say who joined, who left, and whose connections became more or fewer.

    ``truncated`` says that the lists are not complete.
    """
    return _frame("presence", joined=joined, left=left, changed=changed, present=present, truncated=truncated)


def authenticated(token_expires_at: datetime) -> bytes:
    """Confirm a fresh token."""
    return _frame("authenticated", token_expires_at=rfc3339(token_expires_at))


def pong(data: Any) -> bytes:
    """Echo the data of a ping."""
    return _frame("pong", data=data)


def error(code: ErrorCode, detail: str, retry_after: int | None = None) -> bytes:
    """Refuse a message without closing the stream; ``retry_after`` is in seconds."""
    return _frame("error", code=code, detail=detail, retry_after=retry_after)
