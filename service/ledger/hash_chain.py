"""The hash chain over the ledger: each flush that wrote final rows is linked to the one before it.

A link covers the closings of connections, the dispatches, the receipts and the sightings that one
flush wrote, one line each::

    hash = sha256(previous hash (32 bytes; zeros before the first)
                  || ledger_link_id, 8 bytes || microseconds since 1970-01-01 UTC, 8 bytes,
                     both big-endian
                  || the lines, as UTF-8, sorted by their bytes, with a newline between them)

PostgreSQL makes the links (``alembic/sql/write_ledger.sql``). Here a link is computed a second
time, to verify it: whoever can alter the rows can alter our SQL functions too.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

from service.timestamps import microseconds

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime


def ledger_link(previous: bytes, link_id: int, linked_at: datetime, lines: Iterable[bytes]) -> bytes:
    """Return the hash of the ledger's link that follows ``previous``: 32 bytes."""
    header = link_id.to_bytes(8) + microseconds(linked_at).to_bytes(8)
    return sha256(previous + header + b"\n".join(sorted(lines))).digest()
