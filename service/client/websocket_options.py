"""What the connections of both clients have in common: their options, and what a failed attempt means."""

from __future__ import annotations

import math
import ssl
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI
from websockets.typing import Subprotocol

from service.client.errors import ClientError, StreamRefused, Unreachable
from service.client.post_retry import TRANSIENT
from service.client.stream_state import MESSAGE_MAX_BYTES, SUBPROTOCOL
from service.client.validation import authorization

if TYPE_CHECKING:
    from service.client.stream_state import StreamState

OPEN_SECONDS = 10
CLOSE_SECONDS = 2
FAILURES = (OSError, TimeoutError, InvalidHandshake, InvalidURI)
"""What connecting raises; a time-out is an ``OSError`` too."""


def options(token: str, *, trust_env: bool) -> dict[str, Any]:
    """Return how to connect."""
    return {
        "subprotocols": [Subprotocol(SUBPROTOCOL)],
        "additional_headers": {"Authorization": authorization(token)},
        "compression": None,
        "open_timeout": OPEN_SECONDS,
        "close_timeout": CLOSE_SECONDS,
        # The service pings, and its heartbeats tell us that it lives. Pings of ours would go unanswered while a slow
        # body of the loop leaves messages unread, and end a connection that is well.
        "ping_interval": None,
        "max_size": MESSAGE_MAX_BYTES,
        "proxy": True if trust_env else None,
    }


def failed(error: Exception, address: str) -> str:
    """Return why an attempt to connect failed, if another may succeed.

    Raises:
        ClientError: none will.

    """
    if isinstance(error, ssl.SSLCertVerificationError):
        raise ClientError(f"the certificate of {address} cannot be trusted: {error.verify_message}") from error
    if isinstance(error, InvalidURI):
        raise ClientError(f"{address} is no address of a stream") from error
    if isinstance(error, InvalidStatus):
        status = error.response.status_code
        if status < HTTPStatus.INTERNAL_SERVER_ERROR and status not in TRANSIENT:
            raise StreamRefused(f"{address} answered with HTTP status {status}") from error
        return f"http_{status}"
    return "unreachable"


def patience_left(error: Exception, follower: StreamState, address: str, waited: float, limit: float | None) -> float:
    """Return for how many more seconds to try to open a stream; one that was open once is tried for ever.

    Raises:
        Unreachable: ``waited`` is over ``limit``, both in seconds.

    """
    if limit is None or follower.connected_once:
        return math.inf
    if waited >= limit:
        raise Unreachable(f"{address} cannot be reached: {str(error) or type(error).__name__}") from error
    return limit - waited


def close_of(error: ConnectionClosed) -> tuple[int | None, str]:
    """Return the code and the reason of a close frame; that of the service where both sent one."""
    frame = error.rcvd or error.sent
    return (frame.code, frame.reason) if frame is not None else (None, "")
