"""Headers that every answer carries, whoever makes it: the application, the server, the WebSocket core.

An answer that needs another value of one of them, such as the console's policy, sets its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_POWERS = (
    "accelerometer",
    "camera",
    "display-capture",
    "geolocation",
    "gyroscope",
    "magnetometer",
    "microphone",
    "midi",
    "payment",
    "usb",
)
"""What a page could ask the browser for, and none of the service's does."""

DEFAULTS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Permissions-Policy": ", ".join(f"{power}=()" for power in _POWERS),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

_RAW = [(name.lower().encode(), value.encode()) for name, value in DEFAULTS.items()]
"""As ASGI has them."""
_NAMES = frozenset(name for name, _ in _RAW)

LINES = b"".join(b"%b: %b\r\n" % header for header in _RAW)
"""As they are written to a socket."""


def with_defaults(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return the headers of an answer, as ASGI has them, with those that every answer carries."""
    own = list(headers)
    names = {name for name, _ in own}
    if names.isdisjoint(_NAMES):
        return own + _RAW
    return own + [header for header in _RAW if header[0] not in names]
