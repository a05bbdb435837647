"""``GET /v1/alerts/{id}/receipts``: the recipients of an alert, for whoever may manage or audit it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter

from service.alerts.fields import AlertId  # noqa: TC001 - FastAPI reads the annotations
from service.audit import queries, schemas
from service.audit.queries import PageRequest
from service.audit.routes import Limit  # noqa: TC001 - as above
from service.errors import NotFound
from service.http.openapi import refusals
from service.http.pagination import CURSOR_MAX, cursor_parameter, decode_cursor, encode_cursor
from service.http.queries import Audit  # noqa: TC001 - as above
from service.ledger.queries import authorize_receipts
from service.ledger.routes import MaySeeReceipts  # noqa: TC001 - as above

router = APIRouter(prefix="/v1", tags=["deliveries"])


@router.get("/alerts/{alert_id:uuid}/receipts", responses=refusals(NotFound))
async def get_receipts(
    database: Audit,
    principal: MaySeeReceipts,
    alert_id: AlertId,
    cursor: Annotated[str | None, cursor_parameter("receipt-cursor", CURSOR_MAX)] = None,
    limit: Limit = 200,
) -> schemas.AlertReceipts:
    """List each recipient of the alert, with what they were sent, received and saw of it.

    With `alerts:manage` alone, only of an alert that is for the bearer.
    """
    [after] = decode_cursor(cursor, queries.RECIPIENTS_KEYSET)
    async with database.transaction(snapshot=True) as tx:
        await authorize_receipts(tx, principal, alert_id)
        counts = await queries.recipient_counts(tx, alert_id)
        recipients, more = await queries.alert_recipients(tx, alert_id, PageRequest(limit, after))
    return schemas.AlertReceipts.model_validate(
        {"counts": counts, "recipients": recipients, "next": encode_cursor(more)}
    )
