"""Administration: ``/v1/revocations``, and ``DELETE /v1/connections/{id}`` on any node."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Query, Response
from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    model_validator,
)

from service.admin.revoker import Revoked, Revoker
from service.alerts.fields import Name, Time
from service.auth.principal import Principal, Scope
from service.auth.revocations import NEVER, Revocation, Target, revocations_before, revoke
from service.database.engine import Database
from service.errors import InvalidRequest, NotFound, OutcomeUnknown, Overloaded
from service.http.authentication import Bearer
from service.http.openapi import json_operation, refusals
from service.http.pagination import BIGINT_MAX, Cursor, decode_cursor, encode_cursor
from service.http.provided import provided
from service.http.request_body import json_body
from service.ledger.queries import is_open
from service.settings import AuthSettings
from service.stream.hub import Hub

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

router = APIRouter(prefix="/v1", tags=["administration"])

Admin = Annotated[Principal, Depends(Bearer(Scope.ADMIN, limit="read"))]
ProvidedDatabase = Annotated[Database, Depends(provided(Database))]
ProvidedSettings = Annotated[AuthSettings, Depends(provided(AuthSettings))]

BODY_MAX_BYTES = 16 * 1024

UNCONFIRMED = Field(
    None,
    description="absent: every node has confirmed that it is in effect. Otherwise the nodes that have not in time,"
    " such as a frozen one: each refuses every token until it has read it; null: PostgreSQL did not answer",
)


def unconfirmed_in(revoked: Revoked[Any]) -> dict[str, Any]:
    """Return the member ``unconfirmed`` of an answer, if there is one."""
    return {"unconfirmed": revoked.unconfirmed} if revoked.unconfirmed != [] else {}


class RevocationIn(BaseModel):
    """What to revoke: one token by its ``jti``, or a subject's tokens issued before a time."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"subject": "ann", "reason": "the laptop was stolen"}]},
    )

    jti: Name | None = Field(None, description="the `jti` of one token")
    subject: Name | None = Field(None, description="the `sub` whose tokens are revoked")
    before: Time | None = Field(None, description="with `subject`: issued (`iat`) before this; default: now")
    reason: Name | None = Field(None, description="why, in one line")

    @model_validator(mode="after")
    def _one_target(self) -> RevocationIn:
        if (self.jti is None) == (self.subject is None):
            raise ValueError("give a jti or a subject, not both")
        if self.before is not None and self.subject is None:
            raise ValueError("before goes with a subject")
        return self


# All of it is there: FastAPI drops what is null in an example.
_REVOCATION: dict[str, JsonValue] = {
    "id": 17,
    "jti": "4f6d0c52",
    "subject": "ann",
    "before": "2026-11-21T09:41:07.123456Z",
    "connection": "01a1fd87-65c3-71a6-ba06-3929d3197295",
    "deactivated": True,
    "reason": "the laptop was stolen",
    "revoked_by": "root",
    "revoked_at": "2026-11-21T09:41:07.123456Z",
    "expires_at": "2027-11-21T09:41:07.123456Z",
}


class RevocationOut(BaseModel):
    """A revocation that is in force."""

    model_config = ConfigDict(json_schema_extra={"examples": [_REVOCATION]})

    id: int
    jti: str | None
    subject: str | None
    before: AwareDatetime | None
    connection: UUID | None = Field(description="a stream that was closed by `DELETE /v1/connections/{id}`")
    deactivated: bool | None = Field(description="whether the subject was deactivated, or reactivated; null: neither")
    reason: str | None
    revoked_by: str
    revoked_at: AwareDatetime
    expires_at: AwareDatetime | None = Field(
        description="every token that it covers has expired by then; null: not before a reactivation"
    )

    @classmethod
    def of(cls, revocation: Revocation) -> RevocationOut:
        """Show a stored revocation."""
        return cls(
            id=revocation.id,
            jti=revocation.jti,
            subject=revocation.subject,
            before=revocation.issued_before,
            connection=revocation.connection_id,
            deactivated=revocation.deactivated,
            reason=revocation.reason,
            revoked_by=revocation.revoked_by,
            revoked_at=revocation.revoked_at,
            expires_at=revocation.expires_at if revocation.expires_at < NEVER else None,
        )


class RevokedOut(RevocationOut):
    """A revocation that is in effect."""

    model_config = ConfigDict(json_schema_extra={"examples": [_REVOCATION]})

    unconfirmed: list[UUID] | None = UNCONFIRMED


class RevocationPage(BaseModel):
    """A page of revocations, newest first."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"revocations": [_REVOCATION], "next": "W1sxN11d"}]})

    revocations: list[RevocationOut]
    next: str | None = Field(description="send it as `cursor` for the next page; null: this was the last")


@router.post(
    "/revocations",
    status_code=201,
    response_model_exclude_unset=True,
    responses={
        200: {"model": RevokedOut, "description": "It was in force already."},
        **refusals(Overloaded, OutcomeUnknown),
    },
    openapi_extra=json_operation(RevocationIn),
)
async def post_revocation(
    response: Response,
    revoker: Annotated[Revoker, Depends(provided(Revoker))],
    settings: ProvidedSettings,
    principal: Admin,
    requested: Annotated[RevocationIn, Depends(json_body(RevocationIn, max_bytes=BODY_MAX_BYTES))],
) -> RevokedOut:
    """Revoke tokens: once it is answered, every node refuses them, and closes their streams within a second."""
    latest = time.time() + settings.jwt_leeway_seconds
    if requested.before is not None and not 0 <= requested.before.timestamp() <= latest:
        raise InvalidRequest("/before: no token has been issued before 1970, nor in the future.")
    target = Target(jti=requested.jti, subject=requested.subject, issued_before=requested.before)
    reason = requested.reason
    revoked = await revoker.revoke(
        lambda tx: revoke(tx, target, by=principal.subject, reason=reason, settings=settings), bearer=principal
    )
    if not revoked.is_new:
        response.status_code = 200
    return RevokedOut(**dict(RevocationOut.of(revoked.revocation)), **unconfirmed_in(revoked))


@router.get("/revocations")
async def get_revocations(
    database: ProvidedDatabase,
    principal: Admin,  # noqa: ARG001 - asked for its scope
    cursor: Cursor = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="how many at most")] = 200,
) -> RevocationPage:
    """List what is revoked, newest first: by whom, when and why."""
    [before] = decode_cursor(cursor, (int,))
    async with database.transaction() as tx:
        rows = await revocations_before(tx, before[0] if before else BIGINT_MAX, limit + 1)
    page = [RevocationOut.of(row) for row in rows[:limit]]
    return RevocationPage(revocations=page, next=encode_cursor((page[-1].id,) if len(rows) > limit else None))


@router.delete(
    "/connections/{connection_id:uuid}",
    status_code=204,
    response_class=Response,
    responses=refusals(NotFound, OutcomeUnknown),
)
async def delete_connection(
    revoker: Annotated[Revoker, Depends(provided(Revoker))],
    settings: ProvidedSettings,
    hub: Annotated[Hub, Depends(provided(Hub))],
    principal: Admin,
    connection_id: Annotated[UUID, Path(description="the `connection` of its `welcome` frame")],
) -> Response:
    """Close a stream with 1008 ``kicked``, on whichever node holds it. Its token stays good."""

    async def close(tx: AsyncConnection) -> tuple[Revocation, bool]:
        if not hub.holds(connection_id) and not await is_open(tx, connection_id):
            raise NotFound(f"There is no open connection {connection_id}.")
        target = Target(connection_id=connection_id)
        return await revoke(tx, target, by=principal.subject, reason=None, settings=settings)

    await revoker.revoke(close, bearer=principal)
    return Response(status_code=204)
