"""The sockets that a node has accepted: their number, and the bytes that wait to be parsed.

A node that has no file descriptor left can neither accept nor reach PostgreSQL. So it accepts fewer
sockets than it may open files, and beyond that closes the connection that has been without a
request for longest, which may be the new one.
"""

from __future__ import annotations

import resource
import time
from typing import TYPE_CHECKING

from service.logs import get_logger

if TYPE_CHECKING:
    import asyncio

log = get_logger(__name__)

FILES_RESERVED = 128
"""Descriptors for PostgreSQL, files, and processes that are started; at most half of all."""
IDLE_SOCKETS = 5_000
"""Sockets beside those of as many streams as a node may have."""
FILES_MAX = 1 << 20
"""What an unlimited number of files is taken for."""
WAITING_MAX_BYTES = 64 * 1024 * 1024
"""Bytes of pipelined requests that all connections of a node may have waiting."""
_LOG_SECONDS = 60


def raise_file_limit() -> None:
    """Allow this process, and those that it starts, as many open files as it may have."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def sockets_max(streams_max: int) -> int:
    """Return how many sockets a node with so many streams may accept."""
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = FILES_MAX if soft == resource.RLIM_INFINITY else soft
    return min(streams_max + IDLE_SOCKETS, files - min(FILES_RESERVED, files // 2))


class Sockets:
    """The accepted sockets of a node, at most ``most``; those without a request in the order to close them."""

    def __init__(self, most: int) -> None:
        self.waiting_bytes = 0
        self._most = most
        self._idle: dict[asyncio.Transport, None] = {}
        self._logged_at = -float(_LOG_SECONDS)

    def opened(self, transport: asyncio.Transport, count: int) -> None:
        """Take the last of ``count`` sockets."""
        self._idle[transport] = None
        if count > self._most:
            longest = next(iter(self._idle))
            del self._idle[longest]
            longest.abort()
            self._log()

    def busy(self, transport: asyncio.Transport) -> None:
        """Keep a connection that has a request, or is closed."""
        self._idle.pop(transport, None)

    def idle(self, transport: asyncio.Transport) -> None:
        """Put a connection whose request is answered behind all others without one."""
        self._idle[transport] = None

    def hold(self, size: int) -> bool:
        """Count bytes that wait to be parsed, and return whether all of them are within the bound."""
        self.waiting_bytes += size
        return self.waiting_bytes <= WAITING_MAX_BYTES

    def _log(self) -> None:
        now = time.monotonic()
        if now - self._logged_at >= _LOG_SECONDS:
            self._logged_at = now
            log.warning("all sockets are in use; closing idle connections", sockets=self._most)
