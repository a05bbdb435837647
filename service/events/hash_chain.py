"""The hash chain over the log: each batch that was appended is linked to the one before it.

The hash of a link is SHA-256 over the hash before it, the first seq of its batch, the time of the
append, and the digests of its events::

    hash = sha256(previous hash (32 bytes; zeros before the first)
                  || first seq, 8 bytes || microseconds since 1970-01-01 UTC, 8 bytes, both big-endian
                  || sha256(line) of each event, in order)

The line of an event is its frame without ``type``, ``seq`` and ``cursor``, so the chain covers
exactly what clients receive. Nothing that a link covers can be altered, removed, added or moved without changing
every later hash; a hash that was recorded elsewhere proves all that came before it.

The digests are made here, and nowhere else; the links are made by the append function
(``alembic/sql/link_log.sql``), which alone knows where a batch begins. See
docs/decisions/0016-hash-chains.md.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

import orjson

from service.events.position import event_id_hex
from service.timestamps import microseconds, rfc3339

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

NO_HASH = bytes(32)
"""The hash before the first link."""
LINK_GRID = 10_000
"""No link crosses a multiple of this ``seq``, so that whole partitions of the log hold whole links."""


def event_line(  # noqa: PLR0913 - the columns of an event that a frame shows
    event_id: int, kind: str, at: datetime, actor: str, alert: bytes, *, details: bytes | None = None
) -> bytes:
    """Return the line of an event: a JSON object that includes the members of ``details``, another one."""
    line = b'{"id":"%b","kind":"%b","at":"%b","actor":%b,"alert":%b}' % (
        event_id_hex(event_id).encode(),
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
