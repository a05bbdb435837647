"""The chain over the log: each batch that was appended is linked to the one before it.

A link's hash is SHA-256 over the hash before it, where its batch begins and when it was appended, and the digests of
its events::

    hash = sha256(previous hash (32 bytes; zeros before the first)
                  || first seq, 8 bytes || microseconds since 1970-01-01 UTC, 8 bytes, both big-endian
                  || sha256(line) of each event, in order)

An event's line is its frame without ``type`` and ``seq``: what admins were shown is what is proved. So nothing that a
link covers can be altered, left out, added or moved without every later hash being another; a hash that was noted
elsewhere proves all that came before it.

The digests are made here and the links in the append function (``link_log`` in the migrations), which alone knows where
a batch begins: see docs/decisions/0016-a-chain-over-the-log.md.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

import orjson

from service.timestamps import microseconds, rfc3339

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

NO_HASH = bytes(32)
"""What the first link follows."""
LINK_GRID = 10_000
"""No link crosses a multiple of this ``seq``, so that whole partitions of the log hold whole links."""


def event_line(kind: str, at: datetime, actor: str, alert: bytes, details: bytes | None = None) -> bytes:
    """Return an event as it is shown and chained: a JSON object, with the members of ``details``, another one."""
    line = b'{"kind":"%b","at":"%b","actor":%b,"alert":%b}' % (
        kind.encode(),
        rfc3339(at).encode(),
        orjson.dumps(actor),
        alert,
    )
    return line if details is None else b"%b,%b" % (line[:-1], details[1:])


def digest(line: bytes) -> bytes:
    """Return the SHA-256 of an event's line: 32 bytes."""
    return sha256(line).digest()


def link(previous: bytes, first_seq: int, linked_at: datetime, digests: Iterable[bytes]) -> bytes:
    """Return the hash of the link that follows ``previous``: 32 bytes."""
    header = first_seq.to_bytes(8) + microseconds(linked_at).to_bytes(8)
    return sha256(previous + header + b"".join(digests)).digest()
