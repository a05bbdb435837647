"""``/v1/recipients``: who receives alerts, and how somebody leaves and comes back."""

from __future__ import annotations

import asyncio
import math
import time
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Query
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue

from service.admin.recipients import is_known, recipients_after
from service.admin.revoker import Revoked, Revoker
from service.admin.routes import BODY_MAX_BYTES, UNCONFIRMED, Admin, ProvidedDatabase, ProvidedSettings, unconfirmed_in
from service.alerts.fields import Name
from service.auth.revocations import Revocation, set_deactivated
from service.errors import NotFound, OutcomeUnknown, Overloaded
from service.http.openapi import json_operation, refusals
from service.http.pagination import CURSOR_MAX, cursor_parameter, decode_cursor, encode_cursor
from service.http.provided import provided
from service.http.request_body import json_body

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

router = APIRouter(prefix="/v1/recipients", tags=["administration"])

ProvidedRevoker = Annotated[Revoker, Depends(provided(Revoker))]
RecipientId = Annotated[
    Name,
    Path(alias="id", description="the subject of their tokens, URL-encoded, slashes too", examples=["alice"]),
]

_DEACTIVATED: dict[str, JsonValue] = {
    "deactivated_at": "2026-11-21T09:41:07.123456Z",
    "deactivated_by": "root",
    "reason": "left the company",
}
_RECIPIENT: dict[str, JsonValue] = {
    "id": "alice",
    "topics": ["payments.*"],
    "first_seen_at": "2026-10-01T08:00:00.000000Z",
    "last_seen_at": "2026-11-20T17:03:11.904113Z",
    **_DEACTIVATED,
}


class DeactivationIn(BaseModel):
    """Why somebody is deactivated."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"reason": "left the company"}]})

    reason: Name | None = Field(None, description="why, in one line")
    unknown: bool = Field(
        False,
        description="also a name that left no trace here: it never opened a stream nor posted, and no alert names it",
    )


class ReactivationIn(BaseModel):
    """Why somebody is reactivated."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"reason": "is back"}]})

    reason: Name | None = Field(None, description="why, in one line")


class ActivationOut(BaseModel):
    """Whether a recipient is deactivated, since when, by whom and why."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"id": "alice", **_DEACTIVATED}]})

    id: str
    deactivated_at: AwareDatetime | None = Field(description="null: the recipient is active")
    deactivated_by: str | None
    reason: str | None
    unconfirmed: list[UUID] | None = UNCONFIRMED


class RecipientOut(BaseModel):
    """A recipient of alerts."""

    model_config = ConfigDict(json_schema_extra={"examples": [_RECIPIENT]})

    id: str
    topics: list[str] | None = Field(description="what the last token covered; null: never connected")
    first_seen_at: AwareDatetime | None
    last_seen_at: AwareDatetime | None
    deactivated_at: AwareDatetime | None = Field(description="null: the recipient is active")
    deactivated_by: str | None
    reason: str | None = Field(description="the reason that was given for the deactivation")


class RecipientPage(BaseModel):
    """A page of recipients, by id."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"recipients": [_RECIPIENT], "next": "W1siYWxpY2UiXV0"}]})

    recipients: list[RecipientOut]
    next: str | None = Field(description="send it as `cursor` for the next page; null: this was the last")


@router.get("")
async def get_recipients(
    database: ProvidedDatabase,
    principal: Admin,  # noqa: ARG001 - asked for its scope
    deactivated: Annotated[bool | None, Query(description="only those who are, or who are not")] = None,
    cursor: Annotated[str | None, cursor_parameter("recipient-list-cursor", CURSOR_MAX)] = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="how many at most")] = 200,
) -> RecipientPage:
    """List everybody who ever opened a stream or is deactivated, by id."""
    [after] = decode_cursor(cursor, (str,))
    async with database.transaction() as tx:
        rows, has_more = await recipients_after(tx, after[0] if after else "", limit, deactivated=deactivated)
    page = [RecipientOut.model_validate(row, from_attributes=True) for row in rows]
    return RecipientPage(recipients=page, next=encode_cursor((page[-1].id,) if has_more else None))


@router.post(
    "/{id:path}/deactivate",
    response_model_exclude_unset=True,
    responses=refusals(NotFound, Overloaded, OutcomeUnknown),
    openapi_extra=json_operation(DeactivationIn, required=False),
)
async def deactivate_recipient(
    revoker: ProvidedRevoker,
    settings: ProvidedSettings,
    principal: Admin,
    recipient: RecipientId,
    asked: Annotated[DeactivationIn, Depends(json_body(DeactivationIn, max_bytes=BODY_MAX_BYTES, optional=True))],
) -> ActivationOut:
    """Deactivate a recipient who leaves.

    Once it is answered, no node accepts a token of theirs, whenever it was or will be issued; their
    streams are closed with 1008 `token_revoked`, and no unreceived alert is reported for them. What
    they were sent, received and did stays as it was. Who is deactivated already is answered with
    when, by whom and why.
    """

    async def store(tx: AsyncConnection) -> tuple[Revocation | None, bool]:
        if not asked.unknown and not await is_known(tx, recipient):
            raise _unknown(recipient, '; to deactivate the name all the same, send {"unknown": true}')
        return await set_deactivated(
            tx, recipient, deactivated=True, by=principal.subject, reason=asked.reason, settings=settings
        )

    revoked = await revoker.revoke(store, bearer=principal)
    return _activation(recipient, revoked)


@router.post(
    "/{id:path}/reactivate",
    response_model_exclude_unset=True,
    responses=refusals(NotFound, Overloaded, OutcomeUnknown),
    openapi_extra=json_operation(ReactivationIn, required=False),
)
async def reactivate_recipient(
    revoker: ProvidedRevoker,
    settings: ProvidedSettings,
    principal: Admin,
    recipient: RecipientId,
    asked: Annotated[ReactivationIn, Depends(json_body(ReactivationIn, max_bytes=BODY_MAX_BYTES, optional=True))],
) -> ActivationOut:
    """Reactivate a recipient: tokens that are issued from now on are accepted, earlier ones stay revoked.

    What they have not received is reported again. Who is not deactivated stays as they are.
    """

    async def store(tx: AsyncConnection) -> tuple[Revocation | None, bool]:
        if not await is_known(tx, recipient):
            raise _unknown(recipient)
        return await set_deactivated(
            tx, recipient, deactivated=False, by=principal.subject, reason=asked.reason, settings=settings
        )

    revoked = await revoker.revoke(store, bearer=principal)
    if revoked.revocation is not None and (issued_before := revoked.revocation.issued_before) is not None:
        # In the second of the deactivation, a fresh token with an iat in whole seconds would be refused as an old one.
        await asyncio.sleep(max(0.0, math.ceil(issued_before.timestamp()) - time.time()))
    return _activation(recipient, revoked)


def _unknown(recipient: str, advice: str = "") -> NotFound:
    return NotFound(
        f"There is no recipient {recipient!r}: nobody of that name opened a stream or posted, and no alert names"
        f" them{advice}."
    )


def _activation(recipient: str, revoked: Revoked[Revocation | None]) -> ActivationOut:
    last = revoked.revocation
    if last is None or not last.deactivated:
        state: dict[str, Any] = {"deactivated_at": None, "deactivated_by": None, "reason": None}
    else:
        state = {"deactivated_at": last.revoked_at, "deactivated_by": last.revoked_by, "reason": last.reason}
    return ActivationOut(id=recipient, **state, **unconfirmed_in(revoked))
