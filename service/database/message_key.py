"""The key that authenticates what nodes send one another by NOTIFY.

Every role of the database may notify, on every channel. A notification that only wakes needs no
proof: the node reads the tables, a limited number of times a second. One that carries data is
signed: an HMAC-SHA256 over the channel and the data, whose key is a row that only the service's
role may read. Against replays the data name the request that they answer.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING

from sqlalchemy import Boolean, CheckConstraint, Column, LargeBinary, Table, select, text

from service.database.base import metadata

if TYPE_CHECKING:
    from service.database.engine import Database

message_key = Table(
    "message_key",
    metadata,
    Column("is_one", Boolean, primary_key=True, server_default=text("true"), comment="so that there is one row"),
    Column("key", LargeBinary, nullable=False, comment="random, made by the migration"),
    CheckConstraint("is_one", name="is_one"),
    comment="The key of the HMAC over what nodes send one another by NOTIFY.",
)


class MessageKey:
    """Signs and verifies messages between nodes. Without a key, until ``load``, it verifies none."""

    def __init__(self, key: bytes = b"") -> None:
        self._key = key

    async def load(self, database: Database) -> None:
        """Read the key.

        Raises:
            DatabaseUnavailable: it cannot be read now.

        """
        async with database.transaction() as tx:
            self._key = (await tx.execute(select(message_key.c.key))).scalar_one()

    def sign(self, channel: str, data: str) -> str:
        """Return the message that carries ``data`` on ``channel``."""
        return f"{self._mac(channel, data)} {data}"

    def verified(self, channel: str, message: str) -> str | None:
        """Return the data of a message; None where no node sent it on this channel."""
        mac, _, data = message.partition(" ")
        is_genuine = hmac.compare_digest(mac.encode(), self._mac(channel, data).encode())
        return data if self._key and is_genuine else None

    def _mac(self, channel: str, data: str) -> str:
        return hmac.digest(self._key, f"{channel}\0{data}".encode(), hashlib.sha256).hex()
