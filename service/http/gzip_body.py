"""Bodies in the gzip format (RFC 1952), decompressed as they arrive.

A body of a megabyte may become a gigabyte. So it is decompressed in pieces, and whoever reads it
stops at the limit of what it may become; no more than one piece beyond that is ever made.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from service.errors import MalformedRequest

if TYPE_CHECKING:
    from collections.abc import Iterator

MAGIC = b"\x1f\x8b"
"""What every gzip file begins with."""
PIECE_BYTES = 64 * 1024
MEMBERS_MAX = 1_000
"""Compressed files that one body may consist of, as ``cat *.gz`` makes them; each takes as long as 10 KiB of text."""
_GZIP = 16 + zlib.MAX_WBITS


class GzipBody:
    """Decompresses one body."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(_GZIP)
        self._members = 1
        self._has_begun = False

    def pieces(self, chunk: bytes) -> Iterator[bytes]:
        """Yield what the next bytes of the body become, at most ``PIECE_BYTES`` at a time.

        Raises:
            MalformedRequest: they are not gzip, or have too many members.

        """
        while chunk:
            if self._member.eof:
                self._next_member()
            self._has_begun = True
            try:
                yield self._member.decompress(chunk, PIECE_BYTES)
            except zlib.error:
                raise MalformedRequest(
                    "The body is announced with Content-Encoding: gzip, and is not gzip"
                    + (" after its first member." if self._members > 1 else ".")
                ) from None
            chunk = self._member.unused_data or self._member.unconsumed_tail

    def _next_member(self) -> None:
        self._members += 1
        if self._members > MEMBERS_MAX:
            raise MalformedRequest(f"The body has more than {MEMBERS_MAX} gzip members: compress it as one.")
        self._member = zlib.decompressobj(_GZIP)

    def require_end(self) -> None:
        """Refuse a body that ended within a member.

        Raises:
            MalformedRequest: it did.

        """
        if self._has_begun and not self._member.eof:
            raise MalformedRequest("The gzip body ended early.")
