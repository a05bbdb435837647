"""What other roles of the database may do, beside what they are granted (``alembic/sql/grant_audit.sql``).

``AUDITOR`` may read the views of the schema ``audit``. It may also do what PUBLIC may, so PUBLIC is
left as little as the owner of the database can leave it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import text

from service.logs import get_logger

if TYPE_CHECKING:
    from service.database.engine import Database

log = get_logger(__name__)

AUDITOR = "tocsin_auditor"
REVOKE_TEMPORARY = (
    "REVOKE TEMPORARY ON DATABASE … FROM PUBLIC, and GRANT it to the service's role, as the database's owner"
)


async def revoke_from_public(database: Database) -> None:
    """Take from PUBLIC what a copied database, or a restored dump, gives it again; warn where that fails.

    Raises:
        DatabaseUnavailable: it cannot be done now.

    """
    async with database.transaction() as tx:
        if not await tx.scalar(text("SELECT revoke_from_public()")):
            log.warning("every role of the database may create temporary tables", mend=REVOKE_TEMPORARY)
