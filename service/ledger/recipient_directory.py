"""Who was ever seen, in memory as far as it was asked for."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from sqlalchemy import text

from service.errors import RequestRefused

if TYPE_CHECKING:
    from collections.abc import Collection

    from service.database.engine import Database

KNOWN_MAX = 100_000
"""Names that are kept; who was seen once stays known, so none of them becomes wrong."""
TIMEOUT_SECONDS = 1.0
"""How long the answer to a post waits for a query that only decides about a warning."""

_SEEN = text(
    """
    SELECT id FROM recipients WHERE id = ANY (:names)
    UNION SELECT subject FROM subject_names WHERE subject = ANY (:names)
    """
)


class SeenRecipients:
    """The ``RecipientDirectory`` of a node."""

    def __init__(self, database: Database, *, enabled: bool) -> None:
        self._database = database
        self._enabled = enabled
        self._known: set[str] = set()

    async def unknown(self, names: Collection[str]) -> Collection[str]:
        """Return those of ``names`` whom nobody has seen, or none where that cannot be found out now."""
        asked = {name for name in names if name not in self._known} if self._enabled else set()
        if not asked:
            return ()
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS), self._database.reads.transaction() as tx:
                seen = set((await tx.execute(_SEEN, {"names": list(asked)})).scalars())
        except (RequestRefused, TimeoutError):
            return ()
        if len(self._known) + len(seen) > KNOWN_MAX:
            self._known.clear()
        self._known |= seen
        return asked - seen
