"""The idempotency key of a batch.

A batch is stored in as many transactions as it needs, so its key is kept in three steps, each of
which is committed before the next:

1. The key is claimed, with the hash of the body: from then on another body is refused.
2. Each alert is stored with a key of its own, made of the batch's key and its number, unless it has
   one. After a crash, the same batch finds those that are stored by their keys, and stores the rest.
3. The answer is kept beside the key: a repetition is answered with it.

A batch of which nothing was stored gives its key back, unless the same batch was sent meanwhile, with
another token say, and may be stored: then, or after a crash, the key stays with that body. An answer
is kept for as long from then on as a key of a client. The keys are in the table of those of single
posts, with a character before them that no key of a client has.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import text

from service.events.idempotency import IdempotencyKey, mismatch

if TYPE_CHECKING:
    from typing import Any

    from sqlalchemy import CursorResult, TextClause

    from service.database.engine import Database

_SEPARATOR = "\x1f"

# The update, of nothing, returns the row that is there, and makes another version of it: so whoever inserted it, whose
# `version` is not null, deletes it only if nobody else has claimed it since.
_CLAIM = text(
    """
    INSERT INTO idempotency_keys (source, key, request_hash, created_at)
    VALUES (:source, :key, :hash, clock_timestamp())
    ON CONFLICT (source, key) DO UPDATE SET source = excluded.source
        WHERE idempotency_keys.request_hash = excluded.request_hash
    RETURNING answer::text AS answer, CASE WHEN xmax = 0 THEN xmin::text END AS version
    """
)
_KEEP = text(
    """
    UPDATE idempotency_keys SET answer = CAST(:answer AS json), created_at = clock_timestamp()
    WHERE source = :source AND key = :key AND request_hash = :hash AND answer IS NULL
    """
)
_RELEASE = text(
    "DELETE FROM idempotency_keys WHERE source = :source AND key = :key AND answer IS NULL AND xmin::text = :version"
)


class Claim(NamedTuple):
    """The claim of a key: the answer to the same batch, if there was one; ``version``: that of the first claim."""

    answer: bytes | None
    version: str | None


class BatchKey(NamedTuple):
    """The key of a batch of a source, beside the SHA-256 of its body, decompressed."""

    source: str
    key: str
    body_hash: bytes

    @classmethod
    def of(cls, source: str, key: str, body: bytes) -> BatchKey:
        """Return the key that a source sent with a body."""
        return cls(source, key, sha256(body).digest())

    def of_item(self, number: int) -> IdempotencyKey:
        """Return the key of the alert of this number."""
        return IdempotencyKey(f"{_SEPARATOR}{self.key}{_SEPARATOR}{number}", self.body_hash.hex())

    async def claim(self, database: Database) -> Claim:
        """Claim the key for the batch.

        Raises:
            IdempotencyMismatch: the key was first sent with another body.

        """
        row = (await self._execute(database, _CLAIM, hash=self.body_hash)).one_or_none()
        if row is None:
            raise mismatch()
        return Claim(row.answer.encode() if row.answer is not None else None, row.version)

    async def keep(self, database: Database, answer: bytes) -> None:
        """Keep the answer, JSON, unless the same batch was answered meanwhile."""
        await self._execute(database, _KEEP, hash=self.body_hash, answer=answer.decode())

    async def release(self, database: Database, claim: Claim) -> None:
        """Give the key back, unless somebody else has claimed it."""
        if claim.version is not None:
            await self._execute(database, _RELEASE, version=claim.version)

    async def _execute(self, database: Database, statement: TextClause, **parameters: Any) -> CursorResult[Any]:
        parameters |= {"source": self.source, "key": f"{_SEPARATOR}{self.key}"}
        return await database.run(lambda tx: tx.execute(statement, parameters), subject=self.source)
