"""Is the process alive, and can it do its work: ``/healthz``, ``/readyz``, ``/metrics``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter, Request
from fastapi.responses import Response
from sqlalchemy import text

from service.web.metrics import exposition

if TYPE_CHECKING:
    from service.database.engine import Database

router = APIRouter(tags=["operation"])


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """Answer 200 while the process serves requests at all."""
    return {"status": "ok"}


@router.get("/readyz")
async def readyz(request: Request) -> dict[str, str]:
    """Answer 200 while PostgreSQL answers, 503 otherwise: send traffic elsewhere meanwhile."""
    database: Database = request.app.state.database
    async with database.transaction() as tx:
        await tx.execute(text("SELECT 1"))
    return {"status": "ready"}


@router.get("/metrics", response_class=Response)
async def metrics() -> Response:
    """Return the metrics of this node, or of all workers together, in Prometheus' text format."""
    return exposition()
