"""``GET /v1/me``, who the bearer is here, and ``GET /v1/names``, what subjects are shown by.

A name is taken from a token and kept beside its subject in one table, and nowhere else: not in the
log, in the ledger or in an alert, so that it can be corrected and deleted. Whoever shows subjects
asks for their names.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from service.alerts.fields import Name  # noqa: TC001 - FastAPI evaluates the annotations of a route
from service.auth.principal import Principal, Scope
from service.http.authentication import Bearer, MayRead
from service.http.queries import Reads  # noqa: TC001 - as above
from service.ledger.queries import names_of

router = APIRouter(prefix="/v1", tags=["deliveries"])

SUBJECTS_MAX = 100

Anybody = Annotated[Principal, Depends(Bearer(*Scope, limit="read"))]


class MeOut(BaseModel):
    """The bearer of the token, as its issuer's settings read it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "subject": "7d3c5a10-2f0e-4b1c-9a54-1b7f6c0d9e21",
                    "name": "Alice Liddell",
                    "scopes": ["alerts:manage", "alerts:read"],
                    "topics": ["payments.*"],
                    "expires_at": "2026-11-21T10:43:48.166565Z",
                }
            ]
        }
    )

    subject: str
    name: str | None = Field(description="what the subject is shown by; null: the token does not say it")
    scopes: list[str] = Field(description="what the token grants; a scope that is not known here allows nothing")
    topics: list[str]
    expires_at: AwareDatetime


class NamesOut(BaseModel):
    """The names of subjects."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"names": {"7d3c5a10-2f0e-4b1c-9a54-1b7f6c0d9e21": "Alice Liddell"}}]}
    )

    names: dict[str, str] = Field(description="by subject; without those that no token named")


@router.get("/me")
async def get_me(principal: Anybody) -> MeOut:
    """Say who the bearer is, and what the token allows."""
    return MeOut(
        subject=principal.subject,
        name=principal.name,
        scopes=sorted(principal.scopes),
        topics=list(principal.topics),
        expires_at=datetime.fromtimestamp(principal.expires_at, UTC),
    )


@router.get("/names")
async def get_names(
    queries: Reads,
    principal: MayRead,  # noqa: ARG001 - asked for its scope
    subject: Annotated[list[Name], Query(min_length=1, max_length=SUBJECTS_MAX, description="whose; repeat it")],
) -> NamesOut:
    """Say what subjects are shown by: sources, recipients and actors, as alerts and events name them.

    A name comes from a token, so its bearer may have chosen it: it decides nothing, and two subjects
    may have the same.
    """
    async with queries.transaction() as tx:
        return NamesOut(names=await names_of(tx, subject))
