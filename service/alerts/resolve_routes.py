"""``POST /v1/alerts/resolve``: a source resolves what it posted with a dedup key."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Depends
from sqlalchemy import select

from service.alerts import schemas
from service.alerts.alert_record import UNRESOLVED
from service.alerts.commands import ResolveByDedupKey
from service.alerts.committer import Committer
from service.alerts.dedup import DedupGroups
from service.alerts.queries import any_topic
from service.alerts.queue_items import KeyResolved
from service.alerts.tables import alerts
from service.auth.authorization import AlertFacts, Operation, authorize
from service.auth.principal import Principal, Scope
from service.errors import OutcomeUnknown, Overloaded, RequestRefused, TopicForbidden, TopicReserved
from service.http.authentication import Bearer
from service.http.openapi import json_operation, refusals
from service.http.provided import provided
from service.http.queries import Reads  # noqa: TC001 - FastAPI reads the annotations
from service.http.request_body import json_body

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

router = APIRouter(prefix="/v1", tags=["alerts"])

COMMANDS_AT_ONCE = 100


@router.post(
    "/alerts/resolve",
    responses=refusals(TopicForbidden, TopicReserved, Overloaded, OutcomeUnknown),
    openapi_extra=json_operation(schemas.ResolveIn),
)
async def resolve_alerts(
    database: Reads,
    committer: Annotated[Committer, Depends(provided(Committer))],
    groups: Annotated[DedupGroups, Depends(provided(DedupGroups))],
    principal: Annotated[Principal, Depends(Bearer(Scope.ALERTS_WRITE, limit="write"))],
    asked: Annotated[schemas.ResolveIn, Depends(json_body(schemas.ResolveIn))],
) -> schemas.ResolveOut:
    """Resolve what the source, or its group, posted with a `dedup_key`, whoever it is for.

    It may be sent any number of times: where none is unresolved, nothing changes, and `resolved` is 0.
    """
    if asked.topic is not None:
        authorize(principal, Operation.POST, AlertFacts(asked.topic, principal.subject, None))
        topics: Collection[str] = [asked.topic]
    else:
        topics = await _unresolved_topics(database, principal, groups, asked.dedup_key)
    now = datetime.now(UTC)
    commands = [ResolveByDedupKey(principal, now, topic, asked.dedup_key, bearer=principal) for topic in topics]
    return schemas.ResolveOut(resolved=await _resolve(committer, commands))


async def _unresolved_topics(
    queries: Reads, principal: Principal, groups: DedupGroups, dedup_key: str
) -> Collection[str]:
    """Return the topics of the token in which the source, or its group, has an unresolved alert with a key."""
    found = select(alerts.c.topic).where(
        alerts.c.source.in_(groups.sharing(principal.subject)),
        alerts.c.dedup_key == dedup_key,
        alerts.c.status.in_(UNRESOLVED),
        any_topic(alerts.c.topic, principal.topics),
    )
    async with queries.transaction() as tx:
        return (await tx.execute(found.distinct())).scalars().all()


async def _resolve(committer: Committer, commands: Sequence[ResolveByDedupKey]) -> int:
    """Carry out ``commands``, in as many transactions as it takes, and return how many alerts were resolved.

    Raises:
        RequestRefused: one could not be carried out now; the same may be asked again.

    """
    resolved = 0
    for start in range(0, len(commands), COMMANDS_AT_ONCE):
        some = commands[start : start + COMMANDS_AT_ONCE]
        while some:
            outcomes = await committer.store_all(some)
            if refused := next((outcome for outcome in outcomes if isinstance(outcome, RequestRefused)), None):
                raise refused
            done = [outcome for outcome in outcomes if isinstance(outcome, KeyResolved)]
            resolved += sum(outcome.alerts for outcome in done)
            some = [command.following(one.read_to) for command, one in zip(some, done, strict=True) if one.read_to]
    return resolved
