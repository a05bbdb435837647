"""``GET /v1/alerts/{id}/deliveries`` and ``GET /v1/presence``."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Query
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from service.alerts.fields import AlertId
from service.auth.principal import Principal, Scope
from service.errors import NotFound
from service.http.authentication import Bearer, MayRead
from service.http.openapi import refusals
from service.http.pagination import CURSOR_MAX, cursor_parameter, decode_cursor, encode_cursor
from service.http.provided import provided
from service.http.queries import Audit, Reads
from service.ledger.queries import NO_CONNECTION, authorize_receipts, deliveries_of, present_recipients
from service.settings import StreamSettings

router = APIRouter(prefix="/v1", tags=["deliveries"])

MaySeeReceipts = Annotated[Principal, Depends(Bearer(Scope.ALERTS_MANAGE, Scope.AUDIT_READ, limit="read"))]
"""The principal of a request for the receipts of an alert; ``authorize_receipts`` says of which."""

DeliveryCursor = Annotated[str | None, cursor_parameter("delivery-cursor", CURSOR_MAX)]

_FIRST = (0, NO_CONNECTION, "")


class DeliveryOut(BaseModel):
    """An event of the alert, on its way to one connection.

    Without a connection: the recipient saw the alert, for example in a list, and was sent none of
    its events by then.
    """

    seq: int
    kind: str | None
    recipient: str
    connection: UUID | None
    node: UUID | None
    sent_at: AwareDatetime | None
    received_at: AwareDatetime | None
    latency: float | None = Field(description="seconds from sent to received")
    seen_at: AwareDatetime | None = Field(
        description="when the recipient first saw the alert, if the event had happened by then; null: not as far as is"
        " known"
    )
    replayed: bool | None = Field(
        description="sent while the connection caught up: the recipient was away when it happened; null: not sent"
    )


class DeliveryPage(BaseModel):
    """A page of deliveries, in the order of the log."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "deliveries": [
                        {
                            "seq": 4711,
                            "kind": "alert.created",
                            "recipient": "alice",
                            "connection": "01a1fd7d-0b7c-7e1a-9d43-5d8f1f1c2b3a",
                            "node": "01a1fd70-9a6e-7c55-8f0e-0a1b2c3d4e5f",
                            "sent_at": "2026-11-21T09:41:07.125012Z",
                            "received_at": "2026-11-21T09:41:07.142345Z",
                            "latency": 0.017333,
                            "seen_at": "2026-11-21T09:41:09.204711Z",
                            "replayed": False,
                        }
                    ],
                    "next": "W1s0NzExLCIwMWExZmQ3ZC0wYjdjLTdlMWEtOWQ0My01ZDhmMWYxYzJiM2EiLCJhbGljZSJdXQ",
                }
            ]
        }
    )

    deliveries: list[DeliveryOut]
    next: str | None = Field(description="send it as `cursor` for the next page; null: this was the last")


class PresentOut(BaseModel):
    """An admin who is connected."""

    recipient: str
    connections: int
    since: AwareDatetime
    name: str | None = Field(None, description="what the admin is shown by; absent: no token of theirs says it")


class PresenceOut(BaseModel):
    """Who is connected now, to any node."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "present": [
                        {
                            "recipient": "7d3c5a10-2f0e-4b1c-9a54-1b7f6c0d9e21",
                            "connections": 2,
                            "since": "2026-11-21T08:58:01.000123Z",
                            "name": "Alice Liddell",
                        }
                    ]
                }
            ]
        }
    )

    present: list[PresentOut]


@router.get("/alerts/{alert_id:uuid}/deliveries", responses=refusals(NotFound))
async def get_deliveries(
    database: Audit,
    principal: MaySeeReceipts,
    alert_id: AlertId,
    cursor: DeliveryCursor = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="how many at most")] = 200,
) -> DeliveryPage:
    """List who was sent the alert, who received it and who saw it.

    With `alerts:manage` alone, only of an alert that is for the bearer.
    """
    [after] = decode_cursor(cursor, (int, UUID, str))
    async with database.transaction(snapshot=True) as tx:
        await authorize_receipts(tx, principal, alert_id)
        rows = await deliveries_of(tx, alert_id, after or _FIRST, limit + 1)
    page = [DeliveryOut(**row) for row in rows[:limit]]
    last = page[-1] if len(rows) > limit else None
    more = (last.seq, last.connection or NO_CONNECTION, last.recipient) if last is not None else None
    return DeliveryPage(deliveries=page, next=encode_cursor(more))


@router.get("/presence", response_model_exclude_none=True)
async def get_presence(
    database: Reads,
    stream: Annotated[StreamSettings, Depends(provided(StreamSettings))],
    principal: MayRead,  # noqa: ARG001 - asked for its scope
) -> PresenceOut:
    """List the admins who are connected."""
    async with database.transaction() as tx:
        rows = await present_recipients(tx, stream.presence_max)
    return PresenceOut(
        present=[
            PresentOut(recipient=row.recipient, connections=row.connections, since=row.since, name=row.name)
            for row in rows
        ]
    )
