"""Bodies in the gzip format (RFC 1952), decompressed as they arrive.

A body of a megabyte may become a gigabyte. So it is decompressed in pieces, and whoever reads it
stops at the limit of what it may become; no more than one piece beyond that is ever made.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from service.errors import MalformedRequest, UnsupportedMedia

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MAGIC = b"\x1f\x8b"
"""What every gzip file begins with."""
PIECE_BYTES = 64 * 1024
MEMBERS_MAX = 1_000
"""Compressed files that one body may consist of, as ``cat *.gz`` makes them; each takes as long as 10 KiB of text."""
_GZIP = 16 + zlib.MAX_WBITS
_GZIP_NAMES = frozenset({"gzip", "x-gzip"})
"""x-gzip is gzip (RFC 9110, section 8.4.1.3)."""
_NO_CODINGS = frozenset({"", "identity"})


def is_gzip(values: Iterable[str]) -> bool:
    """Say whether a body with these ``Content-Encoding`` headers is compressed (RFC 9110, section 8.4).

    Raises:
        UnsupportedMedia: it is encoded otherwise than with gzip, or twice.

    """
    named = [coding.strip().lower() for value in values for coding in value.split(",")]
    codings = [coding for coding in named if coding not in _NO_CODINGS]
    if len(codings) > 1 or not _GZIP_NAMES.issuperset(codings):
        raise UnsupportedMedia(
            "The only content coding that is read is gzip, once: send the body so, or without Content-Encoding.",
            headers={"Accept-Encoding": "gzip, identity"},
        )
    return bool(codings)


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
