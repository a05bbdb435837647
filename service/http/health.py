"""Liveness, readiness and metrics: ``/healthz``, ``/readyz``, ``/metrics``.

The two probes take any query: some load balancers add one, and a probe that is refused takes the node
out of service.
"""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict

from service.database.engine import Database
from service.errors import DatabaseUnavailable, InvalidRequest
from service.http.openapi import refusals
from service.http.provided import provided
from service.http.query import require_no_parameters
from service.metrics import exposition

_METRICS = """\
# HELP tocsin_alerts_stored_total Alerts that were committed.
# TYPE tocsin_alerts_stored_total counter
tocsin_alerts_stored_total 4711.0
"""

router = APIRouter(tags=["operation"])


class Health(BaseModel):
    """The state of the node."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"status": "ok"}]})

    status: Literal["ok", "ready"]


@router.get("/healthz")
async def get_health() -> Health:
    """Answer 200 as long as the process serves requests."""
    return Health(status="ok")


@router.get("/readyz", responses=refusals(DatabaseUnavailable))
async def get_readiness(database: Annotated[Database, Depends(provided(Database))]) -> Health:
    """Answer 200 if an alert can be stored, and 503 with the reason while none can.

    Send no traffic here meanwhile. It is found out by writing, at most once a second.
    """
    await database.write_check.check()
    return Health(status="ready")


@router.get(
    "/metrics",
    response_class=Response,
    dependencies=[Depends(require_no_parameters)],
    responses={
        200: {
            "description": "The metrics.",
            "content": {"text/plain": {"schema": {"type": "string"}, "example": _METRICS}},
        },
        **refusals(InvalidRequest),
    },
)
async def get_metrics() -> Response:
    """Return the metrics of this node, or of all workers together, in Prometheus' text format."""
    return exposition()
